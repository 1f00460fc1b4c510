//! Observers as values: where they go, and what they leave behind.

#![expect(unsafe_code, reason = "forgets observers that are gone")]

use core::mem;

use super::*;

fn state(rig: &Rig, id: ObserverId) -> Option<ObserverState> {
    rig.observers().states().into_iter().find(|&(other, _)| other == id).map(|(_, state)| state)
}

#[test]
fn an_observer_is_listed_from_its_making_to_its_drop() {
    let rig = Rig::new();
    let (mut one, two) = (rig.observer(), rig.observer());
    assert_ne!(one.id(), two.id());
    let id = one.id();
    assert_eq!(state(&rig, id), Some(ObserverState::Outside));
    let inside = one.enter(Tracking::On);
    assert_eq!(inside.id(), id);
    assert_eq!(state(&rig, id), Some(ObserverState::Inside(inside.generation())));
    drop(inside);
    assert_eq!(state(&rig, id), Some(ObserverState::Outside));
    drop(one);
    assert_eq!(state(&rig, id), None);
    assert!(rig.observer().id() > two.id(), "names are not used again");
    // SAFETY: there is no such observer.
    assert_eq!(unsafe { rig.observers().forget(id) }, Err(UnknownObserver(id)));
}

#[test]
fn an_observer_works_on_any_thread_and_keeps_the_table() {
    let mut rig = Rig::mapped();
    let mut observer = rig.observer();
    let look = |observer: &mut Observer<_, _>| {
        let inside = observer.enter(Tracking::On);
        inside.mmu().translate(Gpa::new(0), Access::READ).unwrap().pfn
    };
    assert_eq!(look(&mut observer), HostPfn::new(7));
    let moved = thread::spawn(move || {
        assert_eq!(look(&mut observer), HostPfn::new(7));
        observer
    });
    let mut observer = moved.join().unwrap();
    let others = rig.observer();
    thread::spawn(move || drop(others)).join().unwrap();
    assert_eq!(rig.stats().observers, 1);
    drop(rig.table.take());
    assert!(rig.free() < 32);
    assert_eq!(look(&mut observer), HostPfn::new(7));
    thread::spawn(move || drop(observer)).join().unwrap();
    assert_eq!(rig.free(), 32);
}

#[test]
fn an_observer_whose_stay_was_leaked_holds_back_until_it_is_forgotten() {
    let rig = Rig::mapped();
    let mut observer = rig.observer();
    let id = observer.id();
    mem::forget(observer.enter(Tracking::On));
    thread::spawn(move || drop(observer)).join().unwrap();
    let before = rig.free();
    rig.unlink(0);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.poll(), Progress::Waiting { observers: 1 });
    assert_eq!((rig.free(), rig.stats().waiting), (before, 1));
    assert!(matches!(state(&rig, id), Some(ObserverState::Inside(_))));
    // SAFETY: nobody uses what was leaked.
    unsafe { rig.observers().forget(id) }.unwrap();
    assert_eq!(shootdown.poll(), Progress::Complete);
    assert_eq!(state(&rig, id), None);
    assert_eq!(rig.reclaim(&nobody), Reclaimed::new(1, 0));
}

#[test]
fn an_observer_whose_stay_was_leaked_keeps_the_table_until_it_is_forgotten() {
    let mut rig = Rig::mapped();
    let mut observer = rig.observer();
    let id = observer.id();
    mem::forget(observer.enter(Tracking::On));
    let last = PageTable::clone(&rig);
    drop(observer);
    drop(rig.table.take());
    assert!(rig.free() < 32);
    // SAFETY: nobody uses what was leaked.
    unsafe { last.observers().forget(id) }.unwrap();
    assert!(rig.free() < 32, "there is a handle");
    drop(last);
    assert_eq!(rig.free(), 32);
}

#[test]
fn an_observer_whose_stay_was_leaked_keeps_the_table_though_every_handle_is_dropped() {
    let mut rig = Rig::mapped();
    let mut observer = rig.observer();
    mem::forget(observer.enter(Tracking::On));
    drop(observer);
    let before = rig.free();
    drop(rig.table.take());
    assert_eq!(rig.free(), before, "hardware may still walk");
    // Nobody can say any more that it does not.
    mem::forget(rig);
}

#[test]
fn an_observer_whose_stay_was_leaked_can_enter_again_and_starts_over() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    observer.enter(Tracking::On).due();
    mem::forget(observer.enter(Tracking::On));
    assert_eq!(rig.stats().inside, 1);
    assert_eq!(due(&observer.enter(Tracking::On)), None);
    assert_eq!(rig.stats().inside, 0);
    mem::forget(observer.enter(Tracking::On));
    // SAFETY: nobody uses what was leaked.
    unsafe { rig.observers().forget(observer.id()) }.unwrap();
    assert_eq!((rig.stats().inside, rig.stats().observers), (0, 1));
    assert_eq!(due(&observer.enter(Tracking::On)), None);
}

#[test]
fn stats_count_observers_and_those_that_lag() {
    let rig = Rig::mapped();
    let (mut one, mut two, _three) = (rig.observer(), rig.observer(), rig.observer());
    let _old = one.enter(Tracking::On);
    rig.announce(range(0, PAGE));
    let _new = two.enter(Tracking::On);
    let stats = rig.stats();
    assert_eq!((stats.observers, stats.inside, stats.lagging), (3, 2, 1));
    assert_eq!(stats.generation.get(), Generation::FIRST.get() + 1);
    // A root, one of each upper level, two leaf tables.
    assert_eq!((stats.tables, stats.waiting), (5, 0));
}
