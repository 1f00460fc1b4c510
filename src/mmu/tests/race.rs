//! The MMU against threads that change the entries under it.

use std::thread;

use super::*;
use crate::table::Race;

const ROUNDS: u32 = 10_000;

/// Replaces whatever stands in the slot; returns what it was.
fn swap(slot: &Slot, next: Entry) -> Entry {
    let mut seen = slot.load();
    loop {
        match slot.publish(seen, next) {
            Ok(()) => return seen,
            Err(Race(now)) => seen = now,
        }
    }
}

/// Writes to the rig's page until an entry is reserved; returns how often it made the page dirty.
fn write_until_reserved(rig: &Rig) -> u32 {
    let mmu = rig.mmu();
    let mut made_dirty = 0;
    loop {
        match mmu.translate(rig.gpa, Access::WRITE) {
            Ok(found) if found.dirty == DirtyChange::Set => made_dirty += 1,
            Ok(_) => (),
            Err(fault) if fault.cause() == Cause::NotPresent => thread::yield_now(),
            Err(fault) => {
                assert_eq!(fault.cause(), Cause::Reserved);
                return made_dirty;
            }
        }
    }
}

#[test]
fn each_dirty_bit_that_the_mmu_sets_is_in_what_an_unmap_takes() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    let slot = rig.slot(Level::L1);
    let mut taken_dirty = 0;
    let made_dirty = thread::scope(|scope| {
        let walkers = [(); 2].map(|()| scope.spawn(|| write_until_reserved(&rig)));
        for round in 0..ROUNDS {
            // Non-present entries must not gain bits: what stands there is what was put there.
            let absent = swap(slot, Entry::from_raw(DATA | ALL));
            assert_eq!(absent, Entry::EMPTY);
            if round % 4 == 0 {
                thread::yield_now();
            }
            let taken = swap(slot, Entry::EMPTY);
            match taken.raw() {
                raw if raw == DATA | ALL => (),
                raw if raw == DATA | ALL | 0x300 => taken_dirty += 1,
                raw => panic!("{raw:#x} was in the slot"),
            }
        }
        swap(slot, Entry::from_raw(2));
        walkers.map(|walker| walker.join().unwrap()).iter().sum::<u32>()
    });
    assert_eq!(made_dirty, taken_dirty);
    assert!(taken_dirty > 0);
}

#[test]
fn dirty_is_set_only_in_an_entry_that_allows_the_write() {
    // The entry goes back and forth between writable and not; the MMU must never mark the latter.
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, 1);
    let slot = rig.slot(Level::L1);
    let walker = |rig: &Rig| {
        let mmu = rig.mmu();
        while !matches!(
            mmu.translate(rig.gpa, Access::WRITE),
            Err(Fault::EptMisconfiguration { .. })
        ) {}
    };
    thread::scope(|scope| {
        scope.spawn(|| walker(&rig));
        for _ in 0..ROUNDS {
            swap(slot, Entry::from_raw(DATA | 3));
            swap(slot, Entry::from_raw(DATA | 1));
            let raw = slot.load().raw();
            assert_eq!(raw, DATA | 1, "a write was let through by the entry before");
        }
        swap(slot, Entry::from_raw(2));
    });
}
