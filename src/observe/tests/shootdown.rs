//! Shoot-downs: whom they wait for.

use core::cell::{Cell, RefCell};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Barrier, mpsc},
};

use super::*;

const WAITS: Progress = Progress::Waiting { observers: 1 };

#[test]
fn an_observer_that_is_out_is_told_and_not_waited_for() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    observer.enter(Tracking::On).due();
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.poll(), Progress::Complete);
    assert_eq!(shootdown.wait(&nobody), Ok(()));
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![(range(0, PAGE), Scope::Leaves)]));
}

#[test]
fn an_observer_that_is_inside_is_waited_for_until_it_comes_out_or_acknowledges() {
    let rig = Rig::new();
    let (mut one, mut two) = (rig.observer(), rig.observer());
    let ids = [one.id(), two.id()];
    let leaves = one.enter(Tracking::On);
    let mut stays = two.enter(Tracking::On);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.laggards().collect::<Vec<_>>(), ids);
    assert_eq!(shootdown.poll(), Progress::Waiting { observers: 2 });
    drop(leaves);
    assert_eq!(shootdown.poll(), WAITS);
    assert_eq!(shootdown.laggards().collect::<Vec<_>>(), ids[1..]);
    stays.acknowledge(|_| ());
    assert_eq!(shootdown.poll(), Progress::Complete);
    // Who has entered since is not waited for, nor whoever was made since.
    let _back = one.enter(Tracking::On);
    let mut three = rig.observer();
    let _new = three.enter(Tracking::On);
    assert_eq!(shootdown.poll(), Progress::Complete);
}

#[test]
fn an_observer_that_comes_back_is_not_waited_for_again() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let inside = observer.enter(Tracking::On);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    drop(inside);
    // Nobody looked while it was out.
    let _inside = observer.enter(Tracking::On);
    assert_eq!(shootdown.poll(), Progress::Complete);
}

#[test]
fn an_observer_that_is_entering_is_waited_for() {
    let rig = Rig::new();
    let hub = rig.domain().hub();
    let record = hub.register();
    record.begin();
    assert_eq!(rig.observers().states(), [(record.id, ObserverState::Entering)]);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.poll(), WAITS);
    // It had read the generation before: it does not know.
    record.settle(shootdown.generation().get() - 1);
    assert_eq!(shootdown.poll(), WAITS);
    record.settle(shootdown.generation().get());
    assert_eq!(shootdown.poll(), Progress::Complete);
    record.leave();
    hub.depart(&record, || panic!("it is out"));
}

#[test]
#[cfg(feature = "std")]
fn a_shootdown_from_inside_ones_own_stay_is_an_error() {
    let rig = Rig::new();
    let (mut own, mut other) = (rig.observer(), rig.observer());
    let mut inside = own.enter(Tracking::On);
    let also = other.enter(Tracking::On);
    let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
    assert_eq!(shootdown.wait(&nobody), Err(InsideGuest { observer: inside.id() }));
    inside.acknowledge(|_| ());
    assert_eq!(shootdown.wait(&nobody), Err(InsideGuest { observer: also.id() }));
    drop(also);
    assert_eq!(shootdown.wait(&nobody), Ok(()));
}

#[test]
fn each_laggard_is_kicked_once_and_waited_for() {
    let rig = Rig::new();
    let kicked = RefCell::new(Vec::new());
    thread::scope(|scope| {
        let (mut ids, mut leave) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut observer = rig.observer();
            ids.push(observer.id());
            let (sender, receiver) = mpsc::channel::<()>();
            leave.push(sender);
            let entered = Barrier::new(2);
            let entered = Arc::new(entered);
            let here = Arc::clone(&entered);
            scope.spawn(move || {
                let inside = observer.enter(Tracking::On);
                here.wait();
                // Until the other end is dropped.
                assert!(receiver.recv().is_err());
                drop(inside);
            });
            entered.wait();
        }
        let leave = RefCell::new(leave);
        let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
        let kick = |id| {
            kicked.borrow_mut().push(id);
            leave.borrow_mut().pop();
        };
        assert_eq!(shootdown.wait(&kick), Ok(()));
        assert_eq!(*kicked.borrow(), ids);
    });
}

#[test]
fn a_kick_that_panics_leaves_everything_usable() {
    let rig = Rig::new();
    thread::scope(|scope| {
        let (leave, stay) = mpsc::channel::<()>();
        let entered = Arc::new(Barrier::new(2));
        let here = Arc::clone(&entered);
        let mut observer = rig.observer();
        scope.spawn(move || {
            let inside = observer.enter(Tracking::On);
            here.wait();
            assert!(stay.recv().is_err());
            drop(inside);
        });
        entered.wait();
        let mut shootdown = rig.duty(range(0, PAGE)).shootdown();
        let panics = |_| resume_unwind(alloc::boxed::Box::new(()));
        for _ in 0..2 {
            let wait = || shootdown.wait(&panics);
            assert!(catch_unwind(AssertUnwindSafe(wait)).is_err());
        }
        rig.populate(range(0, MIB), PageSize::Size4K).unwrap();
        drop(rig.observer());
        // It was not kicked yet.
        let leave = Cell::new(Some(leave));
        assert_eq!(shootdown.wait(&|_| drop(leave.take())), Ok(()));
        assert!(leave.take().is_none());
    });
}

#[test]
fn a_shootdown_that_is_dropped_has_told_everybody() {
    let rig = Rig::new();
    let mut observer = rig.observer();
    let inside = observer.enter(Tracking::On);
    let _ = inside.due();
    drop(rig.duty(range(0, PAGE)).shootdown());
    assert_eq!(rig.stats().lagging, 1);
    drop(inside);
    assert_eq!(due(&observer.enter(Tracking::On)), Some(vec![(range(0, PAGE), Scope::Leaves)]));
}

#[test]
fn two_that_shoot_each_other_down_poll_and_serve_each_other() {
    let rig = Rig::new();
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for page in 0..2 {
            let (rig, start) = (&rig, &start);
            let mut observer = rig.observer();
            scope.spawn(move || {
                let mut inside = observer.enter(Tracking::On);
                start.wait();
                for _ in 0..500 {
                    let mut shootdown = rig.duty(range(page * PAGE, PAGE)).shootdown();
                    while shootdown.poll() != Progress::Complete {
                        inside.acknowledge(|_| ());
                        thread::yield_now();
                    }
                }
            });
        }
    });
}
