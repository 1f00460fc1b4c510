//! The fault path needs nobody and nothing: it goes on while others hold any of the locks that there
//! are, it does not allocate, and it frees nothing.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "counts allocations, and passes frames on")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
    vec::Vec,
};

use common::{BASE, Checked, GIB, MIB, PAGE, RWX, SMALL, at, every_format, frame_at, pfn, range};
use slat::{
    Content, Due, Fixed, Format, FrameRun, FrameSource, HeapFrames, Hint, HostPfn, Level, Mapped,
    Noted, Observer, ObserverId, OutOfFrames, Pinned, Prot, Reader, Table, Tracking,
    mmu::{Access, Mode},
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// How often this thread asked a source for frames, or gave some back.
    static FRAMES_MOVED: Cell<u64> = const { Cell::new(0) };
    /// Where the next allocation of this thread waits.
    static GATE: Cell<Option<&'static Gate>> = const { Cell::new(None) };
}

/// Where a thread stops until somebody lets it go on.
#[derive(Debug, Default)]
struct Gate {
    entered: AtomicBool,
    open: AtomicBool,
}

impl Gate {
    /// Stops this thread: in an allocation, so it does not allocate.
    fn stop(&self) {
        self.entered.store(true, Ordering::Release);
        while !self.open.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    fn wait_until_entered(&self) {
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
struct Gated {
    frames: HeapFrames,
    armed: AtomicBool,
    entered: Barrier,
    open: Barrier,
}

impl Gated {
    fn new(frames: u64) -> Self {
        let frames = HeapFrames::with_base(BASE, frames).unwrap();
        let (entered, open) = (Barrier::new(2), Barrier::new(2));
        Self { frames, armed: AtomicBool::new(false), entered, open }
    }

    fn arm(&self) {
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

// SAFETY: every promise is kept by the source inside.
unsafe impl FrameSource for Gated {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        self.pass();
        self.frames.allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        self.pass();
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
    let (watched, taken) = pin.watch(range(0, MIB)).unwrap();
    flush.merge(taken).unwrap();
    assert_eq!(pin.fix_write(at(5 * PAGE)), Ok(Fixed::Dirtied));
    assert_eq!(pin.note_dirty(at(6 * PAGE)), Ok(Noted::New));
    assert_eq!(pin.unwatch(range(0, MIB)), Ok(watched));
    assert!(slot.clear_dirty() && pin.slot(at(6 * PAGE)).unwrap().clear_dirty());
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

/// Leaves duties behind, and enters where they are due.
fn duties<F: Format, S: FrameSource>(reader: &Reader<F, S>, observer: &mut Observer<F, S>) {
    for round in 0..20 {
        let pin = reader.pin();
        assert_eq!(pin.map(at(PAGE), pfn(round), SMALL, RWX), Ok(Mapped::New));
        drop(pin.unmap(at(PAGE)).unwrap());
        drop(pin);
        if round % 3 == 0 {
            let mut inside = observer.enter(Tracking::On);
            assert_ne!(inside.due(), &Due::None);
            inside.acknowledge(|due| assert_eq!(due, &Due::None));
        }
    }
}

/// Takes the fault path while another thread is stopped where it is; returns what was used for it, or
/// nothing if it has to wait for that one.
fn goes_on<F: Format, S: FrameSource>(
    reader: Reader<F, S>,
    mut observer: Observer<F, S>,
) -> Option<(Reader<F, S>, Observer<F, S>)> {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        fault_path(&reader, &mut observer);
        duties(&reader, &mut observer);
        // To drop them takes a lock: that is the caller's.
        let _ = done.send((reader, observer));
    });
    // Only a failure waits as long.
    is_done.recv_timeout(Duration::from_secs(60)).ok()
}

every_format! {
    /// Invariants 10 and 12.
    fn the_fault_path_goes_on_while_a_populate_holds_the_lock(format: impl Format) {
        let table = Checked::with(format, Gated::new(16));
        table.populate_pages(0, 2 * MIB);
        let (reader, observer) = (table.reader(), table.observer());
        let gate: &Gated = table.source();
        gate.arm();
        thread::scope(|scope| {
            // It stops in the source, which it asks for one leaf table.
            let populate = scope.spawn(|| table.populate(range(2 * MIB, MIB), SMALL));
            gate.entered.wait();
            let back = goes_on(reader, observer);
            gate.open.wait();
            assert_eq!(populate.join().unwrap(), Ok(()));
            back.expect("the fault path waits for populate");
        });
        table.map(2 * MIB, 1);
    }

    /// Invariants 10 and 12.
    fn the_fault_path_goes_on_while_a_vacate_frees_tables(format: impl Format) {
        let table = Checked::with(format, Gated::new(16));
        table.populate_pages(0, 2 * MIB);
        table.populate_pages(4 * MIB, 2 * MIB);
        let (reader, observer) = (table.reader(), table.observer());
        let gate: &Gated = table.source();
        gate.arm();
        thread::scope(|scope| {
            // It stops in the source, to which it gives one leaf table back: with the lock of what waits
            // to be freed as well.
            let vacate = scope.spawn(|| table.vacate(range(4 * MIB, 2 * MIB)));
            gate.entered.wait();
            let back = goes_on(reader, observer);
            gate.open.wait();
            assert_eq!(vacate.join().unwrap(), Ok(()));
            back.expect("the fault path waits for vacate");
        });
        assert_eq!(table.stats().waiting, 0);
    }

    /// Invariants 10 and 12.
    fn the_fault_path_goes_on_while_a_shootdown_lists_the_observers(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 2 * MIB);
        let (reader, observer, mut other) = (table.reader(), table.observer(), table.observer());
        let inside = other.enter(Tracking::On);
        let gate: &Gate = Box::leak(Box::default());
        let (counted, is_counted) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let duty = table.flush_all();
                // It allocates for the list, of one observer, under the lock that guards it.
                GATE.set(Some(gate));
                drop(duty.shootdown());
            });
            gate.wait_until_entered();
            // So this has to wait.
            scope.spawn(|| counted.send(table.stats().inside).unwrap());
            let back = goes_on(reader, observer);
            let early = is_counted.try_recv();
            gate.open.store(true, Ordering::Release);
            back.expect("the fault path waits for a shoot-down");
            assert_eq!(early, Err(mpsc::TryRecvError::Empty), "the lock is free");
        });
        assert_eq!(is_counted.recv(), Ok(1));
        drop(inside);
    }

    /// Invariant 12.
    fn the_fault_path_does_not_allocate(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 2 * MIB);
        let reader = table.reader();
        let mut observer = table.observer();
        let before = ALLOCATIONS.get();
        fault_path(&reader, &mut observer);
        duties(&reader, &mut observer);
        assert_eq!(ALLOCATIONS.get(), before);
        // The count counts.
        drop(Arc::new(before));
        assert_eq!(ALLOCATIONS.get(), before + 1);
    }

    /// Invariants 9 and 12.
    fn the_fault_path_frees_no_table_and_allocates_nothing_beside_tables_that_wait(
        format: impl Format
    ) {
        let table = Checked::with(format, Gated::new(32));
        table.populate_pages(0, 2 * MIB);
        table.populate_pages(GIB, 8 * MIB);
        let readers = [table.reader(), table.reader()];
        let mut observers = [table.observer(), table.observer()];
        let [reader, other] = &readers;
        let [observer, holder] = &mut observers;
        let (pin, inside) = (other.pin(), holder.enter(Tracking::On));
        table.vacate(range(GIB, 8 * MIB)).unwrap();
        let waiting = table.stats().waiting;
        assert!(waiting > 4);

        let before = (FRAMES_MOVED.get(), ALLOCATIONS.get());
        // Held back by both, by one of them, by none: then it is the fault path that finds the grace period
        // over, and still it frees nothing.
        fault_path(reader, observer);
        drop(inside);
        fault_path(reader, observer);
        drop(pin);
        fault_path(reader, observer);
        duties(reader, observer);
        assert_eq!((FRAMES_MOVED.get(), ALLOCATIONS.get()), before);
        assert_eq!(table.stats().waiting, waiting);
        // The count counts.
        assert_eq!(table.reclaim(&|_: ObserverId| ()).freed, waiting);
        assert!(FRAMES_MOVED.get() > before.0);
    }
}
