//! Dirty tracking, switched on and off under vCPUs that write all the time, and a device that writes beside
//! them: whoever copies what each round reports has everything in the end.
//!
//! The contents of a page are a number that each write makes greater. The copier keeps to the rule: what is
//! written until the end of a round's shoot-down belongs to the round, and is copied behind it.

use std::sync::{
    Arc, Mutex, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Bitmap, Fixed, Flush, Format, Gpa, GpaRange, Mark, Observer, ObserverId, PageSize, Tracking,
    mmu::{CacheConfig, Cause, TranslationCache},
};

use crate::{
    READ, WRITE,
    common::{
        BASE, Checked, Frames, MIB, PAGE, RWX, SMALL, at, dump, every_format, pfn, range, scaled,
    },
    crew::{Crew, Working, rounds},
};

/// Small pages on both sides of a leaf table's end, and behind them a large leaf.
const FIRST: u64 = 2 * MIB - 12 * PAGE;
const SMALL_PAGES: u64 = 524;
const LARGE: u64 = 4 * MIB;
/// The pages that are written: all small ones that are near an end, and some of the large leaf.
const WRITTEN: usize = 32;

struct World<F: Format> {
    table: Checked<F>,
    /// What is in each of the pages that are written.
    contents: [AtomicU64; WRITTEN],
    /// How often vCPUs wrote.
    written: AtomicU64,
    /// Held, shared, by whoever may write.
    running: RwLock<()>,
    flags: Mutex<Vec<(ObserverId, Arc<AtomicBool>)>>,
    large: bool,
}

impl<F: Format> World<F> {
    fn new(format: F) -> Self {
        let table = Checked::with(format, Frames::with_base(BASE, 64));
        let large = format.supports(PageSize::Size2M);
        table.populate(range(FIRST, SMALL_PAGES * PAGE), SMALL).unwrap();
        let pin = table.pin();
        pin.map_range(range(FIRST, SMALL_PAGES * PAGE), pfn(0x1000), RWX).unwrap();
        if large {
            table.populate(range(LARGE, 2 * MIB), PageSize::Size2M).unwrap();
            pin.map(at(LARGE), pfn(0x2000), PageSize::Size2M, RWX).unwrap();
        }
        drop(pin);
        Self {
            table,
            contents: [const { AtomicU64::new(0) }; WRITTEN],
            written: AtomicU64::new(0),
            running: RwLock::new(()),
            flags: Mutex::default(),
            large,
        }
    }

    /// Returns the address of the page with the contents `index`.
    fn page(&self, index: usize) -> Gpa {
        let index = index as u64;
        match index {
            0..24 => at(FIRST + index * PAGE),
            24..28 if self.large => at(LARGE + (index - 24) * 100 * PAGE),
            _ => at(FIRST + (SMALL_PAGES - 1 - (index - 24)) * PAGE),
        }
    }

    fn whole(&self) -> GpaRange {
        range(FIRST, if self.large { LARGE + 2 * MIB - FIRST } else { SMALL_PAGES * PAGE })
    }

    fn write(&self, index: usize) {
        // Relaxed, as the stores of a guest are to anybody else.
        self.contents[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until vCPUs have written some more.
    fn let_run(&self) {
        let before = self.written.load(Ordering::Relaxed);
        while self.written.load(Ordering::Relaxed) < before + 40 {
            assert!(!self.running.is_poisoned(), "a thread that runs failed");
            std::thread::yield_now();
        }
    }

    fn shoot_down(&self, flush: Flush<'_>) {
        let kick = |id: ObserverId| {
            let flags = self.flags.lock().unwrap();
            let listed = flags.iter().find(|(listed, _)| *listed == id);
            listed.unwrap().1.store(true, Ordering::Release);
        };
        flush.shootdown().wait(&kick).unwrap();
    }
}

struct Vcpu<'w, F: Format> {
    world: &'w World<F>,
    tracking: Tracking,
    observer: Observer<F, Arc<Frames>>,
    cache: TranslationCache,
    flag: Arc<AtomicBool>,
    rng: SmallRng,
}

impl<'w, F: Format> Vcpu<'w, F> {
    fn new(world: &'w World<F>, tracking: Tracking, rng: SmallRng) -> Self {
        let observer = world.table.observer();
        let flag = Arc::new(AtomicBool::new(false));
        world.flags.lock().unwrap().push((observer.id(), Arc::clone(&flag)));
        let cache = TranslationCache::new(CacheConfig { tlb_entries: 64, walk_entries: 8 });
        Self { world, tracking, observer, cache, flag, rng }
    }

