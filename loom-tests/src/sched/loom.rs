//! Every interleaving, up to a bound.

#![expect(clippy::disallowed_types, reason = "counts the executions, outside of the model")]

mod lock;
mod signal;

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use loom::sync::{Mutex, atomic::AtomicBool};
pub use loom::{sync::Arc, thread};
use tracing_subscriber::{EnvFilter, fmt as fmt_log, util::SubscriberInitExt as _};

pub(crate) use self::lock::Lock;
pub use self::signal::Signal;

/// Shared by the executions, so not of the model.
pub(crate) type Shared<T> = std::sync::Arc<std::sync::Mutex<T>>;

pub(crate) struct Runs {
    executions: u64,
    preemptions: usize,
    took: Duration,
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, preemptions, took } = self;
        write!(f, "{executions} executions, all with up to {preemptions} preemptions, {took:.1?}")
    }
}

/// Has loom say what each execution does, as `LOOM_LOG` asks for: of itself only its `model` does that, which knows
/// no bounds.
fn log() -> Option<impl Sized> {
    std::env::var_os("LOOM_LOG")?;
    let filter = EnvFilter::from_env("LOOM_LOG");
    let subscriber = fmt_log::fmt().with_env_filter(filter).with_test_writer().without_time();
    Some(subscriber.finish().set_default())
}

/// `LOOM_MAX_PREEMPTIONS` overrides the bound.
pub(crate) fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) -> Runs {
    let mut model = loom::model::Builder::new();
    let preemptions = *model.preemption_bound.get_or_insert(preemptions);
    // crossbeam-epoch registers, pins and collects in many small steps.
    model.max_branches = 50_000;
    let _log = log();
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&executions);
    let started = Instant::now();
    model.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    Runs { executions: executions.load(Ordering::Relaxed), preemptions, took: started.elapsed() }
}

/// Runs `scenario` in every way, up to a bound; how often, and from which seed, is for the others.
pub(crate) fn sample(_seed: u64, _runs: usize, scenario: impl Fn(usize) + Send + Sync + 'static) {
    explore(2, move || scenario(0));
}

/// Runs `scenario` once, which starts no thread.
pub(crate) fn once(scenario: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 50_000;
    // That of the executions at the same time.
    model.checkpoint_file = None;
    model.check(scenario);
}

/// Returns by what an execution makes its choices: the same ones in each.
pub(crate) fn seed() -> u64 {
    0
}

/// A cell whose unordered accesses end the execution.
#[derive(Debug)]
pub(crate) struct Cell(loom::cell::UnsafeCell<u64>);

impl Cell {
    pub(crate) fn new(value: u64) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(*const u64) -> T) -> T {
        self.0.with(f)
    }

    pub(crate) fn with_mut<T>(&self, f: impl FnOnce(*mut u64) -> T) -> T {
        self.0.with_mut(f)
    }
}

/// Holds racing threads back until all are there; loom starts them at every moment anyway.
#[derive(Debug)]
pub(crate) struct Gate;

impl Gate {
    pub(crate) fn new(_threads: usize) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "the other schedulers have something to wait for")]
    pub(crate) fn pass(&self) {}
}
