//! loom's words, with a turn to take before each access.
//!
//! loom 0.7 remembers one access per object to find out where an execution could have gone another
//! way. A thread that loads a word and then changes it, as every operation here does, hides the
//! earlier load of another thread behind its own, and the executions in which that load comes later
//! are never tried (tokio-rs/loom issues 166 and 392). So each access is preceded by a store to a
//! word beside it, on which all accesses depend. Nobody loads that word, and a store that nobody
//! loads orders nothing.

use loom::sync::atomic;

use super::Ordering;

#[derive(Debug)]
pub(super) struct AtomicU64 {
    word: atomic::AtomicU64,
    turn: atomic::AtomicU64,
}

impl AtomicU64 {
    pub(super) fn new(value: u64) -> Self {
        Self { word: atomic::AtomicU64::new(value), turn: atomic::AtomicU64::new(0) }
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.take_turn();
        self.word.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        self.take_turn();
        self.word.store(value, order);
    }

    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.swap(value, order)
    }

    pub(super) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.take_turn();
        self.word.compare_exchange(current, new, success, failure)
    }

    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.fetch_add(value, order)
    }

    pub(super) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.fetch_sub(value, order)
    }

    pub(super) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.fetch_or(value, order)
    }

    pub(super) fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.fetch_and(value, order)
    }

    pub(super) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.take_turn();
        self.word.fetch_max(value, order)
    }

    fn take_turn(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }
}
