//! By what the models in the library are run: every interleaving up to a bound, and how many that were.

#![expect(clippy::disallowed_types, reason = "counts the executions, outside of the model")]

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

/// Runs `scenario` in every way with at most `preemptions` involuntary switches of threads, or
/// `LOOM_MAX_PREEMPTIONS`; prints its name and how often that was.
pub(crate) fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    let preemptions = *model.preemption_bound.get_or_insert(preemptions);
    // crossbeam-epoch registers, pins and collects in many small steps.
    model.max_branches = 50_000;
    let _log = log();
    let executions = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&executions);
    let started = Instant::now();
    model.check(move || {
        // Relaxed: loom runs its threads on one.
        counter.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    // libtest names the thread after the test, unless it runs one at a time and says before which.
    let here = thread::current();
    let (name, count) = (here.name().unwrap_or_default(), executions.load(Ordering::Relaxed));
    println!(
        "scenario slat::{name}: {count} executions, all with up to {preemptions} preemptions, {:.1?}",
        started.elapsed()
    );
}
