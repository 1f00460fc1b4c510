//! Runs a model of private parts: every interleaving up to a bound, which it prints with their number.

extern crate std;

use std::{
    println,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

/// Runs `scenario` in all ways with at most so many `preemptions`; `LOOM_MAX_PREEMPTIONS` overrides the bound.
///
/// # Panics
/// If the scenario does.
#[expect(clippy::disallowed_types, reason = "counts executions, outside of the model")]
pub(crate) fn check(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
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
