//! Observers beside shoot-downs and reclamation: who is told, who is waited for, and what comes back
//! when somebody never comes out again.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source, forgets observers")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::{
    mem,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use common::{Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range, scaled};
use slat::{
    Due, FrameSource, GpaRange, Mapped, ObserverId, ObserverState, Progress, Scope, Tracking,
    UnknownObserver,
    mmu::{Access, Mode, TranslationCache},
};

const READ: Access = Access::READ.in_mode(Mode::Supervisor);

fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

/// Tells whether the whole of `range` is due, tables and all.
fn covers(due: &Due, range: GpaRange) -> bool {
    match due {
        Due::None => false,
        Due::Ranges(ranges) => ranges.iter().any(|stale| {
            let covered = stale.range.contains(range.start()) && stale.range.contains(range.last());
            covered && stale.scope == Scope::Structure
        }),
        Due::All => true,
    }
}

/// How a vCPU that raced a shoot-down came to know of it.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    told: u64,
    waited_for: u64,
}

every_format! {
    /// O1.
    fn a_vcpu_that_is_just_entering_is_told_or_waited_for(format: impl Format) {
        let release = if cfg!(debug_assertions) { 300 } else { 3000 };
        let rounds = release * scaled("SLAT_STRESS_SCALE", 1);
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        table.map(0, 1);
        let (kicked, recycled) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let barrier = &Barrier::new(2);
        let (table, mut met) = (&table, Met::default());
        thread::scope(|scope| {
            let vcpu = scope.spawn(move || {
                let mut observer = table.observer();
                let mut cache = TranslationCache::default();
                let mut told = 0;
                for round in 1..=rounds {
                    // It has cached the page, and is out.
                    let inside = observer.enter(Tracking::On);
                    inside.refresh(&mut cache);
                    inside.mmu().translate_cached(&mut cache, at(0), READ).unwrap();
                    drop(inside);
                    barrier.wait();
                    (0..round % 50).for_each(|_| std::hint::spin_loop());
                    let inside = observer.enter(Tracking::On);
                    inside.refresh(&mut cache);
                    if *inside.due() == Due::None {
                        // Not told. So it is waited for, until it comes out.
                        while !kicked.load(Ordering::Acquire) {
                            let there = inside.mmu().translate_cached(&mut cache, at(0), READ);
                            let reached = there.is_ok_and(|there| there.pfn == pfn(round));
                            let done = recycled.load(Ordering::Acquire) >= round;
                            assert!(reached && !done, "neither told nor waited for");
                            thread::yield_now();
                        }
                    } else {
                        told += 1;
                        let there = inside.mmu().translate_cached(&mut cache, at(0), READ);
                        assert!(there.is_err(), "told, and it goes on: {there:?}");
                    }
                    drop(inside);
                    barrier.wait();
                    kicked.store(false, Ordering::Relaxed);
                    barrier.wait();
                }
                told
            });
            for round in 1..=rounds {
                barrier.wait();
                (0..(round * 7) % 50).for_each(|_| std::hint::spin_loop());
                let (mapping, flush) = table.pin().unmap(at(0)).unwrap();
                assert_eq!(mapping.pfn, pfn(round));
                let mut shootdown = flush.shootdown();
                met.waited_for += u64::from(shootdown.poll() != Progress::Complete);
                shootdown.wait(&|_| kicked.store(true, Ordering::Release)).unwrap();
                recycled.store(round, Ordering::Release);
                // A vCPU that was told needs no kick, and one that was not has had it.
                barrier.wait();
                assert_eq!(table.pin().map(at(0), pfn(round + 1), SMALL, RWX), Ok(Mapped::New));
                barrier.wait();
            }
            met.told = vcpu.join().unwrap();
        });
        println!("{met:?}");
        assert!(met.told + met.waited_for >= rounds, "{met:?} in {rounds} rounds");
    }

    /// O2.
    fn whatever_unlinks_a_table_makes_what_was_cached_of_it_due(format: impl Format) {
        let table = Checked::new(format, 32);
        // A leaf table of its own; one that is left with nothing, since its other part goes first; and
        // tables of the levels above.
        let areas = [
            range(2 * MIB, 2 * MIB),
            range(6 * MIB + PAGE, PAGE),
            range(GIB - 2 * MIB, 4 * MIB),
            range(512 * GIB - PAGE, 2 * PAGE),
        ];
        let mut observer = table.observer();
        let mut cache = TranslationCache::default();
        for area in areas {
            table.populate(area, SMALL).unwrap();
            let gpa = area.start().get();
            table.map(gpa, 5);
            let inside = observer.enter(Tracking::On);
            inside.refresh(&mut cache);
            inside.mmu().translate_cached(&mut cache, at(gpa), READ).unwrap();
            drop(inside);
            let flush = table.pin().unmap(at(gpa)).unwrap().1;
            flush.shootdown().wait(&nobody).unwrap();
            observer.enter(Tracking::On).refresh(&mut cache);
            // Nothing is due; no leaf is mapped; the walk cache knows the tables.
            let before = table.stats();
            assert_eq!(observer.enter(Tracking::On).due(), &Due::None);
            table.vacate(area).unwrap();
            let after = table.stats();
            assert!(after.tables < before.tables && after.generation > before.generation);
            let inside = observer.enter(Tracking::On);
            assert!(inside.generation() >= after.generation);
            assert!(covers(inside.due(), area), "{:?} for {area}", inside.due());
            inside.refresh(&mut cache);
            // The same tables, and another page in them: not by what was cached.
            table.populate(area, SMALL).unwrap();
            table.map(gpa, 6);
            let there = inside.mmu().translate_cached(&mut cache, at(gpa), READ).unwrap();
            assert_eq!(there.pfn, pfn(6));
            drop(table.pin().unmap(at(gpa)).unwrap());
        }
    }

    /// O2: what unlinks no table makes nothing due.
    fn a_vacate_that_unlinks_nothing_or_fails_makes_nothing_due(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 8 * PAGE);
        table.map(0, 1);
        let mut observer = table.observer();
        assert_eq!(observer.enter(Tracking::On).due(), &Due::All);
        let generation = table.stats().generation;
        table.vacate(range(4 * PAGE, 4 * PAGE)).unwrap();
        table.vacate(range(0, 2 * PAGE)).unwrap_err();
        table.vacate(range(0, MIB)).unwrap_err();
        assert_eq!(table.stats().generation, generation);
        assert_eq!(observer.enter(Tracking::On).due(), &Due::None);
    }

    /// O3.
    fn nothing_is_freed_early_under_an_observer_whose_thread_is_gone(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 4 * MIB);
        table.map(0, 1);
        let free = table.source().free_frames();
        // One takes its observer with it, one leaves it behind.
        let stay = |observer: &mut slat::Observer<_, _>| {
            let inside = observer.enter(Tracking::On);
            inside.mmu().translate(at(0), READ).unwrap();
            mem::forget(inside);
            observer.id()
        };
        let (mut takes, mut leaves) = (table.observer(), table.observer());
        let (gone, left, mut observer) = thread::scope(|scope| {
            let vcpu = scope.spawn(move || {
                let ids = (stay(&mut takes), stay(&mut leaves));
                drop(takes);
                (ids.0, ids.1, leaves)
            });
            vcpu.join().unwrap()
        });
        let flush = table.pin().unmap(at(0)).unwrap().1;
        let mut shootdown = flush.shootdown();
        table.vacate(range(0, 4 * MIB)).unwrap();
        let kick = |_: ObserverId| ();
        for _ in 0..10 {
            assert_eq!(table.reclaim(&kick).freed, 0);
            assert_eq!(shootdown.poll(), Progress::Waiting { observers: 2 });
        }
        // Neither poisoned nor handed out again.
        assert_eq!(table.source().free_frames(), free);
        let stats = table.stats();
        assert_eq!((stats.observers, stats.inside, stats.lagging), (2, 2, 2));
        assert!(stats.waiting >= 2);
        let inside = |&(_, state): &(ObserverId, _)| matches!(state, ObserverState::Inside(_));
        assert!(table.observers().states().iter().all(inside));

        for (id, observers) in [(gone, 1), (left, 0)] {
            // SAFETY: the MMU of each was a view that is gone.
            unsafe { table.observers().forget(id) }.unwrap();
            let expected = match observers {
                0 => Progress::Complete,
                _ => Progress::Waiting { observers },
            };
            assert_eq!(shootdown.poll(), expected);
        }
        assert_eq!(table.reclaim(&nobody).waiting, 0);
        assert!(table.source().free_frames() > free);
        // SAFETY: as above; it is not listed any more.
        let unknown = unsafe { table.observers().forget(gone) };
        assert_eq!(unknown, Err(UnknownObserver(gone)));
        // The other one starts over.
        assert_eq!(observer.enter(Tracking::On).due(), &Due::All);
        drop(observer);
        assert_eq!(table.stats().observers, 0);
    }

    /// O4.
    fn an_idle_observer_holds_nothing_back(format: impl Format) {
        // Room for the area twice: what is vacated is needed again at once.
        let levels = format.levels().root() as u64;
        let table = Checked::new(format, 1 + 2 * (levels + 1));
        let free = table.source().free_frames();
        let mut once = table.observer();
        drop(once.enter(Tracking::On));
        let _never = table.observer();
        for round in 0..100 {
            table.populate_pages(GIB + 2 * MIB, 3 * MIB);
            table.map(GIB + 2 * MIB, round);
            let flush = table.pin().unmap(at(GIB + 2 * MIB)).unwrap().1;
            // Nobody is waited for either.
            flush.shootdown().wait(&nobody).unwrap();
            table.vacate(range(GIB + 2 * MIB, 3 * MIB)).unwrap();
            let reclaimed = table.reclaim(&nobody);
            assert_eq!((reclaimed.waiting, table.source().free_frames()), (0, free));
        }
        // When it comes back it is told.
        assert_eq!(once.enter(Tracking::On).due(), &Due::All);
        let source: &Frames = table.source();
        assert_eq!(source.capacity(), free + 1);
    }
}
