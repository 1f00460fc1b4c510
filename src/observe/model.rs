//! The protocol of observers under loom, without tables: a slot that says whether a page is mapped,
//! and the page, which is not atomic, so that loom ends every execution in which somebody uses it
//! again while another may still reach it.

use loom::{cell::UnsafeCell, thread};

use super::{
    due::{Due, Scope, Stale},
    flush::{Covered, Flush},
    hub::Hub,
    log::Log,
    record::Record,
    shootdown::Progress,
};
use crate::{
    addr::GpaRange,
    entry::Entry,
    sync::{Arc, AtomicU64, Ordering, explore},
};

const PAGE: GpaRange = GpaRange::between(0, 1);

/// One page of one table.
struct World {
    hub: Hub,
    /// 1 while the page is mapped. Relaxed throughout: nothing here may rest on how slots are read.
    slot: AtomicU64,
    page: UnsafeCell<()>,
}

#[expect(unsafe_code, reason = "the checker watches the cell; that is what it is for")]
// SAFETY: the cell holds nothing, and loom stops the execution at the first unordered access.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { hub: Hub::new(), slot: AtomicU64::new(1), page: UnsafeCell::new(()) })
    }

    fn unmap(&self) {
        let unmapped = self.slot.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed);
        assert_eq!(unmapped, Ok(1));
    }

    /// Uses the page for something else.
    fn reuse(&self) {
        self.page.with_mut(|_| ());
    }
}

/// A translation cache, as an observer uses one.
struct Cache {
    world: Arc<World>,
    record: Arc<Record>,
    last: Option<u64>,
    /// Whether it holds the translation of the page.
    held: bool,
}

impl Cache {
    fn new(world: &Arc<World>) -> Self {
        let record = world.hub.register();
        Self { world: Arc::clone(world), record, last: None, held: false }
    }

    fn enter(&mut self) {
        self.record.begin();
        let now = self.world.hub.look();
        self.record.settle(now);
        self.catch_up(now);
    }

    fn catch_up(&mut self, now: u64) {
        match self.last.map_or(Due::All, |since| self.world.hub.due(since, now)) {
            Due::None => {}
            Due::Ranges(_) | Due::All => self.held = false,
        }
        self.last = Some(now);
    }

    fn acknowledge(&mut self) {
        let now = self.world.hub.look();
        self.catch_up(now);
        self.record.settle(now);
    }

    /// Accesses the page, through the cache or by a walk.
    fn access(&mut self) {
        if !self.held {
            self.held = self.world.slot.load(Ordering::Relaxed) == 1;
        }
        if self.held {
            self.world.page.with(|_| ());
        }
    }

    fn leave(&mut self) {
        self.record.leave();
    }
}

/// Makes the duty of an unmap, and does it.
fn shoot(world: &World) {
    let mut covered = Covered::default();
    covered.add(PAGE, Entry::EMPTY);
    let flush = Flush::new(&world.hub, covered);
    let mut shootdown = flush.shootdown();
    while shootdown.poll() != Progress::Complete {
        thread::yield_now();
    }
}

#[test]
fn a_page_that_was_shot_down_is_used_by_no_observer() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        let observer = thread::spawn(move || {
            for _ in 0..2 {
                cache.enter();
                cache.access();
                cache.leave();
            }
        });
        world.unmap();
        shoot(&world);
        world.reuse();
        observer.join().unwrap();
    });
}

#[test]
fn a_page_that_was_shot_down_is_used_by_no_observer_that_acknowledged() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        let observer = thread::spawn(move || {
            cache.enter();
            cache.access();
            cache.acknowledge();
            cache.access();
            cache.leave();
        });
        world.unmap();
        shoot(&world);
        world.reuse();
        observer.join().unwrap();
    });
}

#[test]
fn a_page_whose_flush_another_served_is_used_by_no_observer() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        let observer = thread::spawn(move || {
            cache.enter();
            cache.access();
            cache.leave();
        });
        let other = Arc::clone(&world);
        let shooter = thread::spawn(move || shoot(&other));
        world.unmap();
        let since = world.hub.after_change();
        if world.hub.serves(since, Stale::new(PAGE, Scope::Leaves)) {
            world.reuse();
        }
        observer.join().unwrap();
        shooter.join().unwrap();
    });
}

#[test]
fn who_looks_at_a_greater_generation_than_a_changer_walks_what_it_left() {
    explore(4, || {
        let world = World::new();
        let other = Arc::clone(&world);
        let observer = thread::spawn(move || {
            // Anybody's; no fence comes with it.
            other.hub.bump();
            (other.hub.look(), other.slot.load(Ordering::Relaxed))
        });
        world.unmap();
        let since = world.hub.after_change();
        let (now, slot) = observer.join().unwrap();
        assert!(now <= since || slot == 0);
    });
}

#[test]
fn what_was_retired_before_is_reached_by_no_observer_that_does_not_lag() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        let observer = thread::spawn(move || {
            for _ in 0..2 {
                cache.enter();
                cache.access();
                cache.leave();
            }
        });
        world.unmap();
        let generation = world.hub.announce(Stale::new(PAGE, Scope::Structure));
        if world.hub.oldest().is_none_or(|oldest| oldest >= generation) {
            world.reuse();
        }
        observer.join().unwrap();
    });
}

/// Also where it was on the asking thread before.
#[test]
fn who_is_found_inside_entered_on_the_thread_that_its_record_names() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        cache.enter();
        assert!(world.hub.inside_here().is_some());
        cache.leave();
        let observer = thread::spawn(move || {
            cache.enter();
            cache.leave();
        });
        assert_eq!(world.hub.inside_here(), None);
        observer.join().unwrap();
    });
}

#[test]
fn a_flush_that_was_dropped_reaches_whoever_enters_later() {
    explore(3, || {
        let world = World::new();
        let mut cache = Cache::new(&world);
        cache.enter();
        cache.access();
        cache.leave();
        let told = Arc::clone(&world);
        let dropper = thread::spawn(move || {
            told.unmap();
            let mut covered = Covered::default();
            covered.add(PAGE, Entry::EMPTY);
            drop(Flush::new(&told.hub, covered));
        });
        let before = cache.last;
        cache.enter();
        cache.access();
        // Who has seen the generation has seen the change.
        assert!(cache.last == before || !cache.held);
        cache.leave();
        dropper.join().unwrap();
    });
}

/// Else what is logged of one would pass for all that became stale in both.
#[test]
fn of_two_who_begin_a_generation_each_has_its_own() {
    explore(3, || {
        let world = World::new();
        let before = world.hub.now();
        let other = Arc::clone(&world);
        let announcer =
            thread::spawn(move || other.hub.announce(Stale::new(PAGE, Scope::Structure)));
        let dropped = world.hub.bump();
        assert_ne!(dropped, announcer.join().unwrap());
        assert_eq!(world.hub.due(before, world.hub.now()), Due::All);
    });
}

#[test]
fn a_cell_of_the_log_is_of_one_generation() {
    explore(4, || {
        let stale = |page| Stale::new(GpaRange::between(page, page + 2), Scope::Leaves);
        let log = Arc::new(Log::new());
        log.write(3, stale(3));
        let other = Arc::clone(&log);
        let writer = thread::spawn(move || other.write(11, stale(11)));
        for generation in [11, 3] {
            assert!(log.read(generation).is_none_or(|found| found == stale(generation)));
        }
        writer.join().unwrap();
    });
}
