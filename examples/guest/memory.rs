//! The host's side of guest memory: frames with real contents, handed out to whoever faults.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    iter,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use slat::{HostPfn, PAGE_BYTES};

/// Words of 64 bits in a page.
pub(crate) const WORDS: usize = PAGE_BYTES as usize / 8;

/// The number of the first frame: far from those of the tables, so that one taken for the other
/// shows at once.
const BASE: u64 = 1 << 32;

/// What lies in one frame. Guests share memory without asking each other, so its words are atomic.
#[derive(Debug)]
pub(crate) struct Page(Box<[AtomicU64]>);

impl Page {
    fn zeroed() -> Self {
        Self(iter::repeat_with(AtomicU64::default).take(WORDS).collect())
    }

    pub(crate) fn load(&self, word: usize) -> u64 {
        // Relaxed, here and below: a word is all that guests share, and its sum all they agree on.
        self.0[word].load(Ordering::Relaxed)
    }

    /// Adds to a word, so that concurrent writes are all there in the end.
    pub(crate) fn add(&self, word: usize, amount: u64) {
        self.0[word].fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the sum of all words: what was ever added to the page.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|word| word.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// A fixed number of frames. Memory is spent on those that were handed out.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    frames: Box<[OnceLock<Page>]>,
    next: AtomicU64,
}

impl GuestMemory {
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            frames: iter::repeat_with(OnceLock::new).take(frames).collect(),
            next: AtomicU64::new(0),
        }
    }

    /// Hands out a zeroed frame, or `None` if there is none left. Takes no lock.
    ///
    /// There is no way to give one back: a vCPU that turns out not to need its frame keeps it for its
    /// next fault.
    pub(crate) fn allocate(&self) -> Option<HostPfn> {
        // Relaxed: the number alone matters, and no two vCPUs get the same.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = self.frames.get(number as usize)?;
        frame.get_or_init(Page::zeroed);
        Some(HostPfn::new(BASE + number))
    }

    /// Returns the contents of a frame, or `None` if it was never handed out.
    pub(crate) fn page(&self, pfn: HostPfn) -> Option<&Page> {
        let number = pfn.get().checked_sub(BASE)?;
        self.frames.get(number as usize)?.get()
    }

    /// Returns how many frames were handed out.
    pub(crate) fn allocated(&self) -> u64 {
        self.frames.iter().filter(|frame| frame.get().is_some()).count() as u64
    }
}
