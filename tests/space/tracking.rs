//! Dirty tracking, switched on and off under vCPUs that write all the time (D13).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{Bitmap, DirtyError, GpaRange, HarvestError, Prot, Tracking};

use crate::{
    common::{GIB, MIB, PAGE, at, every_format, range, scaled},
    rig::{Cpu, Memory, READ, Rig, WRITE, addresses, nth, part},
};

/// What a migration has copied.
struct Copies(BTreeMap<u64, u64>);

impl Copies {
    /// Copies pages, as a device reads them.
    fn take<F: slat::Format>(&mut self, rig: &Rig<F>, cpu: &Cpu<F>, pages: &[u64]) {
        for &page in pages {
            // A page that nobody has touched has nothing in it.
            let hold = cpu.vcpu.hold(at(page), Prot::R).unwrap();
            self.0.insert(page, rig.memory.read(hold.frame()));
            hold.release();
        }
    }
}

fn all(area: GpaRange) -> Vec<u64> {
    (0..area.pages()).map(|page| nth(area, page)).collect()
}

every_format! {
    #![and_without_bits]
    /// D13.
    fn no_dirty_page_is_lost_while_tracking_comes_and_goes(format: impl Format) {
        const PAGES: u64 = 24;
        let rounds = scaled("SLAT_STRESS_SCALE", 1) * if cfg!(debug_assertions) { 6 } else { 20 };
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(2 * MIB - 12 * PAGE, PAGES * PAGE);
        let rig = &rig;
        for round in 0..rounds {
            let stop = &AtomicBool::new(false);
            let mut copies = Copies(BTreeMap::new());
            let device = rig.cpu();
            thread::scope(|scope| {
                for thread in 0..2 {
                    let mut cpu = rig.cpu();
                    scope.spawn(move || {
                        let mut rng = SmallRng::seed_from_u64(2 * round + thread);
                        while !stop.load(Ordering::SeqCst) {
                            let gpa = nth(area, rng.random_range(0..PAGES));
                            if rng.random_range(0..4) == 0 {
                                cpu.access(gpa, READ, Memory::read).unwrap();
                            } else {
                                cpu.access(gpa, WRITE, |memory, pfn| memory.add(pfn, 1)).unwrap();
                            }
                        }
                    });
                }
                let device_writes = scope.spawn(move || {
                    let cpu = rig.cpu();
                    let mut rng = SmallRng::seed_from_u64(round);
                    while !stop.load(Ordering::SeqCst) {
                        let gpa = at(nth(area, rng.random_range(0..PAGES)));
                        let hold = cpu.vcpu.hold(gpa, Prot::RW).unwrap();
                        match rng.random_range(0..4) {
                            0 => drop(hold.release()),
                            written => {
                                rig.memory.add(hold.frame(), 1);
                                match written {
                                    1 => drop(hold.release_written()),
                                    2 => hold.defer_written(),
                                    _ => drop(hold),
                                }
                            }
                        }
                    }
                });
                for _ in 0..2 {
                    rig.track();
                    copies.take(rig, &device, &all(area));
                    for look in 0..4 {
                        if look == 2 {
                            rig.discard(part(area, round % PAGES, 1)).unwrap();
                        }
                        let dirty = rig.look(area);
                        copies.take(rig, &device, &dirty);
                    }
                    rig.track_dirty(Tracking::Off).unwrap();
                    thread::yield_now();
                }
                rig.track();
                copies.take(rig, &device, &all(area));
                copies.take(rig, &device, &rig.look(area));
                stop.store(true, Ordering::SeqCst);
                device_writes.join().unwrap();
            });
            let dirty = rig.look(area);
            copies.take(rig, &device, &dirty);
            for (&gpa, &copied) in &copies.0 {
                let there = rig.memory.read(rig.frame(gpa));
                assert_eq!(copied, there, "round {round}: {gpa:#x} was written unnoticed");
            }
            assert_eq!(copies.0.len() as u64, PAGES);
            rig.track_dirty(Tracking::Off).unwrap();
            rig.audit();
            if round % 3 == 2 {
                rig.discard(area).unwrap();
            }
        }
    }

    fn what_was_written_before_is_not_reported_and_what_comes_after_is(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB - 4 * PAGE, 8 * PAGE);
        let mut cpu = rig.cpu();
        for _ in 0..3 {
            let mut found = Bitmap::new(area);
            assert_eq!(rig.dirty(area, &mut found), Err(DirtyError::NotTracked));
            (0..4).for_each(|page| cpu.writes(nth(area, page), 1));
            rig.track();
            rig.track();
            assert!(rig.look(area).is_empty());
            for page in [0, 3] {
                cpu.writes(nth(area, page), 2);
                cpu.writes(nth(area, page), 3);
            }
            cpu.reads(nth(area, 1), 1);
            assert_eq!(rig.look(area), [0, 3].map(|page| nth(area, page)));
            // A page that was reported is reported again when it is written again.
            cpu.writes(nth(area, 3), 4);
            assert_eq!(rig.look(area), [nth(area, 3)]);
            cpu.writes(nth(area, 2), 4);
            rig.track_dirty(Tracking::Off).unwrap();
            rig.track_dirty(Tracking::Off).unwrap();
            cpu.writes(nth(area, 2), 5);
            rig.audit();
        }
    }

    fn a_look_is_of_its_range_alone(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 16 * PAGE);
        let mut cpu = rig.cpu();
        (0..16).for_each(|page| cpu.writes(nth(area, page), 1));
        rig.track();
        (0..16).for_each(|page| cpu.writes(nth(area, page), 1));
        let small = part(area, 3, 4);
        let mut found = Bitmap::new(small);
        let refused = rig.dirty(area, &mut found);
        assert!(matches!(refused, Err(DirtyError::Harvest(HarvestError::NotCovered(_)))));
        assert_eq!(rig.look(small).len(), 4);
        // A bitmap may be of more, and what is in it stays.
        let mut found = Bitmap::new(range(0, 2 * GIB));
        found.set(at(5 * PAGE)).unwrap();
        assert_eq!(rig.dirty(area, &mut found), Ok(12));
        let rest: Vec<u64> = (0..16).filter(|page| !(3..7).contains(page)).collect();
        let rest = rest.into_iter().map(|page| nth(area, page));
        assert!(addresses(&found).into_iter().eq([5 * PAGE].into_iter().chain(rest)));
        rig.audit();
    }

    fn pages_that_were_altered_count_whatever_is_in_the_bitmap(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 16 * PAGE);
        let mut cpu = rig.cpu();
        (0..16).for_each(|page| cpu.writes(nth(area, page), 1));
        rig.track();
        let mut found = Bitmap::new(area);
        for _ in 0..2 {
            cpu.writes(nth(area, 1), 1);
            cpu.writes(nth(area, 2), 1);
            rig.discard(part(area, 2, 3)).unwrap();
            rig.discard(part(area, 3, 3)).unwrap();
            assert_eq!(rig.dirty(area, &mut found), Ok(5), "one page written, and four given up");
        }
        assert_eq!(found.count(), 5);
    }

    fn what_is_altered_again_and_again_takes_no_more_memory(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 64 * PAGE);
        rig.track();
        for round in 0..2000 {
            rig.discard(part(area, round * 7 % 62, 2)).unwrap();
        }
        assert!(rig.look(area).len() >= 62);
        assert!(rig.look(area).is_empty());
    }
}
