//! Frames: where tables live.
//!
//! A [`FrameSource`] hands out zeroed 4 KiB frames and turns a frame number into the table that lies
//! there, as a kernel's direct map does. [`Arena`] is one reservation of memory, for processes on
//! Linux; [`HeapFrames`] is a fixed slab with fault injection, for tests and model checkers. A
//! hypervisor implements the trait over its own direct map.
//!
//! Frames are allocated and freed only where a table is created, dropped, or changed in structure: by
//! one thread at a time, and in batches, so a mutex around an ordered map of runs is enough. The fault
//! path only calls [`FrameSource::table`], which takes no lock.

#![expect(unsafe_code, reason = "a frame number stands for memory")]

mod free;
mod heap;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle))))]
mod mmap;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle))))]
mod reservation;

use alloc::{sync::Arc, vec::Vec};

pub use self::heap::{HeapFrames, HeapFramesError};
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle))))]
pub use self::mmap::{Arena, ArenaError, ArenaOptions};
use crate::{
    addr::{Gpa, HostPfn},
    table::Table,
};

/// A run of frames with consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRun {
    /// The first frame.
    pub first: HostPfn,
    /// How many frames; at least 1 in every run that a source hands out.
    pub count: u64,
}

/// What the frames are wanted for: a source may place them accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hint {
    /// The first guest page that the tables will translate; a source that knows memory nodes can
    /// derive the node from it.
    pub gpa: Gpa,
}

impl Hint {
    /// Makes the hint for tables that translate the pages from `gpa` on.
    #[must_use]
    pub const fn new(gpa: Gpa) -> Self {
        Self { gpa }
    }
}

/// What is known of the contents of frames that are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All zero: the source may hand them out again as they are.
    Zero,
    /// Anything: the source must zero them first.
    Unknown,
}

/// Too few frames. Nothing was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} frames are needed, {free} are free and {waiting} wait to be freed")]
#[non_exhaustive]
pub struct OutOfFrames {
    /// How many frames the whole operation needs.
    pub needed: u64,
    /// How many were free at that moment.
    pub free: u64,
    /// How many of the table's own were unlinked, and wait for somebody who may still walk them
    /// ([`PageTable::reclaim`](crate::PageTable::reclaim)). A source knows of none.
    pub waiting: u64,
}

impl OutOfFrames {
    /// Says that `needed` frames were asked for when `free` were free.
    #[must_use]
    pub const fn new(needed: u64, free: u64) -> Self {
        Self { needed, free, waiting: 0 }
    }

    /// Says that `waiting` more will be free once nobody can walk them.
    #[must_use]
    pub const fn with_waiting(self, waiting: u64) -> Self {
        Self { waiting, ..self }
    }
}

/// A source of zeroed 4 KiB frames that tables are made of.
///
/// A page table calls [`allocate`](Self::allocate), [`free`](Self::free) and
/// [`free_frames`](Self::free_frames) as it is created and dropped, and under its writer lock: to
/// change the structure of the same table from there, to reclaim, or to ask for its stats, waits for
/// ever. None of the calls may panic: a structural change that is cut off half-way loses frames, and
/// may lose pages, though it stays sound.
///
/// # Safety
/// An implementation promises, for every frame from its allocation to its `free`:
///
/// 1. nobody else uses the frame's memory, except the MMU as it walks it, and readers of
///    [`table`](Self::table);
/// 2. every slot is zero when it is allocated;
/// 3. [`table`](Self::table) returns the same table each time, and frame `pfn` is what hardware
///    reaches under that frame number;
/// 4. the memory stays mapped and in place for as long as the source lives;
/// 5. an [`allocate`](Self::allocate) that succeeds appends exactly as many frames as were asked for.
pub unsafe trait FrameSource: Send + Sync + 'static {
    /// Allocates `count` zeroed frames and appends them to `runs`, in as few and as long runs as it
    /// can and with ascending numbers where it can.
    ///
    /// # Errors
    /// [`OutOfFrames`] if there are not that many; nothing is allocated then, and `runs` is as it
    /// was.
    fn allocate(&self, count: u64, hint: Hint, runs: &mut Vec<FrameRun>)
    -> Result<(), OutOfFrames>;

    /// Takes frames back.
    ///
    /// # Safety
    /// Each frame of the run was allocated from this source and not yet given back; no walker,
    /// software or hardware, can reach it any more; and `content` is true.
    unsafe fn free(&self, run: FrameRun, content: Content);

    /// Returns the table in frame `pfn`. Takes no lock and never waits.
    ///
    /// # Safety
    /// The frame was allocated from this source and is not given back while the reference lives.
    unsafe fn table(&self, pfn: HostPfn) -> &Table;

    /// Returns how many frames are free now.
    fn free_frames(&self) -> u64;
}

// SAFETY: every promise is kept by the source behind the `Arc`, which lives as long as the `Arc`.
unsafe impl<S: FrameSource> FrameSource for Arc<S> {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        (**self).allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).free(run, content) }
    }

    #[inline]
    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        (**self).free_frames()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
