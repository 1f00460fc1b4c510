//! Threads that begin together: workers, with so much to do each, and others that go on for as long
//! as there are workers.

use std::{
    boxed::Box,
    sync::{Arc, Barrier, Weak},
    thread,
};

use crate::common::scaled;

type Work<'a, R> = Box<dyn FnOnce() -> R + Send + 'a>;
type Background<'a, R> = Box<dyn FnOnce(&Working) -> R + Send + 'a>;

/// Tells whether some worker still works. A worker that panics counts as done.
#[derive(Clone, Debug)]
pub(crate) struct Working(Weak<()>);

impl Working {
    pub(crate) fn go_on(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The threads of one race; each returns an `R`.
pub(crate) struct Crew<'a, R> {
    workers: Vec<Work<'a, R>>,
    others: Vec<Background<'a, R>>,
}

impl<'a, R: Send> Crew<'a, R> {
    pub(crate) fn new() -> Self {
        Self { workers: Vec::new(), others: Vec::new() }
    }

    pub(crate) fn worker(&mut self, work: impl FnOnce() -> R + Send + 'a) {
        self.workers.push(Box::new(work));
    }

    /// Adds a thread that ends after the last worker has.
    pub(crate) fn meanwhile(&mut self, work: impl FnOnce(&Working) -> R + Send + 'a) {
        self.others.push(Box::new(work));
    }

    /// Starts all at once; returns what the workers return, then what the others return.
    pub(crate) fn run(self) -> Vec<R> {
        let barrier = &Barrier::new(self.workers.len() + self.others.len());
        let alive = Arc::new(());
        let working = Working(Arc::downgrade(&alive));
        thread::scope(|scope| {
            let mut handles = Vec::new();
            for work in self.workers {
                let alive = Arc::clone(&alive);
                handles.push(scope.spawn(move || {
                    barrier.wait();
                    let result = work();
                    drop(alive);
                    result
                }));
            }
            drop(alive);
            for work in self.others {
                let working = working.clone();
                handles.push(scope.spawn(move || {
                    barrier.wait();
                    work(&working)
                }));
            }
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }
}

/// Returns how many rounds to do: fewer in a debug build, more where `SLAT_STRESS_SCALE` says so.
pub(crate) fn rounds(release: u64) -> u64 {
    let one = if cfg!(debug_assertions) { release / 4 } else { release };
    one * scaled("SLAT_STRESS_SCALE", 1)
}
