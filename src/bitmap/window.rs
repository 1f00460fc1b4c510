//! A part of a bitmap that can be written.

use core::fmt;
#[cfg(any(feature = "rayon", all(test, not(any(loom, shuttle)))))]
use core::iter;

use super::{WORD_PAGES, low_bits, words_of};
use crate::addr::GpaRange;

/// The words of a part of a bitmap, and the pages that they stand for.
pub(crate) struct Window<'b> {
    range: GpaRange,
    words: &'b mut [u64],
}

impl<'b> Window<'b> {
    #[inline]
    pub(super) fn new(range: GpaRange, words: &'b mut [u64]) -> Self {
        debug_assert_eq!(words.len() as u64, range.pages().div_ceil(WORD_PAGES));
        Self { range, words }
    }

    /// Returns the pages that it has bits for.
    #[cfg(any(feature = "rayon", all(test, not(any(loom, shuttle)))))]
    #[inline]
    pub(crate) fn range(&self) -> GpaRange {
        self.range
    }

    /// Sets the bits of the pages from `page` on that are set in `mask`, all of which it has.
    #[inline]
    pub(crate) fn set_mask(&mut self, page: u64, mask: u64) {
        debug_assert!(self.range.first_page() <= page);
        debug_assert!(mask == 0 || page + u64::from(mask.ilog2()) < self.range.end_page());
        let offset = page - self.range.first_page();
        let (index, shift) = ((offset / WORD_PAGES) as usize, (offset % WORD_PAGES) as u32);
        self.words[index] |= mask << shift;
        // What is past the last word is clear.
        if let Some(next) = self.words.get_mut(index + 1) {
            *next |= mask.checked_shr(u64::BITS - shift).unwrap_or(0);
        }
    }

    /// Sets the bits of all `pages`, which it has.
    pub(crate) fn set(&mut self, pages: GpaRange) {
        for (page, count) in words_of(pages) {
            self.set_mask(page, low_bits(count));
        }
    }

    /// Takes the words that have bits for `pages`, which it has.
    #[cfg(any(feature = "rayon", all(test, not(any(loom, shuttle)))))]
    pub(crate) fn part(self, pages: GpaRange) -> Self {
        let Self { range, words } = self;
        let word = |page| ((page - range.first_page()) / WORD_PAGES) as usize;
        let (first, last) = (word(pages.first_page()), word(pages.end_page() - 1));
        let start = range.first_page() + first as u64 * WORD_PAGES;
        let end = range.end_page().min(range.first_page() + (last as u64 + 1) * WORD_PAGES);
        Self::new(GpaRange::between(start, end), &mut words[first..=last])
    }

    /// Cuts it into windows of so many `words`, the last of which may be shorter.
    #[cfg(any(feature = "rayon", all(test, not(any(loom, shuttle)))))]
    pub(crate) fn split(self, words: usize) -> impl Iterator<Item = Window<'b>> {
        let end = self.range.end_page();
        let mut first = self.range.first_page();
        let mut pieces = self.words.chunks_mut(words);
        iter::from_fn(move || {
            let words = pieces.next()?;
            let next = end.min(first + words.len() as u64 * WORD_PAGES);
            let window = Window::new(GpaRange::between(first, next), words);
            first = next;
            Some(window)
        })
    }
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("range", &self.range).finish_non_exhaustive()
    }
}
