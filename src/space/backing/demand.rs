//! Frames that are taken from a pool when they are first needed.

use alloc::sync::Arc;
use core::fmt;

use super::{Answer, Backing, BackingError, Released, Want, extent};
use crate::{
    addr::{Gpa, HostPfn},
    attr::Prot,
    level::PageSize,
};

/// A source of frames for the pages of guests.
///
/// # Concurrency
/// Both calls are made on the fault path, under a pin and by many threads at a time: they should be quick, and
/// must not block.
pub trait FramePool: fmt::Debug + Send + Sync {
    /// Takes the frames of a leaf of `size`: wiped, with consecutive numbers, the first one aligned to the
    /// size. Returns the first, or `None` if the pool has no such frames now.
    fn take(&self, size: PageSize) -> Option<HostPfn>;

    /// Takes back as many frames as a leaf of `size` has, which nobody reaches any more. Must not panic.
    ///
    /// What was taken as a whole may come back in parts, because its leaf was split, and the other way round
    /// if leaves were collapsed.
    fn give_back(&self, first: HostPfn, size: PageSize);
}

/// A pool had no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has no frame for page {page}")]
#[non_exhaustive]
pub struct OutOfMemory {
    /// The page that it was for, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
}

/// Memory that takes its frames from a pool when they are first needed, and gives them back when they are
/// unmapped.
///
/// The leaf in the table is the only record of which frame is where. So two faults that race for a page take
/// two, of which one comes back at once; and a page that was unmapped, and is needed again, is another frame,
/// wiped.
#[derive(Debug)]
pub struct OnDemand {
    pool: Arc<dyn FramePool>,
    pages: u64,
    largest: PageSize,
}

impl OnDemand {
    /// Makes a backing of `pages` pages, with leaves of up to `largest`.
    #[must_use]
    pub const fn new(pool: Arc<dyn FramePool>, pages: u64, largest: PageSize) -> Self {
        Self { pool, pages, largest }
    }
}

impl Backing for OnDemand {
    fn pages(&self) -> u64 {
        self.pages
    }

    fn largest(&self, page: u64, gpa: Gpa) -> PageSize {
        // Any frames will do, so only the leaf has to lie within the backing.
        let fits = |size: &PageSize| {
            *size <= self.largest && extent::has_leaf(self.pages, page, gpa, *size)
        };
        PageSize::ALL.into_iter().rfind(fits).unwrap_or(PageSize::Size4K)
    }

    fn frame(&self, want: &Want) -> Answer {
        if let Some(present) = want.present {
            return Answer::Frame(present, Prot::all());
        }
        if let Err(answer) = extent::check(want, self.pages) {
            return answer;
        }
        if want.size > self.largest {
            return Answer::Smaller;
        }
        match self.pool.take(want.size) {
            Some(first) => Answer::Frame(first, Prot::all()),
            None if want.size > PageSize::Size4K => Answer::Smaller,
            None => Answer::Failed(BackingError::new(OutOfMemory { page: want.page })),
        }
    }

    fn release(&self, released: Released) {
        // Unused or unmapped: each answer took frames of its own.
        self.pool.give_back(released.frame, released.size);
    }
}
