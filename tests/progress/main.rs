//! The fault path needs nobody and nothing: it goes on while others hold any of the locks that there
//! are, it does not allocate, and it frees nothing.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "counts allocations, and passes frames on")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod gates;

use std::{
    sync::{Arc, Barrier, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use common::{Checked, GIB, MIB, PAGE, RWX, SMALL, at, every_format, frame_at, pfn, range};
use gates::{ALLOCATIONS, FRAMES_MOVED, GATE, Gate, Gated};
use slat::{
    Due, Fixed, Format, FrameSource, Level, Mapped, Noted, Observer, ObserverId, PageSize, Pinned,
    Prot, Reader, Tracking,
    mmu::{Access, Mode},
};

/// Room for two large leaves.
const LARGE: u64 = 64 * GIB;
/// Aligned to them, and no table's.
const FRAME: u64 = 0x80_0000;

/// Makes the room that [`fault_path`] takes.
fn ground<F: Format, S: FrameSource>(table: &Checked<F, S>) {
    table.populate_pages(0, 2 * MIB);
    table.populate(range(LARGE, 4 * MIB), PageSize::Size2M).unwrap();
}

/// Does everything that can be done under a pin to the pages of [0, 2 MiB), and to the room for two large
/// leaves, all of it populated and nothing mapped; leaves them so.
fn fault_path<F: Format, S: FrameSource>(reader: &Reader<F, S>, observer: &mut Observer<F, S>) {
    let mut pin = reader.pin();
    large(&pin);
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

fn large<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>) {
    let both = range(LARGE, 4 * MIB);
    assert_eq!(pin.map(at(LARGE), pfn(FRAME), PageSize::Size2M, RWX), Ok(Mapped::New));
    assert!(pin.map(at(LARGE + 2 * MIB), pfn(1), SMALL, RWX).is_err());
    assert_eq!(pin.map_range(both, pfn(FRAME), RWX).unwrap().same, 512);
    assert_eq!(pin.translate(at(LARGE), u64::MAX, Prot::R).unwrap().len, 4 * MIB);
    assert_eq!(pin.mappings(both).unwrap().count(), 2);
    let slot = pin.slot(at(LARGE + PAGE)).unwrap();
    assert!(!slot.set_dirty() && slot.clear_dirty());
    let (_, mut flush) = pin.protect(both, Prot::R).unwrap();
    assert!(pin.unmap_range(range(LARGE, MIB), drop).is_err());
    flush.merge(pin.unmap(at(LARGE + PAGE)).unwrap().1).unwrap();
    flush.merge(pin.unmap_range(both, drop).unwrap().1).unwrap();
    assert_eq!(flush.range(), Some(both));
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
        ground(&table);
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
        ground(&table);
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
    fn the_fault_path_goes_on_while_a_split_holds_the_lock(format: impl Format) {
        let table = Checked::with(format, Gated::new(32));
        ground(&table);
        table.populate_mapped(range(GIB, 2 * MIB), PageSize::Size2M, pfn(FRAME), RWX).unwrap();
        let (reader, observer) = (table.reader(), table.observer());
        let gate: &Gated = table.source();
        gate.arm();
        thread::scope(|scope| {
            // It stops in the source, which it asks for a table.
            let split = scope.spawn(|| table.split(at(GIB), SMALL, &|_: ObserverId| ()));
            gate.entered.wait();
            let back = goes_on(reader, observer);
            gate.open.wait();
            assert_eq!(split.join().unwrap(), Ok(()));
            back.expect("the fault path waits for a split");
        });
        assert_eq!(frame_at(&table.pin(), GIB + PAGE), Some(FRAME + 1));
    }

    /// Invariants 10 and 12.
    fn all_goes_on_while_a_collapse_waits_for_a_processor(format: impl Format) {
        let table = Checked::new(format, 32);
        ground(&table);
        table.populate_mapped(range(GIB, 2 * MIB), SMALL, pfn(FRAME), RWX).unwrap();
        let (reader, observer, mut other) = (table.reader(), table.observer(), table.observer());
        let (inside, waiting, leave) = (&Barrier::new(2), &Barrier::new(2), &Barrier::new(3));
        thread::scope(|scope| {
            scope.spawn(move || {
                let _inside = other.enter(Tracking::On);
                inside.wait();
                leave.wait();
            });
            inside.wait();
            let collapse = scope.spawn(|| {
                table.collapse(at(GIB), PageSize::Size2M, &|_: ObserverId| {
                    waiting.wait();
                    leave.wait();
                })
            });
            waiting.wait();
            let back = goes_on(reader, observer);
            // Nor does it hold the lock meanwhile.
            table.populate_pages(2 * MIB, MIB);
            assert_eq!(table.pin().lookup(at(GIB)).unwrap().size, PageSize::Size2M);
            leave.wait();
            assert_eq!(collapse.join().unwrap(), Ok(()));
            back.expect("the fault path waits for a collapse");
        });
    }

    /// Invariants 10 and 12.
    fn the_fault_path_goes_on_while_a_shootdown_lists_the_observers(format: impl Format) {
        let table = Checked::new(format, 16);
        ground(&table);
        let (reader, observer, mut other) = (table.reader(), table.observer(), table.observer());
        let inside = other.enter(Tracking::On);
        let memory: *mut Gate = Box::into_raw(Box::default());
        // SAFETY: it is freed at the end, when nobody is left who has the reference.
        let gate: &'static Gate = unsafe { &*memory };
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
        // SAFETY: a box's, from above. Who stopped at the gate has ended with the scope.
        drop(unsafe { Box::from_raw(memory) });
    }

    /// Invariant 12.
    fn the_fault_path_does_not_allocate(format: impl Format) {
        let table = Checked::new(format, 16);
        ground(&table);
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
        ground(&table);
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
