//! A vCPU of software: an observer with a translation cache that goes stale, and a flag that sticks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::Sender,
};

use rand::RngExt;
use slat::{
    Due, Flush, Format, Gpa, Inside, InsideGuest, Observer, Tracking,
    mmu::{CacheConfig, Cause, DirtyChange, TranslationCache},
};

use super::hand::{Hand, Parcel};
use super::jolts::Jolts;
use crate::{READ, WRITE, crew::Working};

type Stay<'o, F> = Inside<'o, F, Arc<Jolts>>;

/// How a vCPU answers a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It comes out.
    Leaves,
    /// It acknowledges, and stays until it faults.
    Acknowledges,
}

pub(crate) struct Vcpu<'w, F: Format> {
    hand: Hand<'w, F>,
    manner: Manner,
    observer: Observer<F, Arc<Jolts>>,
    flag: Arc<AtomicBool>,
    cache: TranslationCache,
}

/// Why a stay ended.
enum Exit {
    /// A kick, or nothing in particular.
    Interrupt,
    /// Nothing is mapped there.
    Fault(Gpa),
}

impl<'w, F: Format> Vcpu<'w, F> {
    pub(crate) fn new(hand: Hand<'w, F>, manner: Manner) -> Self {
        let observer = hand.world.table.observer();
        let flag = hand.world.enlist(observer.id());
        // Few entries for leaves, so that walks begin in the paging-structure cache.
        let cache = TranslationCache::new(CacheConfig { tlb_entries: 16, walk_entries: 32 });
        Self { hand, manner, observer, flag, cache }
    }

    /// Runs, faults and maps; now and then it is made anew.
    pub(crate) fn run(mut self, working: &Working, shooter: &Sender<Parcel<'w>>) -> Hand<'w, F> {
        let reader = self.hand.world.table.reader();
        while working.go_on() {
            if let Exit::Fault(gpa) = self.stay() {
                let _ = self.hand.map(&reader.pin(), gpa);
            }
            if self.hand.rng.random_range(0..16) == 0 {
                self.shoot_from_inside();
            }
            if self.hand.rng.random_range(0..8) == 0 {
                self.hand.serve(shooter);
            }
            if self.hand.rng.random_range(0..64) == 0 {
                let (hand, manner) = self.depart();
                self = Self::new(hand, manner);
            }
        }
        self.depart().0
    }

    fn depart(self) -> (Hand<'w, F>, Manner) {
        let Self { hand, manner, observer, .. } = self;
        hand.world.retire(observer.id());
        (hand, manner)
    }

    /// Enters, invalidates what is due, accesses memory, and leaves.
    fn stay(&mut self) -> Exit {
        let Self { hand, manner, observer, flag, cache } = self;
        let known = hand.world.completed();
        let tracking = if hand.rng.random_range(0..8) == 0 { Tracking::Off } else { Tracking::On };
        let mut inside = observer.enter(tracking);
        // Invariant 8: no entry misses a generation.
        assert!(Some(inside.generation()) >= known, "it entered at an old generation");
        match hand.rng.random_range(0..8) {
            // The library has to notice by itself that the cache is stale.
            0 => {}
            1 => invalidate(cache, inside.due()),
            _ => inside.refresh(cache),
        }
        let mut exit = Exit::Interrupt;
        for _ in 0..hand.rng.random_range(1..40) {
            if flag.load(Ordering::Acquire) {
                if *manner == Manner::Leaves {
                    break;
                }
                // First the flag: a kick after this is answered again.
                flag.swap(false, Ordering::AcqRel);
                inside.acknowledge(|due| invalidate(cache, due));
                inside.refresh(cache);
            }
            if hand.rng.random_range(0..32) == 0 {
                // What it walks after this it remembers from before.
                hand.world.table.source().linger();
            }
            if let Some(gpa) = access(hand, &inside, cache) {
                exit = Exit::Fault(gpa);
                break;
            }
        }
        drop(inside);
        // Only now: a kick from here on finds it outside.
        flag.swap(false, Ordering::AcqRel);
        exit
    }

    /// Shoots down while it is inside itself: that is an error, not a wait for ever.
    fn shoot_from_inside(&mut self) {
        let world = self.hand.world;
        let inside = self.observer.enter(Tracking::On);
        let duty: Flush<'_> = world.table.flush_all();
        let mut shootdown = duty.shootdown();
        match shootdown.wait(&|id| world.kick(id)) {
            Err(InsideGuest { observer }) => assert_eq!(observer, inside.id()),
            Ok(()) => panic!("complete, though an observer is inside that was not told"),
        }
        drop(inside);
        self.flag.swap(false, Ordering::AcqRel);
        world.wait(&mut shootdown);
    }
}

/// Accesses memory as a guest; returns the address where nothing is mapped.
fn access<F: Format>(
    hand: &mut Hand<'_, F>,
    inside: &Stay<'_, F>,
    cache: &mut TranslationCache,
) -> Option<Gpa> {
    let area = hand.world.some_area(&mut hand.rng);
    let stays = hand.rng.random_range(0..8) == 0;
    let gpa = if stays { area.stays } else { area.page(area.some_page(&mut hand.rng)) };
    let access = if hand.rng.random() { WRITE } else { READ };
    let reached = match hand.rng.random_range(0..4) {
        0 => inside.mmu().translate(gpa, access),
        _ => inside.mmu().translate_cached(cache, gpa, access),
    };
    match reached {
        Ok(reached) => {
            hand.tally.reached += 1;
            hand.tally.dirty += i64::from(reached.dirty == DirtyChange::Set);
            // Invariants 3 and 8, before it leaves.
            hand.world.ledger.read(reached.pfn, gpa);
            let sealed = access == WRITE && stays && area.sealed.load(Ordering::Relaxed);
            assert!(!sealed, "a right is used after the shoot-down that took it away");
            None
        }
        // Invariant 3: no poison. Invariant 7: no mapped page is hidden.
        Err(fault) => match fault.cause() {
            Cause::NotPresent => {
                assert!(!stays, "a mapped page was hidden: {fault:?}");
                Some(gpa)
            }
            Cause::Rights if access == WRITE => None,
            _ => panic!("{fault:?}"),
        },
    }
}

fn invalidate(cache: &mut TranslationCache, due: &Due) {
    match due {
        Due::None => {}
        Due::Ranges(ranges) => ranges.iter().for_each(|stale| cache.invalidate_range(stale.range)),
        Due::All => cache.invalidate_all(),
    }
}
