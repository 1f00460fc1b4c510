//! What a region is made of: which frame is at a page, and who brings it there.
//!
//! A [`Backing`] is asked twice at most. First [`frame`](Backing::frame), under the pin of the fault: the fast
//! answer, which must not block. If that is [`Wait`](Answer::Wait), then [`fetch`](Backing::fetch), with no pin
//! held, by one thread a page at a time; afterwards it is asked for the frame again.
//!
//! Every answer is given back once. A [`Frame`](Answer::Frame) is either mapped, and comes back by
//! [`release`](Backing::release) when it has been unmapped and no translation cache and no
//! [`Hold`](crate::Hold) reaches it, or it is unused, because another fault mapped the page first or the
//! region went, and comes back at once. So a backing that answers with the same frame many times knows, by
//! counting, when nobody can map it any more. The one exception is an answer that repeats what is
//! [`present`](Want::present): it gives nothing anew, and nothing comes back for it; the answer that this frame
//! came with goes on.

mod contiguous;
mod copy;
mod demand;
mod extent;
mod supplied;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use alloc::boxed::Box;
use core::{error::Error, fmt};

pub use self::{
    contiguous::Contiguous,
    copy::{CopyOnWrite, CopyPool},
    demand::{FramePool, OnDemand, OutOfMemory},
    extent::{BeyondEnd, FramesError},
    supplied::{Request, Supplied, Supplier, SupplierGone, SupplyError, SupplyFailed},
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, Prot},
    level::PageSize,
    mapping::Mapping,
};

/// A leaf that a fault wants to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Want {
    /// The first page of the leaf, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
    /// The size of the leaf.
    pub size: PageSize,
    /// What the access needs; empty if the page is only to be there, as by
    /// [`prefault`](crate::Space::prefault).
    pub access: Prot,
    /// The frame that is mapped there and does not allow the access, or was until it was taken away to be
    /// replaced.
    pub present: Option<HostPfn>,
}

impl Want {
    /// Asks for a leaf of `size` from `page` on, where nothing is mapped.
    #[must_use]
    pub const fn new(page: u64, size: PageSize, access: Prot) -> Self {
        Self { page, size, access, present: None }
    }

    /// Says that `frame` is mapped there.
    #[must_use]
    pub const fn with_present(self, frame: HostPfn) -> Self {
        Self { present: Some(frame), ..self }
    }
}

/// The fast answer of a [`Backing`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The leaf maps the consecutive frames from this one on, and allows no more than these rights,
    /// whatever the region does. The first frame is aligned to the leaf's size. It comes back by
    /// [`release`](Backing::release), unless it is the frame that is [`present`](Want::present) already.
    Frame(HostPfn, Prot),
    /// Not by a leaf of that size: ask for the next smaller one. It is no answer for 4 KiB.
    Smaller,
    /// Not yet: [`fetch`](Backing::fetch) it. Who waits for the page asks, and fetches, again and again, for as
    /// long as that is the answer; a `fetch` that fails ends it.
    ///
    /// If [`present`](Want::present) is to be replaced by another frame, every answer for the page is
    /// `Wait` from now on until a `fetch` is over, whoever asks. What is present, and what was answered
    /// before and mapped meanwhile, is unmapped, and no translation cache holds it any more, when `fetch`
    /// is called. It is released only after that, so `fetch` may read it.
    Wait,
    /// Never, or not now.
    Failed(BackingError),
}

/// A leaf's frames come back: one answer of a [`Backing`] has ended.
///
/// A leaf that was split while it was mapped comes back in parts, and leaves that were collapsed come back as
/// one, so the size may be another than that of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// The first page of the leaf, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
    /// The first of its frames.
    pub frame: HostPfn,
    /// Its size.
    pub size: PageSize,
    /// What became of the answer.
    pub ended: Ended,
}

/// What became of an answer of a [`Backing`] that gave frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing: it was never mapped. The same frame may be mapped by another answer.
    Unused,
    /// It was mapped, and has been unmapped for good: its content is wanted no more.
    Unmapped {
        /// Whether an MMU, or a device, accessed it while it was mapped.
        accessed: bool,
        /// Whether one wrote it.
        dirty: bool,
    },
}

impl Released {
    /// Says that the leaf of `size` from `page` on, which is `frame`, is unused and was never mapped.
    #[must_use]
    pub const fn unused(page: u64, frame: HostPfn, size: PageSize) -> Self {
        Self { page, frame, size, ended: Ended::Unused }
    }

    /// Says that `mapping`, which began with page `page` of the backing, was unmapped.
    #[must_use]
    pub const fn unmapped(page: u64, mapping: &Mapping) -> Self {
        let Mapping { pfn, size, accessed, dirty, .. } = *mapping;
        Self { page, frame: pfn, size, ended: Ended::Unmapped { accessed, dirty } }
    }
}

/// What a region of a [`Space`](crate::Space) is made of.
///
/// It is counted: it lives as long as a region, a running fault or a [`Hold`](crate::Hold) needs it.
///
/// # Concurrency
/// Any number of threads call it at a time. A space that changes regions calls it under the lock of that: only
/// [`fetch`](Self::fetch) may call into the space, and even that not for the page that it fetches.
pub trait Backing: fmt::Debug + Send + Sync {
    /// Returns how many 4 KiB pages it has.
    fn pages(&self) -> u64;

    /// Returns the largest leaf that can ever be at its `page`, if that is mapped at `gpa`: for what size the
    /// region is populated.
    fn largest(&self, page: u64, gpa: Gpa) -> PageSize {
        let _ = (page, gpa);
        PageSize::Size4K
    }

    /// Returns what a region gets that asks for `asked`: the backing may take rights away, and choose the
    /// memory type.
    fn attr(&self, asked: Attr) -> Attr {
        asked
    }

    /// Says which frame is there. Called under a pin: it must not block, and not call into the space. If it
    /// panics, the fault does, and nothing has changed; of a
    /// [`protect_region`](crate::Space::protect_region) that asks it, leaves may still have rights that the region
    /// has lost, until the next one.
    ///
    /// Each frame that it gives is released once, whether it is mapped or not; none that is
    /// [`present`](Want::present) and given again.
    fn frame(&self, want: &Want) -> Answer;

    /// Brings a page that had to be waited for, and returns when it is there, or has failed. Called with
    /// no pin held, by one thread at a time for each page; it may block, and others go on beside it. If it
    /// panics, the fault does, and the next one tries again.
    ///
    /// # Errors
    /// Whatever the backing has to say; the fault carries it.
    fn fetch(&self, want: &Want) -> Result<(), BackingError> {
        let _ = want;
        Ok(())
    }

    /// Takes back what one answer of [`frame`](Self::frame) gave and nobody reaches by it any more. May be
    /// called under a pin: it must not block, not call into the space, and not panic.
    fn release(&self, released: Released) {
        let _ = released;
    }
}

/// Why a [`Backing`] has no frame.
#[derive(Debug)]
pub struct BackingError(Box<dyn Error + Send + Sync>);

impl BackingError {
    /// Makes one of any error, or of a string.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// Returns what the backing said.
    #[must_use]
    pub fn get(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for BackingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for BackingError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
