//! Runs a model of private parts: every interleaving up to a bound, which it prints with their number.
#![expect(clippy::disallowed_types, reason = "executions are counted outside of the model")]

extern crate std;

use std::{
    env, println,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

/// Has loom say what each execution does, as `LOOM_LOG` asks for.
fn log() -> Option<impl Sized> {
    env::var_os("LOOM_LOG")?;
    let filter = EnvFilter::from_env("LOOM_LOG");
    Some(fmt().with_env_filter(filter).with_test_writer().without_time().finish().set_default())
}

/// Runs `scenario` in all ways with at most so many `preemptions`; `LOOM_MAX_PREEMPTIONS` overrides the bound.
///
/// # Panics
/// If the scenario does.
pub(crate) fn check(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let _log = log();
    let mut model = loom::model::Builder::new();
    let preemptions = *model.preemption_bound.get_or_insert(preemptions);
    // crossbeam-epoch pins and collects in many small steps.
    model.max_branches = 50_000;
    let executions = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&executions);
    let started = Instant::now();
    model.check(move || {
        // Relaxed: the executions come one after the other.
        counter.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    // The test's name.
    let current = thread::current();
    let (name, took) = (current.name().unwrap_or("model"), started.elapsed());
    let executions = executions.load(Ordering::Relaxed);
    println!(
        "scenario slat::{name}: {executions} executions, all with up to {preemptions} preemptions, {took:.1?}"
    );
}
