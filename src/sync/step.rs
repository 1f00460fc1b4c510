//! shuttle's words, which say what is done to them and where, just before it is done.
//!
//! Each such *step* is where shuttle may go on with another thread. So a scheduler that stops a thread can
//! say what it was about to do. crossbeam-epoch is not shuttle's: to pin and to unpin are no steps.

extern crate std;

use core::{cell::Cell, fmt, panic::Location};

use shuttle::sync::atomic;

use super::Ordering;

/// What a thread is about to do to a word that others reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextStep {
    /// Which kind of access it is, or which kind of wait.
    pub what: &'static str,
    /// Where it stands in the source.
    pub at: &'static Location<'static>,
}

impl fmt::Display for NextStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}", self.what, self.at.file(), self.at.line())
    }
}

std::thread_local! {
    // All threads of an execution run on one of the system's.
    static AHEAD: Cell<Option<NextStep>> = const { Cell::new(None) };
}

/// Says what the caller is about to do.
#[track_caller]
pub(super) fn step(what: &'static str) {
    AHEAD.set(Some(NextStep { what, at: Location::caller() }));
}

/// Returns, once, the step that the thread which runs is about to make; `None` where it has come to a
/// place of another kind: the release of a lock, or what is no word of the library's.
#[must_use]
pub fn next_step() -> Option<NextStep> {
    AHEAD.take()
}

#[derive(Debug)]
pub(super) struct AtomicU64(atomic::AtomicU64);

impl AtomicU64 {
    pub(super) fn new(value: u64) -> Self {
        Self(atomic::AtomicU64::new(value))
    }

    #[track_caller]
    pub(super) fn load(&self, order: Ordering) -> u64 {
        step("load");
        self.0.load(order)
    }

    #[track_caller]
    pub(super) fn store(&self, value: u64, order: Ordering) {
        step("store");
        self.0.store(value, order);
    }

    #[track_caller]
    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        step("exchange");
        self.0.swap(value, order)
    }

    #[track_caller]
    pub(super) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        step("compare-exchange");
        self.0.compare_exchange(current, new, success, failure)
    }

    #[track_caller]
    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        step("fetch-add");
        self.0.fetch_add(value, order)
    }

    #[track_caller]
    pub(super) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        step("fetch-sub");
        self.0.fetch_sub(value, order)
    }

    #[track_caller]
    pub(super) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        step("fetch-or");
        self.0.fetch_or(value, order)
    }

    #[track_caller]
    pub(super) fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        step("fetch-and");
        self.0.fetch_and(value, order)
    }

    #[track_caller]
    pub(super) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        step("fetch-max");
        self.0.fetch_max(value, order)
    }
}
