//! Frames from the heap, for tests and model checkers.

#![expect(unsafe_code, reason = "implements an unsafe trait")]

use alloc::{boxed::Box, vec::Vec};

use super::{Content, FrameRun, FrameSource, Hint, OutOfFrames, free::FreeFrames};
use crate::{addr::HostPfn, entry::Entry, sync::Mutex, table::Table};

/// Why a [`HeapFrames`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeapFramesError {
    /// The frame numbers would go past 2^64.
    #[error("{count} frames from {base} on go past the last frame number")]
    Wraps {
        /// The first frame's number.
        base: HostPfn,
        /// How many frames.
        count: u64,
    },
}

/// A fixed number of frames in a slab on the heap, whose frame numbers begin where the caller says.
///
/// Hardware cannot walk these. For tests it can be told to fail an allocation, and it poisons the
/// frames that come back with entries that no walker should ever meet.
#[derive(Debug)]
pub struct HeapFrames {
    base: HostPfn,
    slab: Box<[Table]>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: FreeFrames,
    /// Allocations to come that succeed, before the one that fails.
    fail_after: Option<u64>,
}

/// A present entry that an MMU faults on loudly: EPT reserves its memory type at every level, and all
/// formats its frame wherever the physical address width is less than 52.
const POISON: Entry = Entry::from_raw(0x000f_dead_dead_d0ff);

impl HeapFrames {
    /// Makes `count` frames, numbered from 0x100 on.
    ///
    /// # Panics
    /// If the frames are more than memory holds, as any collection does.
    #[must_use]
    pub fn new(count: u64) -> Self {
        Self::build(HostPfn::new(0x100), count)
    }

    /// Makes `count` frames, numbered from `base` on.
    ///
    /// # Errors
    /// [`HeapFramesError`] if there are not that many frame numbers.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_base(base: HostPfn, count: u64) -> Result<Self, HeapFramesError> {
        if base.checked_add(count).is_none() {
            return Err(HeapFramesError::Wraps { base, count });
        }
        Ok(Self::build(base, count))
    }

    fn build(base: HostPfn, count: u64) -> Self {
        let mut free = FreeFrames::default();
        free.put(FrameRun { first: base, count }, Content::Zero);
        let slab = (0..count).map(|_| Table::new()).collect();
        Self { base, slab, state: Mutex::new(State { free, fail_after: None }) }
    }

    /// Makes the `n`-th call of [`allocate`](FrameSource::allocate) from now fail, once (0 is the
    /// next one).
    pub fn fail_allocation(&self, n: u64) {
        self.state.lock().fail_after = Some(n);
    }

    /// Returns the number of frames, free or not.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.slab.len() as u64
    }

    fn at(&self, pfn: HostPfn) -> &Table {
        &self.slab[(pfn.get() - self.base.get()) as usize]
    }

    fn tables(&self, run: FrameRun) -> &[Table] {
        let first = (run.first.get() - self.base.get()) as usize;
        &self.slab[first..first + run.count as usize]
    }
}

// SAFETY:
// 1. A frame is in the free list or handed out, never both, and the slab is private.
// 2. The slab starts zeroed; frames whose content is unknown are zeroed as they are handed out.
// 3. A frame number is an index into the slab. Hardware does not walk it.
// 4. The slab is boxed and neither moves nor shrinks.
unsafe impl FrameSource for HeapFrames {
    fn allocate(
        &self,
        count: u64,
        _hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        let state = &mut *self.state.lock();
        let fails = match state.fail_after {
            Some(0) => {
                state.fail_after = None;
                true
            }
            Some(n) => {
                state.fail_after = Some(n - 1);
                false
            }
            None => false,
        };
        let dirty = if fails { None } else { state.free.take(count, runs) };
        let dirty = dirty.ok_or(OutOfFrames::new(count, state.free.len()))?;
        dirty.into_iter().flat_map(|run| self.tables(run)).for_each(Table::zero);
        Ok(())
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        let mut state = self.state.lock();
        for table in self.tables(run) {
            match content {
                Content::Zero => {
                    debug_assert!((0..).map_while(|i| table.entry(i)).all(|e| e == Entry::EMPTY));
                }
                Content::Unknown => table.fill(|_| POISON),
            }
        }
        state.free.put(run, content);
    }

    #[inline]
    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        self.at(pfn)
    }

    fn free_frames(&self) -> u64 {
        self.state.lock().free.len()
    }
}
