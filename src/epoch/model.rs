//! The word of the grace periods alone, without the pins, whose fences would hide what it orders.

#![expect(unsafe_code, reason = "the checker watches the cell; that is what it is for")]

use loom::{cell::UnsafeCell, thread};

use super::Passed;
use crate::sync::Arc;

/// A table that waits for the grace period of stamp 2.
struct Scene {
    passed: Passed,
    table: UnsafeCell<()>,
}

// SAFETY: the cell holds nothing, and loom stops the execution at the first unordered access.
unsafe impl Sync for Scene {}

#[test]
fn what_is_freed_behind_a_grace_period_was_last_walked_before() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3);
    model.check(|| {
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
