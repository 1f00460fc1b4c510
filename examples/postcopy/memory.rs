//! Memory on either side, with real contents, one word at a time.
//!
//! vCPUs share the destination's with each other, and with who writes a page before it is supplied; so its words
//! are atomic. The source's is written once, and then only read.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering},
};

use slat::{HostPfn, PAGE_BYTES};

use crate::content::{Content, WORDS};

/// The frame number of the destination's first page; tables have others.
pub(crate) const FIRST: HostPfn = HostPfn::new(1 << 24);

/// A page as it is on the wire: its words, the lowest byte of each first.
pub(crate) type PageBytes = [u8; PAGE_BYTES as usize];

/// The memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory for {pages} pages")]
pub(crate) struct NoMemory {
    pub(crate) pages: u64,
}

/// Consecutive pages.
#[derive(Debug)]
pub(crate) struct Memory {
    words: Vec<AtomicU64>,
}

impl Memory {
    /// Makes memory that is zero: the destination's, before anything has come.
    pub(crate) fn empty(pages: u64) -> Result<Self, NoMemory> {
        Self::of(pages, iter::repeat(0))
    }

    /// Makes the source's.
    pub(crate) fn filled(pages: u64, content: Content) -> Result<Self, NoMemory> {
        let place = (0..pages).flat_map(|page| (0..WORDS).map(move |word| (page, word)));
        Self::of(pages, place.map(|(page, word)| content.word(page, word)))
    }

    fn of(pages: u64, words: impl Iterator<Item = u64>) -> Result<Self, NoMemory> {
        let no_memory = NoMemory { pages };
        let count = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(WORDS));
        let count = count.ok_or(no_memory)?;
        let mut all = Vec::new();
        all.try_reserve_exact(count).map_err(|_| no_memory)?;
        all.extend(words.take(count).map(AtomicU64::new));
        Ok(Self { words: all })
    }

    /// Returns a page by its number, or `None` if there are not so many.
    pub(crate) fn page(&self, number: u64) -> Option<Page<'_>> {
        let first = usize::try_from(number).ok()?.checked_mul(WORDS)?;
        self.words.get(first..first.checked_add(WORDS)?).map(Page)
    }

    /// Returns the page in a frame, or `None` if it is no frame of this memory.
    pub(crate) fn frame(&self, pfn: HostPfn) -> Option<Page<'_>> {
        self.page(pfn.get().checked_sub(FIRST.get())?)
    }
}

/// One page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'m>(&'m [AtomicU64]);

// Relaxed in all of this: that what was written into a frame is there for whoever finds the page mapped is the
// library's promise (`Supplier::supply`).
impl Page<'_> {
    pub(crate) fn load(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    /// Adds 1 to a word; returns what it was.
    pub(crate) fn increment(self, word: usize) -> u64 {
        self.0[word].fetch_add(1, Ordering::Relaxed)
    }

    /// Puts the page on the wire.
    pub(crate) fn read(self, bytes: &mut PageBytes) {
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *to = word.load(Ordering::Relaxed).to_le_bytes();
        }
    }

    /// Takes the page from the wire.
    pub(crate) fn write(self, bytes: &PageBytes) {
        for (word, from) in self.0.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_same_on_the_other_side_of_the_wire() {
        let content = Content::new(3);
        let (source, destination) =
            (Memory::filled(3, content).unwrap(), Memory::empty(3).unwrap());
        let mut bytes = [0; PAGE_BYTES as usize];
        source.page(2).unwrap().read(&mut bytes);
        assert_eq!(bytes[8..16], content.word(2, 1).to_le_bytes());
        let frame = destination.frame(HostPfn::new(FIRST.get() + 2)).unwrap();
        frame.write(&bytes);
        assert!((0..WORDS).all(|word| frame.load(word) == content.word(2, word)));
        assert_eq!(frame.increment(5), content.word(2, 5));
        assert_eq!(destination.page(2).unwrap().load(5), content.word(2, 5).wrapping_add(1));
        assert_eq!(destination.page(1).unwrap().load(0), 0);
    }

    #[test]
    fn there_is_nothing_beyond_the_end() {
        let memory = Memory::empty(2).unwrap();
        assert!(memory.page(2).is_none() && memory.page(u64::MAX).is_none());
        assert!(memory.frame(HostPfn::new(FIRST.get() - 1)).is_none());
        assert!(memory.frame(HostPfn::new(FIRST.get() + 2)).is_none());
        let pages = u64::MAX / PAGE_BYTES;
        assert_eq!(Memory::empty(pages).unwrap_err(), NoMemory { pages });
    }
}
