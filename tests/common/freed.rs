//! Frames that are allocations of their own and really freed, so that AddressSanitizer sees who walks in a
//! table that is gone, and LeakSanitizer which one never came back.
#![expect(clippy::disallowed_types, reason = "no model runs these")]

use std::{
    collections::VecDeque,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicPtr, Ordering},
    },
    vec::Vec,
};

use slat::{Content, Entry, FrameRun, FrameSource, Hint, HostPfn, OutOfFrames, Table};

/// So many numbers there are for each frame: the longer one is not used again, the longer who walks by it
/// meets freed memory and not another table.
const NUMBERS: u64 = 16;

/// So many frames, each in memory of its own from its allocation until it is freed.
#[derive(Debug)]
pub(crate) struct Freed {
    base: HostPfn,
    capacity: u64,
    /// Where each number's frame is, or was last. Frames that nobody frees are not freed with the source.
    places: Box<[AtomicPtr<Table>]>,
    /// The numbers that no frame has, the one that was longest without first.
    free: Mutex<VecDeque<u64>>,
}

impl Freed {
    /// Makes room for `capacity` frames, numbered from `base` on.
    pub(crate) fn with_base(base: HostPfn, capacity: u64) -> Self {
        let places = (0..capacity * NUMBERS).map(|_| AtomicPtr::default()).collect();
        let free = Mutex::new((0..capacity * NUMBERS).collect());
        Self { base, capacity, places, free }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns how many more frames there may be.
    fn left(&self, free: &VecDeque<u64>) -> u64 {
        free.len() as u64 - self.capacity * (NUMBERS - 1)
    }

    fn place(&self, pfn: HostPfn) -> &AtomicPtr<Table> {
        &self.places[(pfn.get() - self.base.get()) as usize]
    }
}

// SAFETY:
// 1. A number is among the free ones or handed out, never both, and each frame is an allocation of its own.
// 2. A new table is zero.
// 3. A number's place changes only when it is handed out. Hardware does not walk it.
// 4. A frame's memory goes in `free`, of which the caller says that nobody reaches it any more.
// 5. As many numbers are taken as were asked for, each in one run.
unsafe impl FrameSource for Freed {
    fn allocate(
        &self,
        count: u64,
        _hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        let mut free = self.free.lock().unwrap();
        if self.left(&free) < count {
            return Err(OutOfFrames::new(count, self.left(&free)));
        }
        let old = runs.len();
        for number in free.drain(..count as usize) {
            let pfn = HostPfn::new(self.base.get() + number);
            // Release: the table's zeroes come before its place; pairs with the loads below.
            self.place(pfn).store(Box::into_raw(Box::new(Table::new())), Ordering::Release);
            match runs[old..].last_mut() {
                Some(run) if run.first.get() + run.count == pfn.get() => run.count += 1,
                _ => runs.push(FrameRun { first: pfn, count: 1 }),
            }
        }
        Ok(())
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        for pfn in (0..run.count).map(|index| HostPfn::new(run.first.get() + index)) {
            // The place stays, so that who comes too late meets freed memory.
            let table = self.place(pfn).load(Ordering::Acquire);
            // SAFETY: it was a box's in `allocate`, and the caller says that nobody reaches it any more.
            let table = unsafe { Box::from_raw(table) };
            if content == Content::Zero {
                assert!((0..).map_while(|index| table.entry(index)).all(|it| it == Entry::EMPTY));
            }
        }
        let numbers = (0..run.count).map(|index| run.first.get() - self.base.get() + index);
        self.free.lock().unwrap().extend(numbers);
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        let table: *const Table = self.place(pfn).load(Ordering::Acquire);
        assert_ne!(table, ptr::null(), "{pfn} was never handed out");
        // SAFETY: the caller says that the frame is not given back while the reference lives.
        unsafe { &*table }
    }

    fn free_frames(&self) -> u64 {
        self.left(&self.free.lock().unwrap())
    }
}
