//! The fault path needs nobody and nothing: it goes on while a structural change holds the writer
//! lock, and it does not allocate.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "counts allocations, and passes frames on")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{Arc, Barrier, OnceLock, mpsc},
    thread,
    time::Duration,
    vec::Vec,
};

use common::{BASE, Checked, MIB, PAGE, RWX, SMALL, at, every_format, frame_at, pfn, range};
use slat::{
    Content, Format, FrameRun, FrameSource, HeapFrames, Hint, HostPfn, Level, Mapped, Observer,
    OutOfFrames, Pinned, Prot, Reader, Table, Tracking,
    mmu::{Access, Mode},
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count for each thread.
struct CountingAllocator;

// SAFETY: every promise is kept by the allocator behind; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

/// A source whose allocations, once it is armed, wait until somebody opens the gate.
#[derive(Debug)]
struct Gated {
    frames: HeapFrames,
    armed: OnceLock<()>,
    entered: Barrier,
    open: Barrier,
}

impl Gated {
    fn new(frames: u64) -> Self {
        let frames = HeapFrames::with_base(BASE, frames).unwrap();
        let (entered, open) = (Barrier::new(2), Barrier::new(2));
        Self { frames, armed: OnceLock::new(), entered, open }
    }
}

// SAFETY: every promise is kept by the source inside.
unsafe impl FrameSource for Gated {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        if self.armed.get().is_some() {
            self.entered.wait();
            self.open.wait();
        }
        self.frames.allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.frames.free(run, content) }
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        // SAFETY: the caller's promise is the same.
        unsafe { self.frames.table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        self.frames.free_frames()
    }
}

/// Does everything that can be done under a pin to the pages of [0, 2 MiB), all of them populated and
/// none mapped; leaves them so.
fn fault_path<F: Format, S: FrameSource>(reader: &Reader<F, S>, observer: &mut Observer<F, S>) {
    let mut pin = reader.pin();
    changes(&pin);
    pin.repin();
    looks(&pin);
    let mut inside = observer.enter(Tracking::On);
    inside.acknowledge(|_| ());
    let mmu = inside.mmu();
    let write = Access::WRITE.in_mode(Mode::Supervisor);
    assert!(mmu.translate(at(0), write).is_ok());
    assert!(mmu.translate(at(2 * MIB), write).is_err());
    let _ = pin.unmap_range(range(0, 2 * MIB), drop).unwrap();
    drop(pin);
    // The epoch is looked after now and then.
    for _ in 0..1000 {
        assert_eq!(frame_at(&reader.pin(), 0), None);
    }
}

fn changes<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>) {
    let pages = || (0..100).map(|page| at(page * PAGE));
    assert_eq!(pin.map(at(0), pfn(1), SMALL, RWX), Ok(Mapped::New));
    assert!(pin.map(at(0), pfn(2), SMALL, RWX).is_err());
    assert!(pin.map(at(2 * MIB), pfn(2), SMALL, RWX).is_err());
    let (_, mut flush) = pin.unmap(at(0)).unwrap();
    assert!(pin.unmap(at(0)).is_err());
    pin.map_many(pages().zip((0..).map(pfn)), RWX, |_, mapped| assert!(mapped.is_ok()));
    flush.merge(pin.unmap_many(pages(), |_, gone| assert!(gone.is_ok()))).unwrap();
    assert_eq!(pin.map_range(range(0, 2 * MIB), pfn(0), RWX).unwrap().new, 512);
    flush.merge(pin.protect(range(0, MIB), Prot::R).unwrap().1).unwrap();
    flush.merge(pin.unmap_range(range(0, MIB), drop).unwrap().1).unwrap();
    assert_eq!(pin.map_range(range(0, MIB), pfn(0), RWX).unwrap().new, 256);
    assert!(!flush.is_empty());
    let slot = pin.slot(at(5 * PAGE)).unwrap();
    assert!(!slot.set_accessed() && !slot.set_dirty());
    assert!(slot.clear_accessed() && slot.clear_dirty());
    assert_eq!(slot.map(pfn(5), SMALL, RWX), Ok(Mapped::Same));
}

fn looks<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>) {
    let all = range(0, 4 * MIB);
    assert_eq!(frame_at(pin, 7 * PAGE), Some(7));
    pin.lookup_many((0..100).map(|page| at(page * PAGE)), |_, found| assert!(found.is_some()));
    assert!(!pin.walk(at(0), Level::L1).is_empty());
    assert_eq!(pin.mapped(all).unwrap(), 512);
    assert_eq!(pin.mappings(all).unwrap().count(), 512);
    assert_eq!(pin.translate(at(9), u64::MAX, Prot::R).unwrap().len, 2 * MIB - 9);
}

every_format! {
    /// Invariants 10 and 12.
    fn the_fault_path_goes_on_while_a_populate_holds_the_lock(format: impl Format) {
        let table = Checked::with(format, Gated::new(16));
        table.populate_pages(0, 2 * MIB);
        let reader = table.reader();
        let gate: &Gated = table.source();
        gate.armed.set(()).unwrap();
        thread::scope(|scope| {
            // It stops in the source, which it asks for one leaf table.
            let populate = scope.spawn(|| table.populate(range(2 * MIB, MIB), SMALL));
            gate.entered.wait();
            let (done, is_done) = mpsc::channel();
            let mut observer = table.observer();
            scope.spawn(move || {
                fault_path(&reader, &mut observer);
                done.send(()).unwrap();
            });
            // Only a failure waits as long.
            let went_on = is_done.recv_timeout(Duration::from_secs(60));
            gate.open.wait();
            assert_eq!(populate.join().unwrap(), Ok(()));
            assert_eq!(went_on, Ok(()), "the fault path waits for populate");
        });
        table.map(2 * MIB, 1);
    }

    /// Invariant 12.
    fn the_fault_path_does_not_allocate(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 2 * MIB);
        let reader = table.reader();
        let mut observer = table.observer();
        let before = ALLOCATIONS.get();
        fault_path(&reader, &mut observer);
        assert_eq!(ALLOCATIONS.get(), before);
        // The count counts.
        drop(Arc::new(before));
        assert_eq!(ALLOCATIONS.get(), before + 1);
    }
}
