//! A number that one thread counts up and any may read.

use core::sync::atomic as imp;

use super::Ordering;

/// Counts what its owner does. Not of any protocol, so the checkers do not see it.
#[derive(Debug, Default)]
#[expect(clippy::disallowed_types, reason = "orders nothing, in no build")]
pub(crate) struct Counter(imp::AtomicU64);

impl Counter {
    /// Adds `count`. One thread at a time does: who shares a counter holds a lock.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        // Relaxed, and no locked operation: nobody else writes it.
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(count);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Returns the number, which may be some time old.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: exact when its owner is quiet, and the reader knows that by other means.
        self.0.load(Ordering::Relaxed)
    }
}
