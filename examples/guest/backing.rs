//! What the regions of guest memory are made of: frames that are filled when a page is first needed.
//!
//! Page `n` of the backing is what the guest has at its page `n`, so one backing serves all regions, each from
//! where it begins. When a region goes its pages come back, and their stays have ended.

use std::sync::Arc;

use slat::{
    Answer, Backing, BackingError, Gpa, GpaRange, HostPfn, PAGE_BYTES, PageSize, Prot, Released,
    Want,
};

use crate::memory::GuestMemory;

/// All pages that there can be.
pub(crate) const PAGES: u64 = u64::MAX / PAGE_BYTES + 1;

/// No frame is left.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no frame is left for {0}")]
pub(crate) struct OutOfFrames(pub(crate) Gpa);

/// Memory that comes when it is needed, and whose contents end when it goes.
#[derive(Debug)]
pub(crate) struct Fresh {
    memory: Arc<GuestMemory>,
    granule: PageSize,
}

impl Fresh {
    pub(crate) const fn new(memory: Arc<GuestMemory>, granule: PageSize) -> Self {
        Self { memory, granule }
    }
}

impl Backing for Fresh {
    fn pages(&self) -> u64 {
        PAGES
    }

    fn largest(&self, _page: u64, _gpa: Gpa) -> PageSize {
        self.granule
    }

    fn frame(&self, want: &Want) -> Answer {
        // It lacks a right that its region has by now: it may have that.
        if let Some(present) = want.present {
            return Answer::Frame(present, Prot::all());
        }
        // This comes before the page can be seen: that it is ordered so is the library's promise.
        match fill(&self.memory, want) {
            Ok(pfn) => Answer::Frame(pfn, Prot::all()),
            Err(error) => Answer::Failed(BackingError::new(error)),
        }
    }

    fn release(&self, released: Released) {
        self.memory.give_back(leaf(released.page, released.size), released);
    }
}

/// Fills frames for a leaf that is wanted.
pub(crate) fn fill(memory: &GuestMemory, want: &Want) -> Result<HostPfn, OutOfFrames> {
    let leaf = leaf(want.page, want.size);
    let pfn = memory.allocate(want.size).ok_or(OutOfFrames(leaf.start()))?;
    memory.assign(pfn, leaf);
    Ok(pfn)
}

/// Returns the pages of a leaf, by the first of them.
pub(crate) fn leaf(page: u64, size: PageSize) -> GpaRange {
    GpaRange::from_pages(Gpa::new(page * PAGE_BYTES), size.pages()).expect("a leaf has its pages")
}
