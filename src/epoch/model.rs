//! Grace periods: their word alone, without the pins, whose fences would hide what it orders; and notes, which
//! run on whatever thread finds their grace periods over.

#![expect(unsafe_code, reason = "the checker watches the cell; that is what it is for")]

use loom::{cell::UnsafeCell, thread};

use super::{Epoch, passed::Passed};
use crate::sync::{Arc, explore};

/// A table that waits for the grace period of stamp 2.
struct Scene {
    passed: Passed,
    table: UnsafeCell<()>,
}

// SAFETY: the cell holds nothing, and loom stops the execution at the first unordered access.
unsafe impl Sync for Scene {}

#[test]
fn what_is_freed_behind_a_grace_period_was_last_walked_before() {
    explore(3, || {
        let scene = Arc::new(Scene { passed: Passed::new(), table: UnsafeCell::new(()) });
        let other = Arc::clone(&scene);
        // Of a stamp before, which says nothing of the table, and has its note on another thread.
        let early = thread::spawn(move || other.passed.note(1));
        let other = Arc::clone(&scene);
        let walker = thread::spawn(move || {
            other.table.with(|_| ());
            other.passed.note(2);
        });
        if scene.passed.covers(2) {
            scene.table.with_mut(|_| ());
        }
        early.join().unwrap();
        walker.join().unwrap();
    });
}

/// Whoever waits for the greater stamp would wait for ever if it were taken back: no note says it again.
#[test]
fn of_two_notes_that_run_at_a_time_the_greater_one_stays() {
    explore(2, || {
        let epoch = Arc::new(Epoch::new());
        let [here, there] = [(); 2].map(|()| epoch.join());
        // Behind a pin that is one epoch old both wait for the same epoch.
        let pin = there.pin();
        here.pin().0.flush();
        epoch.retire(&here, 1);
        epoch.retire(&here, 2);
        drop(pin);
        here.pin().0.flush();
        assert!(!epoch.passed(1), "else there is nothing to run at a time");
        let other = thread::spawn(move || there.pin().0.flush());
        here.pin().0.flush();
        other.join().unwrap();
        epoch.advance(&here, 2);
        assert!(epoch.passed(2));
    });
}
