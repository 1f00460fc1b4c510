//! The frames that tests take: a slab on the heap, or with `SLAT_FRAMES=freed` one allocation each.

use std::vec::Vec;

use slat::{Content, FrameRun, FrameSource, HeapFrames, Hint, HostPfn, OutOfFrames, Table};

use super::Freed;

#[derive(Debug)]
pub(crate) enum Frames {
    /// Poisoned when they come back.
    Slab(HeapFrames),
    /// Freed when they come back.
    Freed(Freed),
}

impl Frames {
    /// Makes so many frames, numbered from `base` on.
    #[track_caller]
    pub(crate) fn with_base(base: HostPfn, count: u64) -> Self {
        match std::env::var("SLAT_FRAMES").as_deref() {
            Ok("freed") => Self::Freed(Freed::with_base(base, count)),
            Err(_) | Ok("slab") => Self::Slab(HeapFrames::with_base(base, count).unwrap()),
            Ok(other) => panic!("SLAT_FRAMES={other}: neither slab nor freed"),
        }
    }

    /// Returns the number of frames, free or not.
    pub(crate) fn capacity(&self) -> u64 {
        match self {
            Self::Slab(frames) => frames.capacity(),
            Self::Freed(frames) => frames.capacity(),
        }
    }
}

// SAFETY: every promise is kept by the source that everything is handed to.
unsafe impl FrameSource for Frames {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        match self {
            Self::Slab(frames) => frames.allocate(count, hint, runs),
            Self::Freed(frames) => frames.allocate(count, hint, runs),
        }
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        match self {
            // SAFETY: the caller's promise is the same.
            Self::Slab(frames) => unsafe { frames.free(run, content) },
            // SAFETY: likewise.
            Self::Freed(frames) => unsafe { frames.free(run, content) },
        }
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        match self {
            // SAFETY: the caller's promise is the same.
            Self::Slab(frames) => unsafe { frames.table(pfn) },
            // SAFETY: likewise.
            Self::Freed(frames) => unsafe { frames.table(pfn) },
        }
    }

    fn free_frames(&self) -> u64 {
        match self {
            Self::Slab(frames) => frames.free_frames(),
            Self::Freed(frames) => frames.free_frames(),
        }
    }
}
