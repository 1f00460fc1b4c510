//! Which operations were over: told by the time, for real threads.
//!
//! Not by a counter that all of them increment. Its exchanges would order the operations of one thread
//! with those of another that came before by the counter, as fences do, and what the library forgot to
//! order itself would not be seen. To read the clock writes nothing that another thread reads.
//!
//! A clock is less exact: a processor may begin the operation's loads while it still reads the time, and
//! clocks of two processors may differ a little. So intervals are widened at both ends by more than that:
//! operations that follow each other closely count as simultaneous, which explains more, and never less,
//! than was so.

use std::{
    hint,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::history::THREADS;

/// How much later than it says, or earlier, a moment may have been.
const SLACK: Duration = Duration::from_nanos(40);

/// When an operation was called, at the latest, and answered, at the earliest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    called: Instant,
    answered: Instant,
}

/// The time.
#[derive(Debug)]
pub(crate) struct Clock;

impl Clock {
    pub(crate) fn new(_threads: usize) -> Self {
        Self
    }

    /// Does `operation`, whichever thread's it is.
    #[expect(clippy::unused_self, reason = "the other schedulers have counts")]
    pub(crate) fn time<T>(&self, _thread: usize, operation: impl FnOnce() -> T) -> (T, Interval) {
        let called = Instant::now();
        let answer = operation();
        let answered = Instant::now();
        (answer, Interval { called, answered })
    }
}

/// Returns what was over when each operation was called.
pub(crate) fn seen(threads: &[Vec<Interval>]) -> Vec<Vec<[usize; THREADS]>> {
    let over = |thread: usize, called: Instant| {
        let of: &[Interval] = threads.get(thread).map_or(&[], |of| of);
        of.iter().take_while(|interval| interval.answered + 2 * SLACK < called).count()
    };
    let seen = |interval: &Interval| std::array::from_fn(|thread| over(thread, interval.called));
    threads.iter().map(|of| of.iter().map(seen).collect()).collect()
}

/// The pace of a thread: real threads are too fast to meet if nothing holds them up.
#[derive(Debug)]
pub(crate) struct Pace(SmallRng);

impl Pace {
    pub(crate) fn new(seed: u64, thread: usize) -> Self {
        Self(SmallRng::seed_from_u64(seed ^ (thread as u64) << 32))
    }

    /// Waits for a moment, or not.
    pub(crate) fn wait(&mut self) {
        let spins = if self.0.random_bool(0.5) { self.0.random_range(0..200) } else { 0 };
        for _ in 0..spins {
            hint::spin_loop();
        }
    }
}
