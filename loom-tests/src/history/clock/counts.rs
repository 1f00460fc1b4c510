//! Which operations were over: counted, under schedulers that run one thread at a time.
//!
//! Under shuttle the counts are none of its atomics, so to look at them is no step of a thread: it
//! schedules the library alone, and an operation is over if it answered before in the execution.
//!
//! Under loom there is no before in the execution, since a load may return what was there long ago; there is
//! only what happens before. So the counts are words of the model, which are published with an answer
//! and read with a call. Of such words, too, a load may return old values: in those executions the operation
//! counts as still under way, and nothing was ordered by the look.

#![cfg_attr(shuttle, expect(clippy::disallowed_types, reason = "outside of the executions"))]

mod words {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    #[cfg(shuttle)]
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}

use std::array;

use self::words::{AtomicUsize, Ordering};
use crate::history::THREADS;

/// What was over when an operation was called.
pub(crate) type Interval = [usize; THREADS];

/// How many operations of each thread are over.
#[derive(Debug)]
pub(crate) struct Clock {
    over: [AtomicUsize; THREADS],
    threads: usize,
}

impl Clock {
    pub(crate) fn new(threads: usize) -> Self {
        Self { over: array::from_fn(|_| AtomicUsize::new(0)), threads }
    }

    /// Does `operation`, of which this thread has done so many before.
    pub(crate) fn time<T>(
        &self,
        thread: usize,
        before: usize,
        operation: impl FnOnce() -> T,
    ) -> (T, Interval) {
        let mut seen = [0; THREADS];
        for other in (0..self.threads).filter(|&other| other != thread) {
            // Acquire: what is over happens before the call; pairs with the store below.
            seen[other] = self.over[other].load(Ordering::Acquire);
        }
        let answer = operation();
        // Release: what was answered is over; pairs with the load above. It is not read here, to be incremented:
        //   loom would take that for the access which a look of another thread has to be tried before.
        self.over[thread].store(before + 1, Ordering::Release);
        (answer, seen)
    }
}

/// Returns what was over when each operation was called.
pub(crate) fn seen(threads: &[Vec<Interval>]) -> Vec<Vec<[usize; THREADS]>> {
    threads.to_vec()
}

/// The pace of a thread, which is the scheduler's business.
#[derive(Debug)]
pub(crate) struct Pace;

impl Pace {
    pub(crate) fn new(_seed: u64, _thread: usize) -> Self {
        Self
    }
}

/// Real threads stop here now and then.
pub(crate) fn hesitate() {}
