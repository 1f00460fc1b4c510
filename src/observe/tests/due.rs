//! What is due: precisely what became stale, or everything where that is not known.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;

#[test]
fn everything_is_due_at_the_first_entry_and_nothing_without_a_change() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    assert_eq!(due(&observer.enter(Tracking::On)), None);
    rig.map(PAGE, 9);
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![]));
}

#[test]
fn what_was_shot_down_or_unlinked_is_due_in_that_order() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    observer.enter(Tracking::On).due();
    rig.serve(rig.duty(range(PAGE, 3 * PAGE)));
    rig.unlink(2 * MIB);
    let expected =
        vec![(range(PAGE, 3 * PAGE), Scope::Leaves), (range(2 * MIB, 2 * MIB), Scope::Structure)];
    assert_eq!(due(&observer.enter(Tracking::On)), Some(expected));
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![]));
}

#[test]
fn an_observer_that_is_too_far_behind_invalidates_everything() {
    for announced in 1..20_u64 {
        let rig = Rig::new();
        let mut observer = rig.observer();
        observer.enter(Tracking::On).due();
        let ranges: Vec<_> = (0..announced).map(|page| range(page * PAGE, PAGE)).collect();
        ranges.iter().for_each(|&range| rig.announce(range));
        let expected = ranges.into_iter().map(|range| (range, Scope::Leaves)).collect();
        let expected = (announced <= 8).then_some(expected);
        assert_eq!(due(&observer.enter(Tracking::On)), expected, "{announced}");
        assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![]));
    }
}

#[test]
fn a_generation_that_nobody_logged_makes_everything_due() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    // Also where the ring has a cell of an older generation in its place.
    for before in 0..17 {
        (0..before).for_each(|_| rig.announce(range(0, PAGE)));
        observer.enter(Tracking::On).due();
        rig.announce(range(0, PAGE));
        drop(rig.duty(range(0, PAGE)));
        rig.announce(range(0, PAGE));
        assert_eq!(due(&observer.enter(Tracking::On)), None);
        rig.announce(range(MIB, PAGE));
        let stale = vec![(range(MIB, PAGE), Scope::Leaves)];
        assert_eq!(due(&observer.enter(Tracking::On)), Some(stale));
    }
}

#[test]
fn another_tracking_makes_everything_due_where_it_makes_another_root_pointer() {
    let ept = |caps| AnyFormat::from(Ept::new(Levels::Four, PhysWidth::MAX, caps));
    let formats = [
        (ept(EptCaps::USUAL), true),
        (ept(EptCaps::USUAL - EptCaps::ACCESSED_DIRTY), false),
        (Npt::new(Levels::Five, PhysWidth::MAX).into(), false),
    ];
    for (format, differs) in formats {
        let rig = Rig::of(format);
        let mut observer = rig.observer();
        observer.enter(Tracking::On).due();
        for tracking in [Tracking::Off, Tracking::On, Tracking::Off] {
            let inside = observer.enter(tracking);
            assert_eq!(inside.root_pointer(), format.root_pointer(rig.root(), tracking));
            assert_eq!(due(&inside), (!differs).then_some(vec![]));
            drop(inside);
            assert_eq!(due(&observer.enter(tracking)), Some(vec![]));
        }
    }
}

#[test]
fn what_nobody_asked_for_is_due_again() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    drop(observer.enter(Tracking::On));
    assert_eq!(due(&observer.enter(Tracking::On)), None, "the first time that it is asked for");
    rig.announce(range(0, PAGE));
    drop(observer.enter(Tracking::On));
    rig.announce(range(MIB, PAGE));
    let both = vec![(range(0, PAGE), Scope::Leaves), (range(MIB, PAGE), Scope::Leaves)];
    assert_eq!(due(&observer.enter(Tracking::On)), Some(both));
}

#[test]
fn an_acknowledgement_is_told_what_became_stale_since() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let mut inside = observer.enter(Tracking::On);
    // Nobody asked what was due at entry, so it is due now.
    inside.acknowledge(|due| assert_eq!(*due, Due::All));
    inside.acknowledge(|due| assert_eq!(*due, Due::None));
    rig.announce(range(0, PAGE));
    let mut told = None;
    inside.acknowledge(|due| told = Some(*due));
    assert_eq!(told, Some(*inside.due()));
    assert_eq!(due(&inside), Some(vec![(range(0, PAGE), Scope::Leaves)]));
    assert_eq!(inside.generation().get(), rig.generation());
    drop(inside);
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![]));
}

#[test]
fn an_acknowledgement_that_panics_acknowledges_nothing() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let mut inside = observer.enter(Tracking::On);
    let _ = inside.due();
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    let before = inside.generation();
    let panics = || inside.acknowledge(|_| resume_unwind(alloc::boxed::Box::new(())));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(inside.generation(), before);
    assert_eq!(shootdown.poll(), Progress::Waiting { observers: 1 });
    inside.acknowledge(|due| assert!(matches!(due, Due::Ranges(_))));
    assert_eq!(shootdown.poll(), Progress::Complete);
}

/// A cache that knows the first page of both leaf tables, walked for at `inside`.
fn warm(inside: &Inside<'_, AnyFormat, Arc<HeapFrames>>, cache: &mut TranslationCache) {
    for gpa in [0, 2 * MIB] {
        inside.mmu().translate_cached(cache, Gpa::new(gpa), Access::READ).unwrap();
    }
}

