//! Real threads on the real machine.

#![expect(clippy::disallowed_types, reason = "the gate is no part of what is tested")]

mod cell;
mod lock;
mod signal;

use std::{
    fmt, hint,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
pub use std::{sync::Arc, thread};

pub use self::signal::Signal;
pub(crate) use self::{cell::Cell, lock::Lock};

pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) struct Runs {
    executions: usize,
    took: Duration,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, took } = self;
        write!(f, "{executions} runs as threads, {took:.1?}")
    }
}

/// `THREAD_RUNS` overrides the number of runs.
pub(crate) fn explore(_preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) -> Runs {
    let usual = if cfg!(miri) { 10 } else { 500 };
    let executions = std::env::var("THREAD_RUNS").map_or(usual, |n| n.parse().unwrap());
    let started = Instant::now();
    for run in 0..executions {
        RUN.set(run as u64);
        let _says = Says(run);
        scenario();
    }
    Runs { executions, took: started.elapsed() }
}

/// Runs `scenario` so often, and tells it in which run it is; the seed is for the others.
pub(crate) fn sample(_seed: u64, runs: usize, scenario: impl Fn(usize) + Send + Sync + 'static) {
    (0..runs).for_each(scenario);
}

/// Nothing: others go on all the time.
pub(crate) fn part() {}

/// Runs `scenario` once, which starts no thread.
pub(crate) fn once(scenario: impl Fn() + Send + Sync + 'static) {
    scenario();
}

thread_local! {
    static RUN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Returns by what a run makes its choices: its number. To be asked on the scenario's own thread.
pub(crate) fn seed() -> u64 {
    RUN.get()
}

/// Says which run fails, if one does.
struct Says(usize);

impl Drop for Says {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in run {}", self.0);
        }
    }
}

/// Holds racing threads back until all are there: a thread takes longer to start than to run.
#[derive(Debug)]
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    pub(crate) fn new(threads: usize) -> Self {
        Self(AtomicUsize::new(threads))
    }

    pub(crate) fn pass(&self) {
        // Relaxed: it orders nothing, so that what the scenario itself orders is all there is.
        self.0.fetch_sub(1, Ordering::Relaxed);
        for spins in 0_u32.. {
            if self.0.load(Ordering::Relaxed) == 0 {
                return;
            }
            if spins > 10_000 || cfg!(miri) { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}
