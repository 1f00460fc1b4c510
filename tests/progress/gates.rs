//! Counts of what a thread allocates, and gates at which one stops where it holds a lock.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use slat::{Content, FrameRun};

use crate::common::{BASE, Frames, Over, frame_source_over};

thread_local! {
    pub(crate) static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// How often this thread asked a source for frames, or gave some back.
    pub(crate) static FRAMES_MOVED: Cell<u64> = const { Cell::new(0) };
    /// Where the next allocation of this thread waits.
    pub(crate) static GATE: Cell<Option<&'static Gate>> = const { Cell::new(None) };
}

/// Where a thread stops until somebody lets it go on.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    entered: AtomicBool,
    pub(crate) open: AtomicBool,
}

impl Gate {
    /// Stops this thread: in an allocation, so it does not allocate.
    fn stop(&self) {
        self.entered.store(true, Ordering::Release);
        while !self.open.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    pub(crate) fn wait_until_entered(&self) {
        while !self.entered.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

/// The system's allocator, with a count for each thread, and a gate.
struct CountingAllocator;

// SAFETY: every promise is kept by the allocator behind; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        if let Some(gate) = GATE.take() {
            gate.stop();
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A source that counts, and in which the next that asks for frames, or gives some back, once it is
/// armed, waits until somebody opens the gate.
#[derive(Debug)]
pub(crate) struct Gated {
    frames: Frames,
    armed: AtomicBool,
    pub(crate) entered: Barrier,
    pub(crate) open: Barrier,
}

impl Gated {
    pub(crate) fn new(frames: u64) -> Self {
        let frames = Frames::with_base(BASE, frames);
        let (entered, open) = (Barrier::new(2), Barrier::new(2));
        Self { frames, armed: AtomicBool::new(false), entered, open }
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    fn pass(&self) {
        FRAMES_MOVED.set(FRAMES_MOVED.get() + 1);
        if self.armed.swap(false, Ordering::Relaxed) {
            self.entered.wait();
            self.open.wait();
        }
    }
}

impl Over for Gated {
    type Source = Frames;

    fn source(&self) -> &Frames {
        &self.frames
    }

    fn before_allocate(&self) {
        self.pass();
    }

    fn before_free(&self, _run: FrameRun, _content: Content) {
        self.pass();
    }
}

frame_source_over!(Gated);
