//! Sides of a scenario, each on a thread of its own.
//!
//! What a side has taken with it, it gives back with its result, so that it is dropped when all is over.

use crate::sched::{Arc, Gate, thread};

/// Runs both at the same time.
///
/// # Panics
/// If one of them does.
pub fn beside<A, B>(one: impl FnOnce() -> A, two: impl FnOnce() -> B + Send + 'static) -> (A, B)
where
    B: Send + 'static,
{
    let gate = Arc::new(Gate::new(2));
    let second = start(&gate, two);
    gate.pass();
    let first = one();
    (first, second.join().unwrap())
}

/// Runs all at the same time; returns what came of them, in order.
pub(crate) fn all<T: Send + 'static>(sides: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    let gate = Arc::new(Gate::new(sides.len()));
    let mut sides = sides.into_iter();
    let first = sides.next().expect("somebody is there");
    let others: Vec<_> = sides.map(|side| start(&gate, side)).collect();
    gate.pass();
    let mut done = vec![first()];
    done.extend(others.into_iter().map(|other| other.join().unwrap()));
    done
}

/// Starts a side, which begins when all that the gate waits for are there.
pub(crate) fn start<T: Send + 'static>(
    gate: &Arc<Gate>,
    side: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        gate.pass();
        side()
    })
}