/// How many of the two the TLB still knows, and how many tables' entries for them; spoils the cache.
fn known(
    inside: &Inside<'_, AnyFormat, Arc<HeapFrames>>,
    cache: &mut TranslationCache,
) -> [u64; 2] {
    let before = cache.stats();
    for gpa in [0, 2 * MIB] {
        let _ = inside.mmu().translate_cached(cache, Gpa::new(gpa), Access::READ);
    }
    let after = cache.stats();
    [after.tlb_hits - before.tlb_hits, after.walk_hits - before.walk_hits]
}

#[test]
fn a_software_cache_is_refreshed_by_what_is_due_and_no_more() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    let mut cache = TranslationCache::default();
    warm(&observer.enter(Tracking::On), &mut cache);

    // Nobody asked what was due: everything still is.
    let inside = observer.enter(Tracking::On);
    inside.refresh(&mut cache);
    assert_eq!(known(&inside, &mut cache), [0, 1], "the second walk begins where the first passed");
    drop(inside);

    rig.announce(range(0, PAGE));
    let inside = observer.enter(Tracking::On);
    inside.refresh(&mut cache);
    assert_eq!(known(&inside, &mut cache), [1, 1], "a leaf is gone, and no table");
    drop(inside);

    rig.unlink(0);
    let inside = observer.enter(Tracking::On);
    inside.refresh(&mut cache);
    let mmu = inside.mmu();
    let before = cache.stats();
    assert!(mmu.translate_cached(&mut cache, Gpa::new(0), Access::READ).is_err());
    let walks = (cache.stats().walk_hits, cache.stats().walk_misses);
    assert_eq!(walks, (before.walk_hits, before.walk_misses + 1), "not through the dead table");
    let hits = cache.stats().tlb_hits;
    mmu.translate_cached(&mut cache, Gpa::new(2 * MIB), Access::READ).unwrap();
    assert_eq!(cache.stats().tlb_hits, hits + 1);
    inside.refresh(&mut cache);
    mmu.translate_cached(&mut cache, Gpa::new(2 * MIB), Access::READ).unwrap();
    assert_eq!(cache.stats().tlb_hits, hits + 2, "once more does no harm");
}

#[test]
fn a_cache_of_another_generation_tracking_or_table_is_emptied_before_it_is_used() {
    let (rig, other) = (Rig::mapped(), Rig::mapped());
    let (mut observer, mut foreign) = (rig.observer(), other.observer());
    let mut second = rig.observer();
    let mut cache = TranslationCache::default();
    let mut inside = observer.enter(Tracking::On);
    warm(&inside, &mut cache);
    // Another observer of the same generation may share it.
    assert_eq!(known(&second.enter(Tracking::On), &mut cache), [2, 0]);
    rig.announce(range(MIB, PAGE));
    assert_eq!(known(&inside, &mut cache), [2, 0], "it has not acknowledged");
    inside.acknowledge(|_| ());
    assert_eq!(known(&inside, &mut cache), [0, 1]);
    drop(inside);
    assert_eq!(known(&observer.enter(Tracking::Off), &mut cache), [0, 1]);
    assert_eq!(known(&foreign.enter(Tracking::On), &mut cache), [0, 1]);
    // Nor does refreshing by what is due to one who knows nothing of it.
    rig.announce(range(MIB, PAGE));
    let inside = second.enter(Tracking::On);
    inside.refresh(&mut cache);
    assert_eq!(known(&inside, &mut cache), [0, 1]);
}

#[test]
fn a_cache_is_refreshed_after_an_acknowledgement_as_after_an_entry() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    let mut cache = TranslationCache::default();
    let mut inside = observer.enter(Tracking::On);
    inside.refresh(&mut cache);
    warm(&inside, &mut cache);
    rig.announce(range(2 * MIB, PAGE));
    inside.acknowledge(|_| ());
    inside.refresh(&mut cache);
    assert_eq!(known(&inside, &mut cache), [1, 1]);
    // A generation that it slept through: all of it.
    rig.announce(range(MIB, PAGE));
    inside.acknowledge(|_| ());
    rig.announce(range(MIB, PAGE));
    inside.acknowledge(|_| ());
    inside.refresh(&mut cache);
    assert_eq!(known(&inside, &mut cache), [0, 1]);
}

#[test]
fn a_log_answers_for_the_generation_that_was_asked_for_or_not_at_all() {
    let log = log::Log::new();
    let stale = |generation: u64, scope| Stale::new(range(generation * PAGE, PAGE), scope);
    assert!((1..20).all(|generation| log.read(generation).is_none()));
    for generation in 2..40 {
        let scope = if generation % 3 == 0 { Scope::Structure } else { Scope::Leaves };
        log.write(generation, stale(generation, scope));
        assert_eq!(log.read(generation), Some(stale(generation, scope)));
        let known = (1..60).filter(|&other| log.read(other).is_some());
        assert_eq!(known.count() as u64, (generation - 1).min(8));
    }
    log.write(64, Stale::new(GpaRange::ALL, Scope::Structure));
    assert_eq!(log.read(64), Some(Stale::new(GpaRange::ALL, Scope::Structure)));
}
