//! loom's words, each with a [`Turn`] that is taken before each access.

use loom::sync::atomic;

use super::{Ordering, Turn};

#[derive(Debug)]
pub(super) struct AtomicU64 {
    word: atomic::AtomicU64,
    turn: Turn,
}

impl AtomicU64 {
    pub(super) fn new(value: u64) -> Self {
        Self { word: atomic::AtomicU64::new(value), turn: Turn::new() }
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.turn.take();
        self.word.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        self.turn.take();
        self.word.store(value, order);
    }

    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.swap(value, order)
    }

    pub(super) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.turn.take();
        self.word.compare_exchange(current, new, success, failure)
    }

    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.fetch_add(value, order)
    }

    pub(super) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.fetch_sub(value, order)
    }

    pub(super) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.fetch_or(value, order)
    }

    pub(super) fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.fetch_and(value, order)
    }

    pub(super) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.turn.take();
        self.word.fetch_max(value, order)
    }
}
