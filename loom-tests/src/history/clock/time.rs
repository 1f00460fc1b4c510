//! Which operations were over: told by the time, for real threads.
//!
//! Not by a counter that all of them increment. Its exchanges would order the operations of one thread
//! with those of another that came before by the counter, as fences do, and what the library forgot to
//! order itself would not be seen. To read the clock writes nothing that another thread reads.
//!
//! A clock is less exact: a processor may begin the operation's loads while it still reads the time, and
//! clocks of two processors may differ a little. So intervals are widened at both ends by more than that:
//! operations that follow each other closely count as simultaneous, which explains more, and never less,
//! than was so. That what was answered is to be seen by then is the processor's promise: on x86, whose changes
//! are locked exchanges.

use std::{
    cell::RefCell,
    hint, thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::history::THREADS;

/// How much later than it says, or earlier, a moment may have been.
const SLACK: Duration = Duration::from_nanos(40);

/// When an operation was called and answered, by the clock.
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
    pub(crate) fn time<T>(
        &self,
        _thread: usize,
        _before: usize,
        operation: impl FnOnce() -> T,
    ) -> (T, Interval) {
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

thread_local! {
    static PACE: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// The pace of the thread that made it, while it is there: threads are too fast to meet if nothing holds
/// them up.
#[derive(Debug)]
pub(crate) struct Pace;

impl Pace {
    pub(crate) fn new(seed: u64, thread: usize) -> Self {
        PACE.set(Some(SmallRng::seed_from_u64(seed ^ (thread as u64) << 32)));
        Self
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        PACE.set(None);
    }
}

/// Stops for a moment, or not, where a walk goes on to the next table; nothing happens in a thread that has
/// no [`Pace`]. It tells nobody anything, and orders nothing.
pub(crate) fn hesitate() {
    PACE.with_borrow_mut(|pace| {
        let Some(rng) = pace else { return };
        match rng.random_range(0..64) {
            // Threads may be more than processors: let another one come.
            0..=1 => thread::yield_now(),
            2..=9 => (0..rng.random_range(0..1_000)).for_each(|_| hint::spin_loop()),
            _ => {}
        }
    });
}
