//! Random interleavings, the same ones in every run: a thread at random at each step, and by probabilistic
//! concurrency testing (PCT), where priorities change at a few random steps.

mod cell;
mod lock;
mod signal;

use std::{
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use shuttle::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
use shuttle::{
    Config, Runner,
    rand::{RngCore, thread_rng},
    scheduler::{
        PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
    },
};
pub use shuttle::{sync::Arc, thread};

pub use self::signal::Signal;
pub(crate) use self::{cell::Cell, lock::Lock};

/// Shared by the executions, so not of the scheduler's.
#[expect(clippy::disallowed_types, reason = "outside of the executions")]
pub(crate) type Shared<T> = Arc<std::sync::Mutex<T>>;

pub(crate) struct Runs {
    random: usize,
    by_priority: usize,
    took: Duration,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { random, by_priority, took } = self;
        write!(f, "{random} random executions, {by_priority} by priorities, {took:.1?}")
    }
}

const SEED: u64 = 0x51a7;

/// How many times PCT changes priorities, and one more: of bugs that take so many orderings of two steps it
/// finds one in some executions, whatever else goes on.
const DEPTH: usize = 4;

/// Of how many random executions there is one by PCT.
const RATIO: usize = 4;

/// `SHUTTLE_ITERATIONS` overrides the number of executions, `SHUTTLE_SCHEDULER` (`random` or `pct`) says by which
/// scheduler alone to go, and `SHUTTLE_REPLAY` names a file with the schedule of the one to go through again.
pub(crate) fn explore(_preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) -> Runs {
    let started = Instant::now();
    let scenario = Arc::new(scenario);
    if let Some(random) = replay(&scenario) {
        return Runs { random, by_priority: 0, took: started.elapsed() };
    }
    let iterations = std::env::var("SHUTTLE_ITERATIONS").map_or(2_000, |n| n.parse().unwrap());
    let only = std::env::var("SHUTTLE_SCHEDULER").ok();
    let (random, by_priority) = match only.as_deref() {
        None => (iterations, iterations / RATIO),
        Some("random") => (iterations, 0),
        // One to see whether there is a choice.
        Some("pct") => (1, iterations),
        Some(other) => panic!("there is no scheduler {other}"),
    };
    let has_choice = Rc::new(std::cell::Cell::new(false));
    let inner = RandomScheduler::new_from_seed(SEED, random);
    let random = run(Choosing { inner, has_choice: Rc::clone(&has_choice) }, &scenario);
    // Where one thread runs at a time there are no priorities.
    let by_priority = if has_choice.get() { by_priority } else { 0 };
    let by_priority = run(PctScheduler::new_from_seed(SEED, DEPTH, by_priority), &scenario);
    Runs { random, by_priority, took: started.elapsed() }
}

/// Runs `scenario` so often, at random if the seed is even, and by priorities if it is odd. `SHUTTLE_REPLAY` is as
/// for [`explore`].
pub(crate) fn sample(seed: u64, runs: usize, scenario: impl Fn(usize) + Send + Sync + 'static) {
    let scenario = Arc::new(move || scenario(0));
    if replay(&scenario).is_some() {
        return;
    }
    if seed.is_multiple_of(2) {
        run(RandomScheduler::new_from_seed(seed, runs), &scenario);
    } else {
        run(PctScheduler::new_from_seed(seed, DEPTH, runs), &scenario);
    }
}

/// Goes through the one execution that is asked for, if one is; returns how many that were.
fn replay(scenario: &Arc<impl Fn() + Send + Sync + 'static>) -> Option<usize> {
    let file = std::env::var("SHUTTLE_REPLAY").ok()?;
    let schedule = std::fs::read_to_string(file).unwrap();
    Some(run(ReplayScheduler::new_from_encoded(schedule.trim()), scenario))
}

fn run(
    scheduler: impl Scheduler + 'static,
    scenario: &Arc<impl Fn() + Send + Sync + 'static>,
) -> usize {
    let scenario = Arc::clone(scenario);
    Runner::new(scheduler, Config::default()).run(move || scenario())
}

/// Random choices, and whether there was one to make.
struct Choosing {
    inner: RandomScheduler,
    has_choice: Rc<std::cell::Cell<bool>>,
}

impl Scheduler for Choosing {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.inner.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        if runnable.len() > 1 {
            self.has_choice.set(true);
        }
        self.inner.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

/// Returns by what an execution makes its choices. It is part of the schedule.
pub(crate) fn seed() -> u64 {
    thread_rng().next_u64()
}

/// Lets another thread go on, perhaps, as before any access to a word that others reach.
pub(crate) fn part() {
    AtomicBool::new(false).store(true, Ordering::Relaxed);
}

/// Runs `scenario` once, which starts no thread.
pub(crate) fn once(scenario: impl Fn() + Send + Sync + 'static) {
    let scheduler = RandomScheduler::new_from_seed(SEED, 1);
    Runner::new(scheduler, Config::default()).run(scenario);
}

/// Holds racing threads back until all are there; shuttle starts them at random moments.
#[derive(Debug)]
pub(crate) struct Gate;

impl Gate {
    pub(crate) fn new(_threads: usize) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "the other schedulers have something to wait for")]
    pub(crate) fn pass(&self) {}
}
