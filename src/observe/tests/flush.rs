//! Duties: what they cover, who serves them, and what becomes of those that nobody serves.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;

#[test]
fn a_merged_flush_covers_both_and_is_as_young_as_the_younger() {
    let rig = Rig::new();
    let mut early = rig.duty(range(0, PAGE));
    rig.announce(range(MIB, PAGE));
    let late = rig.duty(range(4 * PAGE, PAGE));
    let latest = late.generation();
    assert!(latest > early.generation());
    early.merge(late).unwrap();
    assert_eq!(early.range(), Some(range(0, 5 * PAGE)));
    assert_eq!((early.generation(), early.scope()), (latest, Scope::Leaves));
    early.merge(rig.flush_all()).unwrap();
    assert_eq!(early.scope(), Scope::Structure);
    rig.serve(early);
}

#[test]
fn merging_moves_the_duty() {
    let rig = Rig::new();
    let mut both = rig.duty(range(0, PAGE));
    let before = rig.generation();
    both.merge(rig.duty(range(PAGE, PAGE))).unwrap();
    assert_eq!(rig.generation(), before, "the one that was merged is no duty any more");
    drop(both);
    assert_eq!(rig.generation(), before + 1, "one duty");
}

#[test]
fn a_flush_that_is_dropped_makes_every_observer_invalidate_everything() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    assert_eq!(due(&observer.enter(Tracking::On)), None);
    drop(rig.pin().unmap(Gpa::new(0)).unwrap());
    assert_eq!(due(&observer.enter(Tracking::On)), None);
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![]));
}

#[test]
fn an_empty_flush_is_no_duty() {
    let rig = Rig::new();
    let before = rig.generation();
    let nothing = || rig.pin().unmap_many([], |_, _| ());
    assert!(nothing().is_empty() && nothing().is_served());
    rig.serve(nothing());
    assert_eq!(rig.generation(), before);
}

#[test]
fn a_served_flush_is_no_duty_any_more() {
    let rig = Rig::mapped();
    let pin = rig.pin();
    let (_, served) = pin.unmap(Gpa::new(0)).unwrap();
    assert!(!served.is_served());
    rig.serve(rig.duty(range(0, PAGE)));
    assert!(served.is_served());
    let before = rig.generation();
    // So is the shoot-down of it complete at once, without another generation.
    rig.serve(served);
    assert_eq!(rig.generation(), before);
}

#[test]
fn a_shootdown_serves_what_it_covers_and_was_owed_before() {
    let rig = Rig::new();
    let owed = [range(0, PAGE), range(2 * PAGE, PAGE), range(4 * PAGE, 2 * PAGE)];
    let flushes = owed.map(|range| rig.duty(range));
    let structure = rig.flush_all();
    rig.serve(rig.duty(range(0, 5 * PAGE)));
    let later = rig.duty(range(0, PAGE));
    assert_eq!(flushes.each_ref().map(Flush::is_served), [true, true, false]);
    assert!(!structure.is_served() && !later.is_served());
    // It need not be its own that completes: every observer has passed by what it was told before.
    rig.serve(rig.duty(range(8 * PAGE, PAGE)));
    assert!(flushes[0].is_served() && !flushes[2].is_served());
    rig.serve(structure);
    assert!(later.is_served() && flushes[2].is_served());
}

#[test]
fn a_shootdown_that_is_not_complete_serves_nobody() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let flush = rig.duty(range(0, PAGE));
    let inside = observer.enter(Tracking::On);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.poll(), Progress::Waiting { observers: 1 });
    assert!(!flush.is_served());
    drop(inside);
    assert!(!flush.is_served());
    assert_eq!(shootdown.poll(), Progress::Complete);
    assert!(flush.is_served());
}

#[test]
fn a_shootdown_that_completes_after_a_later_one_takes_nothing_back() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let inside = observer.enter(Tracking::On);
    let mut earlier = rig.duty(range(MIB, PAGE)).shootdown();
    let flush = rig.duty(range(0, PAGE));
    let mut later = rig.duty(range(0, PAGE)).shootdown();
    drop(inside);
    assert_eq!(later.poll(), Progress::Complete);
    assert!(flush.is_served());
    assert_eq!(earlier.poll(), Progress::Complete);
    assert!(flush.is_served());
}

#[test]
fn a_shootdown_that_nobody_holds_up_is_complete_as_it_begins() {
    let rig = Rig::new();
    let flush = rig.duty(range(0, PAGE));
    drop(rig.duty(range(0, PAGE)).shootdown());
    assert!(flush.is_served());
}

#[test]
fn a_shootdown_of_leaves_does_not_serve_a_duty_for_structure() {
    let rig = Rig::new();
    let structure = rig.flush_all();
    rig.serve(rig.duty(GpaRange::ALL));
    assert!(!structure.is_served());
    rig.serve(rig.flush_all());
    assert!(structure.is_served());
    rig.serve(structure);
}

#[test]
fn a_flush_that_the_log_forgot_counts_as_a_duty() {
    let rig = Rig::new();
    let flush = rig.duty(range(0, PAGE));
    rig.serve(rig.duty(range(0, PAGE)));
    for _ in 0..7 {
        rig.serve(rig.duty(range(MIB, PAGE)));
        assert!(flush.is_served());
    }
    rig.serve(rig.duty(range(MIB, PAGE)));
    assert!(!flush.is_served());
    rig.serve(flush);
}

#[test]
fn a_foreign_flush_is_refused_and_comes_back() {
    let (rig, other) = (Rig::new(), Rig::new());
    let before = rig.generation();
    let refused = rig.duty(range(0, PAGE)).merge(other.duty(range(0, PAGE))).unwrap_err();
    assert_eq!(refused.0.range(), Some(range(0, PAGE)));
    assert_eq!(rig.generation(), before + 1, "the duty of our own was dropped");
    let theirs = other.generation();
    drop(refused);
    assert_eq!(other.generation(), theirs + 1);
}

#[test]
fn a_duty_for_everything_covers_what_was_taken_away_before() {
    let rig = Rig::new();
    rig.announce(range(0, PAGE));
    let flush = rig.flush_all();
    assert_eq!(flush.generation().get(), rig.generation());
    assert_eq!((flush.range(), flush.scope()), (Some(GpaRange::ALL), Scope::Structure));
    rig.serve(flush);
}

#[test]
fn a_sink_that_panics_drops_the_duty() {
    let rig = Rig::mapped();
    let pin = rig.pin();
    let before = rig.generation();
    let unmap =
        || pin.unmap_range(range(0, 4 * MIB), |_| resume_unwind(alloc::boxed::Box::new(())));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(unmap()))).is_err());
    assert!(pin.lookup(Gpa::new(0)).is_none() && pin.lookup(Gpa::new(2 * MIB)).is_some());
    assert_eq!(rig.generation(), before + 1);
    let unmap = || pin.unmap_many([Gpa::new(0)], |_, _| resume_unwind(alloc::boxed::Box::new(())));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(unmap()))).is_err());
    assert_eq!(rig.generation(), before + 1, "nothing was unmapped");
}

#[test]
fn flushes_and_shootdowns_go_to_other_threads() {
    fn sent<T: Send + Sync>(_: &T) {}
    let rig = Rig::new();
    let flush = rig.duty(range(0, PAGE));
    sent(&flush);
    let shootdown = thread::scope(|scope| scope.spawn(|| flush.shootdown()).join());
    sent(shootdown.as_ref().unwrap());
    assert_eq!(shootdown.unwrap().poll(), Progress::Complete);
}
