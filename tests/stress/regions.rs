//! Regions that come, go and change under vCPUs that fault.
//!
//! What a vCPU writes into a page says where it is: which region, which page, and which generation of its contents.
//! Who takes pages away begins a new generation first, and ends the old one when that is done; so what a vCPU reads
//! is nothing, or of a generation that had not ended when it began to look. Frames are handed out again at once, and what is in them
//! is of somebody else then.

use std::sync::{
    RwLock,
    atomic::{AtomicU64, Ordering},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Bitmap, Fault, FaultError, Format, Gpa, GpaRange, OnDemand, PageSize, Prot, Tracking,
    mmu::Access,
};

use crate::{
    common::{GIB, MIB, PAGE, RWX, SMALL, at, every_format, range, scaled},
    crew::{Crew, Working, rounds},
    rig::{Audited, Cpu, READ, Rig, WRITE, nth, right},
};

/// Pages of each place where a region can be.
const PAGES: u64 = 48;
const PLACES: usize = 3;
/// So many changes, at least, each who makes some.
const CHANGES: u64 = 20;

/// Where a region comes and goes.
struct Place {
    whole: GpaRange,
    /// Of each page: the generation that has begun, and the first that has not ended.
    generations: Vec<[AtomicU64; 2]>,
    /// What is there now. Held by who changes it.
    state: RwLock<Option<GpaRange>>,
}

impl Place {
    fn new(start: u64) -> Self {
        let generations = (0..PAGES).map(|_| [AtomicU64::new(1), AtomicU64::new(1)]).collect();
        Self { whole: range(start, PAGES * PAGE), generations, state: RwLock::new(None) }
    }

    /// Takes away what is in the pages from `first` on.
    fn renew<T>(&self, first: u64, pages: u64, take_away: impl FnOnce() -> T) -> T {
        let generations = &self.generations[first as usize..(first + pages) as usize];
        for [begun, _] in generations {
            begun.fetch_add(1, Ordering::SeqCst);
        }
        let done = take_away();
        for [_, lives] in generations {
            lives.fetch_add(1, Ordering::SeqCst);
        }
        done
    }

    /// The generation of what is written now.
    fn begun(&self, page: u64) -> u64 {
        self.generations[page as usize][0].load(Ordering::SeqCst)
    }

    /// The oldest generation that may be read still.
    fn lives(&self, page: u64) -> u64 {
        self.generations[page as usize][1].load(Ordering::SeqCst)
    }
}

/// What a vCPU writes: place and page, and a generation.
fn stamp(place: usize, page: u64, generation: u64) -> u64 {
    (place as u64 + 1) << 56 | page << 40 | generation
}

struct World<F: Format> {
    rig: Rig<F>,
    places: [Place; PLACES],
}

impl<F: Format> World<F> {
    fn new(format: F) -> Self {
        let starts = [2 * MIB - 20 * PAGE, 4 * MIB, GIB - PAGE];
        Self { rig: Rig::new(format), places: starts.map(Place::new) }
    }

    fn backing(&self, largest: PageSize) -> OnDemand {
        let memory = std::sync::Arc::clone(&self.rig.memory);
        OnDemand::new(memory as _, PAGES, largest)
    }

    fn map(&self, place: &Place, pages: u64) -> GpaRange {
        let area = range(place.whole.start().get(), pages * PAGE);
        let backing = self.rig.watch(&Audited::over(self.backing(SMALL)));
        self.rig.map_region(area, backing, 0, RWX).unwrap();
        area
    }

    /// Makes a region at each place.
    fn open(&self) {
        for place in &self.places {
            *place.state.write().unwrap() = Some(self.map(place, PAGES));
        }
    }

    /// Changes one place in some way.
    fn change(&self, rng: &mut SmallRng) {
        let rig = &self.rig;
        let place = &self.places[rng.random_range(0..PLACES)];
        let mut state = place.state.write().unwrap();
        let Some(now) = *state else {
            *state = Some(self.map(place, rng.random_range(1..=PAGES)));
            return;
        };
        match rng.random_range(0..12) {
            0 | 1 => {
                place.renew(0, now.pages(), || rig.unmap_region(now).unwrap());
                *state = None;
            }
            2 | 3 => {
                let backing = rig.watch(&Audited::over(self.backing(SMALL)));
                let replace = || rig.replace_backing(now, backing, 0).unwrap();
                place.renew(0, now.pages(), replace);
            }
            4..=6 => {
                let pages = rng.random_range(1..=PAGES);
                let new = range(now.start().get(), pages * PAGE);
                let less = now.pages().saturating_sub(pages);
                let first = now.pages() - less;
                place.renew(first, less, || rig.resize_region(now, new).unwrap());
                *state = Some(new);
            }
            7 | 8 => {
                let first = rng.random_range(0..now.pages());
                let pages = rng.random_range(1..=now.pages() - first);
                let part = range(nth(now, first), pages * PAGE);
                let given_up = place.renew(first, pages, || rig.discard(part).unwrap());
                assert!(given_up <= pages);
            }
            9 => {
                let rights = [Prot::R, Prot::RW, Prot::RWX, Prot::R | Prot::X];
                rig.protect_region(now, rights[rng.random_range(0..4)]).unwrap();
            }
            10 => {
                let tracking = if rng.random() { Tracking::On } else { Tracking::Off };
                rig.track_dirty(tracking).unwrap();
            }
            _ => {
                // Somebody else may shrink it meanwhile.
                drop(state);
                let _ = rig.prefault(now, crate::rig::go_on);
            }
        }
    }