    /// Runs; returns how many faults it fixed.
    fn run(mut self, working: &Working) -> u64 {
        let reader = self.world.table.reader();
        let mut count = 0;
        while working.go_on() {
            let running = self.world.running.read().unwrap();
            if let Some(fault) = self.stay() {
                let fixed = reader.pin().fix_write(fault).unwrap();
                count += u64::from(fixed == Fixed::Dirtied);
            }
            drop(running);
        }
        count
    }

    /// Enters and writes; returns where a write faulted.
    fn stay(&mut self) -> Option<Gpa> {
        let Self { world, tracking, observer, cache, flag, rng } = self;
        let inside = observer.enter(*tracking);
        inside.refresh(cache);
        for _ in 0..rng.random_range(1..60) {
            if flag.load(Ordering::Acquire) {
                break;
            }
            let index = rng.random_range(0..WRITTEN);
            let access = if rng.random_range(0..3) == 0 { READ } else { WRITE };
            match inside.mmu().translate_cached(cache, world.page(index), access) {
                Ok(_) if access == WRITE => {
                    world.write(index);
                    world.written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(fault) => {
                    assert_eq!((access, fault.cause()), (WRITE, Cause::Rights));
                    drop(inside);
                    flag.store(false, Ordering::Release);
                    return Some(world.page(index));
                }
            }
        }
        drop(inside);
        flag.store(false, Ordering::Release);
        None
    }
}

/// Writes memory without an MMU, and says so afterwards.
fn device<F: Format>(world: &World<F>, mut rng: SmallRng, working: &Working) -> u64 {
    let reader = world.table.reader();
    while working.go_on() {
        let running = world.running.read().unwrap();
        let index = rng.random_range(0..WRITTEN);
        world.write(index);
        reader.pin().note_dirty(world.page(index)).unwrap();
        drop(running);
        std::thread::yield_now();
    }
    0
}

/// Migrates again and again: everything first, then what each round reports, the last while nobody runs.
fn copier<F: Format>(world: &World<F>, mut rng: SmallRng) -> u64 {
    let reader = world.table.reader();
    let whole = world.whole();
    let look = |index: usize| world.contents[index].load(Ordering::Relaxed);
    for migration in 0..rounds(24) {
        let (_, flush) = reader.pin().watch(whole).unwrap();
        world.shoot_down(flush);
        let mut copies: [u64; WRITTEN] = std::array::from_fn(look);
        let mut round = || {
            let mut dirty = Bitmap::new(whole);
            let (_, flush) = reader.pin().harvest(whole, Mark::Dirty, &mut dirty).unwrap();
            world.shoot_down(flush);
            for index in (0..WRITTEN).filter(|&index| dirty.contains(world.page(index))) {
                copies[index] = look(index);
            }
        };
        for _ in 0..rng.random_range(1..6) {
            world.let_run();
            round();
        }
        world.let_run();
        let stopped = world.running.write().unwrap();
        round();
        assert_eq!(copies, std::array::from_fn(look), "a write was lost in migration {migration}");
        drop(stopped);
        // Now and then they stay watched, until the next one.
        if rng.random_range(0..4) != 0 {
            reader.pin().unwatch(whole).unwrap();
            world.let_run();
        }
    }
    0
}

every_format! {
    #![and_without_bits]

    /// D13: one vCPU whose MMU keeps dirty bits, if it can, and one whose MMU keeps none, if it can.
    fn no_write_is_lost_while_tracking_is_switched_on_and_off(format: impl Format) {
        let seed = scaled("SLAT_STRESS_SEED", 0x51a7);
        println!("SLAT_STRESS_SEED={seed}");
        let rng = |number| SmallRng::seed_from_u64(seed + number);
        let world = World::new(format);
        let world = &world;
        let mut crew = Crew::new();
        crew.worker(|| copier(world, rng(0)));
        for (number, tracking) in [(1, Tracking::On), (2, Tracking::Off)] {
            crew.meanwhile(move |working| Vcpu::new(world, tracking, rng(number)).run(working));
        }
        crew.meanwhile(|working| device(world, rng(3), working));
        assert!(crew.run().into_iter().sum::<u64>() > 0, "no write faulted");
        for (.., entry) in dump(&world.table) {
            let bits = format.accessed_bit() | format.dirty_bit();
            assert!(format.is_present(entry) || !entry.has(bits));
        }
    }
}
