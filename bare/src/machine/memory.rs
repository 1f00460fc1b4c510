//! Physical memory: where what lies, and the frames that tables are made of.
//!
//! The first four gigabytes are mapped one to one, so a physical address is a pointer.

use alloc::vec::Vec;
use core::{ops::Range, ptr};

use slat::{Content, FrameRun, FrameSource, Hint, HostPfn, OutOfFrames, PAGE_BYTES, Table};
use spin::mutex::SpinMutex;

pub(crate) const MIB: u64 = 1 << 20;

/// For everything that is allocated by name. Below lie the image, and the modules that the loader has brought.
pub(crate) const HEAP: Range<u64> = 32 * MIB..48 * MIB;
/// For the processors' own pages: control blocks and the like.
pub(crate) const CONTROL: Range<u64> = 48 * MIB..56 * MIB;
/// For tables.
pub(crate) const TABLES: Range<u64> = 56 * MIB..80 * MIB;
/// For the guest's pages.
pub(crate) const GUEST: Range<u64> = 80 * MIB..592 * MIB;

/// Returns where a frame of physical memory begins.
pub(crate) fn pointer<T>(frame: HostPfn) -> *mut T {
    let address = frame.address().expect("the frame is in memory");
    ptr::with_exposed_provenance_mut(address as usize)
}

/// Makes a frame zero that is the guest's, or nobody's.
pub(crate) fn zero(frame: HostPfn) {
    // SAFETY: any frame can be read and written as a table, all of whose words are atomics.
    unsafe { table(frame) }.zero();
}

/// Returns a page of zeros that is never given back, for a processor.
pub(crate) fn control_page() -> u64 {
    static NEXT: SpinMutex<u64> = SpinMutex::new(CONTROL.start);
    let mut next = NEXT.lock();
    let page = *next;
    assert!(page < CONTROL.end, "the processors have used up their pages");
    *next += PAGE_BYTES;
    let start: *mut u8 = pointer(HostPfn::containing(page));
    // SAFETY: the page lies in `CONTROL`, and was not given to anybody.
    unsafe { start.write_bytes(0, PAGE_BYTES as usize) };
    page
}

/// The frames of a range of physical memory.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Those that are free, all zero; the last one goes first.
    free: SpinMutex<Vec<HostPfn>>,
}

impl Frames {
    /// Makes a source of all frames of `range`.
    ///
    /// # Safety
    /// Nobody uses that memory as long as the source lives, but by way of it.
    pub(crate) unsafe fn new(range: Range<u64>) -> Self {
        let pages = range.step_by(PAGE_BYTES as usize);
        let mut free: Vec<_> = pages.map(HostPfn::containing).collect();
        free.reverse();
        for &frame in &free {
            // SAFETY: the caller's promise.
            unsafe { table(frame) }.zero();
        }
        Self { free: SpinMutex::new(free) }
    }
}

/// # Safety
/// The frame lies in memory that is used for tables, for as long as the reference lives.
unsafe fn table<'t>(frame: HostPfn) -> &'t Table {
    // SAFETY: it is mapped and aligned; a table is atomics, for which every value is one.
    unsafe { &*pointer(frame) }
}

// SAFETY:
// 1. A frame is in the free list or handed out; nobody else uses the memory (`Frames::new`).
// 2. Frames are zeroed as they come, and before they come back.
// 3. Memory is mapped one to one, and hardware reaches a frame under its number.
// 4. Physical memory stays.
// 5. `count` frames are taken, or none.
unsafe impl FrameSource for Frames {
    fn allocate(
        &self,
        count: u64,
        _hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        let mut free = self.free.lock();
        let there = free.len() as u64;
        let left = there.checked_sub(count).ok_or(OutOfFrames::new(count, there))?;
        let taken = free.drain(left as usize..).rev();
        runs.extend(taken.map(|first| FrameRun { first, count: 1 }));
        Ok(())
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        let frames = (0..run.count).map(|index| HostPfn::new(run.first.get() + index));
        for frame in frames.clone().filter(|_| content == Content::Unknown) {
            // SAFETY: it is one of this source's, and nobody reaches it any more.
            unsafe { table(frame) }.zero();
        }
        self.free.lock().extend(frames);
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        // SAFETY: it is one of this source's (the caller's promise), and stays one.
        unsafe { table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        self.free.lock().len() as u64
    }
}
