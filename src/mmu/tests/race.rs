//! The MMU against threads that change the entries under it.

use core::hint;
use std::thread;

use super::*;
use crate::table::Race;

const ROUNDS: u32 = 10_000;
/// Write-only, of a memory type that does not exist: the walkers end here.
const STOP: Entry = Entry::from_raw(2 | 7 << 3);

/// Replaces whatever stands in the slot; returns what it was.
fn swap(slot: &Slot, next: Entry) -> Entry {
    let mut seen = slot.load();
    loop {
        match slot.publish(seen, next) {
            Ok(()) => return seen,
            Err(Race) => seen = slot.load(),
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

// What a thread finds is asserted after all have ended: a panic would leave the walkers walking.

#[test]
fn each_dirty_bit_that_the_mmu_sets_is_in_what_an_unmap_takes() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    let slot = rig.slot(Level::L1);
    let (mut absent, mut taken) = (Vec::new(), Vec::new());
    let made_dirty = thread::scope(|scope| {
        let walkers = [(); 2].map(|()| scope.spawn(|| write_until_reserved(&rig)));
        for round in 0..ROUNDS {
            absent.push(swap(slot, Entry::from_raw(DATA | ALL)));
            // Unmap at every distance from the write; sometimes after it, also on one processor.
            (0..round % 64).for_each(|_| hint::spin_loop());
            if round % 64 == 0 {
                (0..100).take_while(|_| slot.load().raw() & 0x200 == 0).for_each(|_| {
                    thread::yield_now();
                });
            }
            taken.push(swap(slot, Entry::EMPTY));
        }
        swap(slot, STOP);
        walkers.map(|walker| walker.join().unwrap()).iter().sum::<u32>()
    });
    assert!(absent.iter().all(|&entry| entry == Entry::EMPTY), "bits in a non-present entry");
    let count = |raw| taken.iter().filter(|entry| entry.raw() == raw).count() as u32;
    let (clean, dirty) = (count(DATA | ALL), count(DATA | ALL | 0x300));
    assert_eq!(clean + dirty, ROUNDS);
    assert_eq!(dirty, made_dirty);
    assert!(dirty > 0);
}

#[test]
fn dirty_is_set_only_in_an_entry_that_allows_the_write() {
    // The entry goes back and forth between writable and not; the MMU must never mark the latter.
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, 1);
    let slot = rig.slot(Level::L1);
    let mut read_only = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mmu = rig.mmu();
            let cause = || mmu.translate(rig.gpa, Access::WRITE).map_err(|fault| fault.cause());
            while cause() != Err(Cause::Reserved) {}
        });
        for _ in 0..ROUNDS {
            swap(slot, Entry::from_raw(DATA | 3));
            swap(slot, Entry::from_raw(DATA | 1));
            read_only.push(slot.load().raw());
        }
        swap(slot, STOP);
    });
    assert!(read_only.iter().all(|&raw| raw == DATA | 1), "a write was let through");
}