    /// Changes this and that while vCPUs run; returns how often.
    fn go_on_changing(&self, working: &Working, seed: u64) -> u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut changes = 0;
        while changes < CHANGES || working.go_on() {
            self.change(&mut rng);
            changes += 1;
        }
        changes
    }

    /// A vCPU reads and writes here and there.
    fn run(&self, steps: u64, seed: u64) -> u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut cpu = self.rig.cpu();
        let mut reached = 0;
        let mut left = steps;
        // Whoever changes regions may have taken them all away, and stopped there, for as long as that takes.
        while left > 0 || reached == 0 {
            left = left.saturating_sub(1);
            match rng.random_range(0..64) {
                0 => cpu = self.rig.cpu(),
                1 => {
                    let around = 1 << rng.random_range(0..6);
                    cpu.vcpu.set_fault_around(around).unwrap();
                }
                2..6 => self.hold(&cpu, &mut rng),
                _ => reached += self.touch(&mut cpu, &mut rng),
            }
        }
        reached
    }

    /// Accesses a page, and resolves its fault; returns how many pages it reached.
    fn touch(&self, cpu: &mut Cpu<F>, rng: &mut SmallRng) -> u64 {
        let index = rng.random_range(0..PLACES);
        let page = rng.random_range(0..PAGES);
        let place = &self.places[index];
        let access = if rng.random() { WRITE } else { READ };
        let gpa = nth(place.whole, page);
        for _ in 0..3 {
            if self.attempt(cpu, index, page, access) {
                return 1;
            }
            self.resolve(cpu, at(gpa), right(access));
        }
        0
    }

    /// Accesses a page once; tells whether that went through.
    fn attempt(&self, cpu: &mut Cpu<F>, index: usize, page: u64, access: Access) -> bool {
        let place = &self.places[index];
        let gpa = nth(place.whole, page);
        // What has not ended by now may be read until it has.
        let since = place.lives(page);
        let reached = cpu.attempt(gpa, access, |memory, pfn| {
            let word = memory.read(pfn);
            if word != 0 {
                let (said, known) = (word & !0xff_ffff_ffff, stamp(index, page, 0));
                assert_eq!(said, known, "{gpa:#x} shows another page: {word:#x}");
                let generation = word & 0xff_ffff_ffff;
                assert!(generation >= since, "{gpa:#x} shows {generation}, not {since}");
            }
            if access == WRITE {
                // Before anybody can end it: this vCPU is inside.
                memory.write(pfn, stamp(index, page, place.begun(page)));
            }
        });
        reached.is_ok()
    }

    fn resolve(&self, cpu: &Cpu<F>, gpa: Gpa, access: Prot) {
        match cpu.vcpu.fault(gpa, access) {
            Ok(Fault::Resolved | Fault::Retry)
            | Err(FaultError::NoRegion { .. } | FaultError::Denied { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Holds a page: nobody else gets its frame.
    fn hold(&self, cpu: &Cpu<F>, rng: &mut SmallRng) {
        let place = &self.places[rng.random_range(0..PLACES)];
        let gpa = at(nth(place.whole, rng.random_range(0..PAGES)));
        let access = if rng.random() { Prot::R } else { Prot::RW };
        match cpu.vcpu.hold(gpa, access) {
            Ok(hold) => {
                // It would panic if the frame were free.
                let before = self.rig.memory.read(hold.frame());
                let page = before >> 40;
                std::thread::yield_now();
                let now = self.rig.memory.read(hold.frame());
                assert!(before == 0 || now >> 40 == page, "{before:#x} became {now:#x}");
                match rng.random_range(0..4) {
                    0 => hold.defer_written(),
                    1 => drop(hold),
                    2 => drop(hold.release_written()),
                    _ => drop(hold.release()),
                }
            }
            Err(FaultError::NoRegion { .. } | FaultError::Denied { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Takes everything away, and checks that all is back.
    fn close(&self, tables: u64) {
        let rig = &self.rig;
        rig.track_dirty(Tracking::Off).unwrap();
        // What was put off is done by a look, also by one that is refused.
        let nowhere = self.places[0].whole;
        assert!(rig.dirty(nowhere, &mut Bitmap::new(nowhere)).is_err());
        for place in &self.places {
            let mut state = place.state.write().unwrap();
            if let Some(now) = state.take() {
                rig.protect_region(now, Prot::RWX).unwrap();
                assert!(rig.prefault(now, crate::rig::go_on).unwrap() == now.pages());
                rig.audit();
                place.renew(0, now.pages(), || rig.unmap_region(now).unwrap());
            }
        }
        rig.clear();
        rig.forget();
        rig.table().reclaim(&|id| rig.kicks.kick(id));
        assert_eq!(rig.memory.free(), crate::rig::DATA, "frames of data");
        assert_eq!(rig.free_tables(), tables, "frames of tables");
        assert_eq!((rig.stats().resident, rig.stats().held), (0, 0));
    }
}

every_format! {
    #![and_without_bits]
    fn no_vcpu_sees_a_stale_page_and_all_frames_come_back(format: impl Format) {
        let seed = scaled("SLAT_STRESS_SEED", 1);
        let world = World::new(format);
        let tables = world.rig.free_tables();
        for (round, vcpus) in [2, 3, 5, 8].into_iter().enumerate() {
            let seed = seed * 1000 + 10 * round as u64;
            let steps = rounds(24_000) / vcpus;
            world.open();
            let mut crew = Crew::new();
            for thread in 0..vcpus {
                let world = &world;
                crew.worker(move || world.run(steps, seed + 100 + thread));
            }
            for thread in 0..2 {
                let world = &world;
                crew.meanwhile(move |working| world.go_on_changing(working, seed + thread));
            }
            crew.run();
            world.close(tables);
        }
    }
}
