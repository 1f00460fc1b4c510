//! A migration in small: rounds of harvest, shoot-down and copy beside vCPUs, a device that writes guest
//! memory, and somebody who unmaps and maps pages.
//!
//! A page's contents are how often it was written. Each dirty mark that somebody set is taken by one
//! harvest or one unmap, or is there in the end; and what was written before a harvest begins is copied by
//! the end of its round, whether it was reported then or before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    vec::Vec,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Bitmap, Flush, Format, Gpa, GpaRange, Mark, Observer, ObserverId, Pinned, Tracking,
    mmu::{CacheConfig, Cause, DirtyChange, TranslationCache},
};

use crate::{
    WRITE,
    common::{Checked, Frames, GIB, PAGE, RWX, SMALL, at, every_format, pfn, range},
    crew::{Crew, Working, rounds},
};

/// On both sides of 1 GiB, in four leaf tables of which none begins or ends with them.
const FIRST: u64 = GIB - 700 * PAGE;
const PAGES: u64 = 1400;
/// The last of them are unmapped now and then.
const COME_AND_GO: u64 = 40;

/// What is known of each page.
#[derive(Debug, Default)]
struct Page {
    contents: AtomicU64,
    /// How many of the writes were over, with all that belongs to them.
    over: AtomicU64,
    copy: AtomicU64,
    /// Dirty marks that were set, and that somebody was told of.
    set: AtomicU64,
    told: AtomicU64,
}

impl Page {
    fn write(&self) {
        self.contents.fetch_add(1, Ordering::Relaxed);
    }

    fn end_write(&self) {
        self.over.fetch_add(1, Ordering::Release);
    }

    fn is_new(&self) -> bool {
        self.over.load(Ordering::Relaxed) == 0
    }

