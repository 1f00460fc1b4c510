//! Random interleavings, the same ones in every run.

mod cell;
mod lock;
mod signal;

use std::{
    fmt,
    time::{Duration, Instant},
};

use shuttle::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
use shuttle::{Config, Runner, scheduler::RandomScheduler};
pub use shuttle::{sync::Arc, thread};

pub use self::signal::Signal;
pub(crate) use self::{cell::Cell, lock::Lock};

/// Shared by the executions, so not of the scheduler's.
#[expect(clippy::disallowed_types, reason = "outside of the executions")]
pub(crate) type Shared<T> = Arc<std::sync::Mutex<T>>;

pub(crate) struct Runs {
    executions: usize,
    took: Duration,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, took } = self;
        write!(f, "{executions} random executions, {took:.1?}")
    }
}

const SEED: u64 = 0x51a7;

/// `SHUTTLE_ITERATIONS` overrides the number of executions.
pub(crate) fn explore(_preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) -> Runs {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").map_or(2_000, |n| n.parse().unwrap());
    let started = Instant::now();
    let scheduler = RandomScheduler::new_from_seed(SEED, iterations);
    let executions = Runner::new(scheduler, Config::default()).run(scenario);
    Runs { executions, took: started.elapsed() }
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
