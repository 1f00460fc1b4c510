//! Races on one machine: threads that begin together, and accounts that must balance afterwards.
//!
//! `SLAT_STRESS_SCALE` multiplies the rounds.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod control;
mod crew;
mod harvest;
mod mixed;
mod regions;
mod removal;
mod resize;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, unused_macros, reason = "each test program uses another part")]
#[path = "../space/rig/mod.rs"]
mod rig;
mod structure;
mod tracking;

use std::{sync::Barrier, thread};

use common::{Checked, PAGE, RWX, SMALL, at, every_format, pfn, range, scaled};
use crew::{Crew, rounds};
use slat::{
    MapError, Mapped, Prot, Tracking,
    mmu::{Access, DirtyChange, Mode},
};

/// As the page's attributes are: nothing here is a user's.
const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
const READ: Access = Access::READ.in_mode(Mode::Supervisor);

every_format! {
    /// L3, invariants 1 and 5.
    fn no_map_that_was_reported_is_lost_to_a_racing_unmap(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        // All of them in every build: races so rare take that many.
        let rounds = 100_000 * scaled("SLAT_STRESS_SCALE", 1);
        let mut crew = Crew::new();
        crew.worker(|| {
            let reader = table.reader();
            let mut pin = reader.pin();
            let mut new = Vec::new();
            for token in 0..rounds {
                pin.repin();
                match pin.map(at(0), pfn(token), SMALL, RWX) {
                    Ok(Mapped::New) => new.push(token),
                    Err(MapError::Occupied(there)) => {
                        assert_eq!(Some(&there.pfn.get()), new.last(), "another frame's mapping");
                    }
                    other => panic!("{other:?}"),
                }
            }
            new
        });
        crew.meanwhile(|working| {
            let reader = table.reader();
            let mut gone = Vec::new();
            while working.go_on() {
                if let Ok((mapping, _)) = reader.pin().unmap(at(0)) {
                    gone.push(mapping.pfn.get());
                }
            }
            gone
        });
        let [new, mut gone] = crew.run().try_into().unwrap();
        gone.extend(table.pin().lookup(at(0)).map(|mapping| mapping.pfn.get()));
        assert_eq!(new, gone);
    }

    /// L4, invariant 5.
    fn of_racing_unmaps_of_a_page_exactly_one_gets_it(format: impl Format) {
        const PAGES: u64 = 40;
        let table = Checked::new(format, 8);
        let area = range(512 * PAGE - PAGES / 2 * PAGE, PAGES * PAGE);
        table.populate(area, SMALL).unwrap();
        let start = area.start().get();
        let barrier = &Barrier::new(3);
        let rounds = rounds(1600);
        let mut crew = Crew::new();
        for way in 0..3 {
            let table = &table;
            crew.worker(move || {
                let reader = table.reader();
                let mut counts = Vec::new();
                for round in 0..rounds {
                    if way == 0 {
                        reader.pin().map_range(area, pfn(round), RWX).unwrap();
                    }
                    barrier.wait();
                    let pin = reader.pin();
                    let mut got = 0;
                    let pages = (0..PAGES).map(|page| at(start + page * PAGE));
                    match (way + round) % 3 {
                        0 => pages.for_each(|gpa| got += u64::from(pin.unmap(gpa).is_ok())),
                        1 => got = pin.unmap_range(area, drop).unwrap().0,
                        _ => {
                            let count = |_, result: Result<_, _>| got += u64::from(result.is_ok());
                            let _ = pin.unmap_many(pages, count);
                        }
                    }
                    drop(pin);
                    counts.push(got);
                    barrier.wait();
                }
                counts
            });
        }
        let counts = crew.run();
        for round in 0..rounds as usize {
            let total: u64 = counts.iter().map(|counts| counts[round]).sum();
            assert_eq!(total, PAGES, "in round {round}");
        }
    }

    /// Invariant 4.
    fn of_racing_maps_of_a_page_exactly_one_is_new(format: impl Format) {
        const PAGES: u64 = 600;
        let table = Checked::new(format, 8);
        let area = range(0, PAGES * PAGE);
        table.populate(area, SMALL).unwrap();
        for round in 0..rounds(64) {
            let mut crew = Crew::new();
            for thread in 0..3 {
                let table = &table;
                crew.worker(move || {
                    let reader = table.reader();
                    let pin = reader.pin();
                    // The third thread maps the second one's frames.
                    let first = if thread == 0 { 0x1_0000 } else { 0x2_0000 };
                    let mut results = Vec::new();
                    let pages = (0..PAGES).map(|page| (at(page * PAGE), pfn(first + page)));
                    if round % 2 == 0 {
                        pin.map_many(pages, RWX, |_, mapped| results.push(mapped));
                    } else {
                        results.extend(pages.map(|(gpa, pfn)| pin.map(gpa, pfn, SMALL, RWX)));
                    }
                    results
                });
            }
            let results = crew.run();
            let pin = table.pin();
            for (page, there) in pin.mappings(area).unwrap().enumerate() {
                let new = results.iter().filter(|results| results[page] == Ok(Mapped::New));
                assert_eq!(new.count(), 1, "page {page}");
                for (thread, results) in results.iter().enumerate() {
                    let mine = (there.pfn.get() < 0x2_0000) == (thread == 0);
                    match results[page] {
                        Ok(_) => assert!(mine),
                        Err(MapError::Occupied(found)) => assert!(!mine && found == there),
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!(pin.unmap_range(area, drop).unwrap().0, PAGES);
        }
    }

    /// L5, invariant 2.
    fn a_dirty_bit_that_the_mmu_sets_is_in_what_unmap_returns(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        let rounds = rounds(60_000);
        let mut crew = Crew::new();
        crew.worker(|| {
            let reader = table.reader();
            let mut dirty = 0;
            for token in 0..rounds {
                let pin = reader.pin();
                assert_eq!(pin.map(at(0), pfn(token), SMALL, RWX), Ok(Mapped::New));
                if token % 64 == 0 {
                    thread::yield_now();
                }
                let (mapping, _) = pin.unmap(at(0)).unwrap();
                assert_eq!(mapping.pfn, pfn(token));
                assert!(mapping.accessed || !mapping.dirty, "the MMU sets both");
                dirty += u64::from(mapping.dirty);
            }
            dirty
        });
        crew.meanwhile(|working| {
            let mut observer = table.observer();
            let inside = observer.enter(Tracking::On);
            let mmu = inside.mmu();
            let mut set = 0;
            while working.go_on() {
                if let Ok(written) = mmu.translate(at(8), WRITE) {
                    set += u64::from(written.dirty == DirtyChange::Set);
                }
            }
            set
        });
        let [reported, set] = crew.run().try_into().unwrap();
        assert_eq!(reported, set);
    }

    /// Invariants 2 and 11.
    fn a_dirty_bit_is_cleared_once_and_kept_by_protect(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        table.map(0, 1);
        let rounds = rounds(30_000);
        let mut crew = Crew::new();
        for thread in 0..2 {
            let table = &table;
            crew.worker(move || {
                let reader = table.reader();
                let pin = reader.pin();
                let slot = pin.slot(at(0)).unwrap();
                let mut cleared = 0;
                for round in 0..rounds {
                    // Accessed is somebody else's business, and must not take dirty with it.
                    if (round + thread) % 3 == 0 {
                        slot.clear_accessed();
                    }
                    cleared += u64::from(slot.clear_dirty());
                }
                cleared
            });
        }
        crew.meanwhile(|working| {
            let reader = table.reader();
            while working.go_on() {
                let pin = reader.pin();
                for prot in [Prot::R, Prot::RW, Prot::RWX] {
                    let _ = pin.protect(range(0, PAGE), prot).unwrap();
                }
                assert_eq!(pin.lookup(at(0)).map(|there| there.pfn), Some(pfn(1)), "hidden");
            }
            0
        });
        crew.meanwhile(|working| {
            let mut observer = table.observer();
            let inside = observer.enter(Tracking::On);
            let mmu = inside.mmu();
            let mut set = 0;
            while working.go_on() {
                assert_eq!(mmu.translate(at(0), READ).map(|read| read.pfn), Ok(pfn(1)), "hidden");
                if let Ok(written) = mmu.translate(at(0), WRITE) {
                    set += u64::from(written.dirty == DirtyChange::Set);
                }
            }
            set
        });
        let results = crew.run();
        let left = u64::from(table.pin().lookup(at(0)).unwrap().dirty);
        assert_eq!(results[0] + results[1] + left, results[3]);
    }
}