    fn copy(&self) {
        self.copy.fetch_max(self.contents.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

struct World<F: Format> {
    table: Checked<F>,
    pages: Vec<Page>,
    /// Who has to come out.
    flags: Vec<(ObserverId, AtomicBool)>,
}

fn area() -> GpaRange {
    range(FIRST, PAGES * PAGE)
}

fn gpa(page: u64) -> Gpa {
    at(FIRST + page * PAGE)
}

impl<F: Format> World<F> {
    fn page(&self, gpa: Gpa) -> &Page {
        &self.pages[((gpa.get() - FIRST) / PAGE) as usize]
    }

    fn shoot_down(&self, flush: Flush<'_>) {
        let kick = |id| {
            let flag = self.flags.iter().find(|(other, _)| *other == id);
            flag.expect("all are known").1.store(true, Ordering::Release);
        };
        flush.shootdown().wait(&kick).unwrap();
    }

    /// Harvests, and copies what is reported when nobody can write it unseen any more.
    fn round(&self, pin: Pinned<'_, F, Arc<Frames>>, mut found: Bitmap) {
        let written = |page: &Page| page.over.load(Ordering::Acquire);
        let before: Vec<_> = self.pages.iter().map(written).collect();
        let (count, flush) = pin.harvest(area(), Mark::Dirty, &mut found).unwrap();
        drop(pin);
        assert_eq!(count, found.count());
        self.shoot_down(flush);
        for (page, number) in self.pages.iter().zip(0..) {
            if found.contains(gpa(number)) {
                page.told.fetch_add(1, Ordering::Relaxed);
                page.copy();
            } else if number < PAGES - COME_AND_GO {
                let copied = page.copy.load(Ordering::Relaxed);
                assert!(copied >= before[number as usize], "page {number} was not reported");
            }
        }
    }

    /// A vCPU: writes pages, through caches that go stale.
    fn run(&self, mut observer: Observer<F, Arc<Frames>>, seed: u64, working: &Working) {
        let flag = &self.flags.iter().find(|(id, _)| *id == observer.id()).unwrap().1;
        let config = CacheConfig { tlb_entries: 256, walk_entries: 16 };
        let mut cache = TranslationCache::new(config);
        let mut rng = SmallRng::seed_from_u64(seed);
        while working.go_on() {
            let inside = observer.enter(Tracking::On);
            inside.refresh(&mut cache);
            // Few pages at a time, so that translations are used again.
            let near = rng.random_range(0..PAGES - 16);
            for _ in 0..200 {
                if flag.load(Ordering::Acquire) {
                    break;
                }
                let gpa = gpa(near + rng.random_range(0..16));
                match inside.mmu().translate_cached(&mut cache, gpa, WRITE) {
                    Ok(reached) => {
                        let page = self.page(gpa);
                        let set = u64::from(reached.dirty == DirtyChange::Set);
                        page.set.fetch_add(set, Ordering::Relaxed);
                        page.write();
                        page.end_write();
                    }
                    Err(fault) => assert_eq!(fault.cause(), Cause::NotPresent),
                }
            }
            drop(inside);
            flag.store(false, Ordering::Release);
        }
    }

    /// A device: writes pages, and says so.
    fn write_as_a_device(&self, working: &Working) {
        let reader = self.table.reader();
        let mut rng = SmallRng::seed_from_u64(77);
        while working.go_on() {
            let first = rng.random_range(0..PAGES - COME_AND_GO - 100);
            let mut written = Bitmap::new(range(gpa(first).get(), 100 * PAGE));
            let page = gpa(first + rng.random_range(0..100));
            written.set(page).unwrap();
            self.page(page).write();
            let newly = reader.pin().set_dirty(&written).unwrap();
            self.page(page).set.fetch_add(newly, Ordering::Relaxed);
            self.page(page).end_write();
        }
    }

    fn unmap_and_map(&self, working: &Working) {
        let reader = self.table.reader();
        let mut rng = SmallRng::seed_from_u64(78);
        while working.go_on() {
            let gpa = gpa(PAGES - 1 - rng.random_range(0..COME_AND_GO));
            let (old, flush) = reader.pin().unmap(gpa).unwrap();
            self.shoot_down(flush);
            if old.dirty {
                self.page(gpa).told.fetch_add(1, Ordering::Relaxed);
                self.page(gpa).copy();
            }
            reader.pin().map(gpa, old.pfn, SMALL, RWX).unwrap();
        }
    }

    fn balance(&self) {
        let mut left = Bitmap::new(area());
        self.table.pin().query(area(), Mark::Dirty, &mut left).unwrap();
        for (page, number) in self.pages.iter().zip(0..) {
            let [set, told] = [&page.set, &page.told].map(|count| count.load(Ordering::Relaxed));
            let there = u64::from(left.contains(gpa(number)));
            assert_eq!(told + there, set, "dirty marks of page {number}");
            let [contents, copy] =
                [&page.contents, &page.copy].map(|count| count.load(Ordering::Relaxed));
            assert!(copy == contents || there == 1, "page {number} was written and is not copied");
        }
        let copied: u64 = self.pages.iter().map(|page| page.copy.load(Ordering::Relaxed)).sum();
        assert!(copied > 0);
    }
}

every_format! {
    /// D5, invariant 2.
    fn what_is_written_is_harvested_in_its_round_and_reported_once(format: impl Format) {
        let table = Checked::new(format, 24);
        table.populate_mapped(area(), SMALL, pfn(0x100), RWX).unwrap();
        let observers = [table.observer(), table.observer()];
        let flags = observers.iter().map(|observer| (observer.id(), AtomicBool::new(false)));
        let flags = flags.collect();
        let pages = (0..PAGES).map(|_| Page::default()).collect();
        let world = &World { table, pages, flags };
        let mut crew = Crew::new();
        crew.worker(|| {
            let reader = world.table.reader();
            let mut left = rounds(40);
            // The others may not have begun yet.
            while left > 0 || world.pages.iter().all(Page::is_new) {
                world.round(reader.pin(), Bitmap::new(area()));
                left = left.saturating_sub(1);
            }
            world.round(reader.pin(), Bitmap::new(area()));
        });
        for (observer, seed) in observers.into_iter().zip(70..) {
            crew.meanwhile(move |working| world.run(observer, seed, working));
        }
        crew.meanwhile(|working| world.write_as_a_device(working));
        crew.meanwhile(|working| world.unmap_and_map(working));
        crew.run();
        world.balance();
    }
}
