//! Who has which data frame, and what is in it.
//!
//! A data frame is in exactly one hand: a thread has it, as a [`Frame`] or a [`Used`], which cannot be
//! copied, or the table has it. What it contains is a word that says for which page it was mapped; an
//! MMU that reaches it reads the word, as a guest reads its memory.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::{collections::BTreeSet, vec::Vec};

use slat::{Gpa, HostPfn};

/// The first data frame: none of the frames that tables are made of.
const FIRST: u64 = 0x100_0000;

/// A frame that nothing reaches, in the hand of whoever has this.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame(u64);

/// A frame that was mapped: translation caches may still reach it.
#[derive(Debug)]
pub(crate) struct Used(u64);

#[derive(Debug)]
struct Page {
    holder: AtomicU64,
    contents: AtomicU64,
}

/// Values of `Page::holder`.
const A_THREAD: u64 = 0;
const THE_TABLE: u64 = 1;

/// The contents of a frame that was recycled.
const BLANK: u64 = 0;

/// All data frames.
#[derive(Debug)]
pub(crate) struct Ledger {
    pages: Vec<Page>,
    free: Mutex<BTreeSet<Frame>>,
}

impl Ledger {
    pub(crate) fn new(frames: u64) -> Self {
        let page = |_| Page { holder: AtomicU64::new(A_THREAD), contents: AtomicU64::new(BLANK) };
        let free = (0..frames).map(Frame).collect();
        Self { pages: (0..frames).map(page).collect(), free: Mutex::new(free) }
    }

    /// Takes a free frame.
    pub(crate) fn take(&self) -> Option<Frame> {
        self.free.lock().unwrap().pop_last()
    }

    /// Takes consecutive frames, as many as asked for, if there are.
    pub(crate) fn take_run(&self, count: u64) -> Option<Vec<Frame>> {
        let mut free = self.free.lock().unwrap();
        let mut run = 0..0;
        for &Frame(index) in free.iter() {
            run = if index == run.end { run.start..index + 1 } else { index..index + 1 };
            if run.end - run.start == count {
                let taken = run.map(|index| free.take(&Frame(index)).unwrap());
                return Some(taken.collect());
            }
        }
        None
    }

    pub(crate) fn put(&self, frames: impl IntoIterator<Item = Frame>) {
        self.free.lock().unwrap().extend(frames);
    }

    pub(crate) fn free(&self) -> usize {
        self.free.lock().unwrap().len()
    }

    /// Hands a frame to the table, which shall map it at `gpa`: before the map, since another may unmap
    /// it before that returns.
    #[expect(clippy::needless_pass_by_value, reason = "the frame changes hands")]
    pub(crate) fn lend(&self, frame: Frame, gpa: Gpa) -> HostPfn {
        let page = &self.pages[frame.0 as usize];
        // Relaxed, here and below: it is the table that has to order what comes with a mapping.
        page.contents.store(contents_of(gpa), Ordering::Relaxed);
        let holder = page.holder.swap(THE_TABLE, Ordering::Relaxed);
        assert_eq!(holder, A_THREAD, "{frame:?} is in two hands");
        HostPfn::new(FIRST + frame.0)
    }

    /// Takes a frame that was not mapped, and never was, back from the table.
    pub(crate) fn refused(&self, pfn: HostPfn) -> Frame {
        Frame(self.returned(pfn))
    }

    /// Takes a frame back that somebody is told was unmapped. Invariants 1 and 5: it was mapped, and
    /// nobody else is told.
    pub(crate) fn unmapped(&self, pfn: HostPfn) -> Used {
        Used(self.returned(pfn))
    }

    fn returned(&self, pfn: HostPfn) -> u64 {
        let holder = self.page(pfn).holder.swap(A_THREAD, Ordering::Relaxed);
        assert_eq!(holder, THE_TABLE, "{pfn} comes back twice, or was never mapped");
        pfn.get() - FIRST
    }

    /// Uses frames for something else: nobody reaches them any more.
    pub(crate) fn recycle(&self, used: impl IntoIterator<Item = Used>) {
        let blank = |Used(index)| {
            self.pages[index as usize].contents.store(BLANK, Ordering::Relaxed);
            Frame(index)
        };
        self.put(used.into_iter().map(blank));
    }

    /// Reads the memory of `pfn` through the page of `gpa`. Invariants 3 and 8: it is what was mapped
    /// there, and neither a table's frame nor one that was recycled.
    pub(crate) fn read(&self, pfn: HostPfn, gpa: Gpa) {
        let contents = self.page(pfn).contents.load(Ordering::Relaxed);
        assert_eq!(contents, contents_of(gpa), "{gpa} reaches {pfn}, which was recycled");
    }

    /// Checks, when all is over, that every frame is free.
    pub(crate) fn close(&self) {
        assert_eq!(self.free(), self.pages.len(), "frames are lost");
        let held = |page: &Page| page.holder.load(Ordering::Relaxed) == A_THREAD;
        assert!(self.pages.iter().all(held));
    }

    fn page(&self, pfn: HostPfn) -> &Page {
        let index = pfn.get().checked_sub(FIRST).map(|index| index as usize);
        let page = index.and_then(|index| self.pages.get(index));
        // Invariant 3: what a freed table is poisoned with names no frame of these.
        page.unwrap_or_else(|| panic!("{pfn} is no data frame"))
    }
}

fn contents_of(gpa: Gpa) -> u64 {
    gpa.get() | 1
}
