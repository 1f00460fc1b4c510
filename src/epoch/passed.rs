//! Which grace periods are over.

use crate::sync::{AtomicU64, Ordering};

/// The greatest stamp whose grace period is over.
#[derive(Debug)]
pub(super) struct Passed(AtomicU64);

impl Passed {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Says that every pin has ended that was held when `stamp` was retired.
    pub(super) fn note(&self, stamp: u64) {
        // Release: what all pins of that time did comes before the freeing; pairs with `covers`
        //   [edge: grace].
        self.0.fetch_max(stamp, Ordering::Release);
    }

    /// Tells whether that was said of `stamp`, or of a later one.
    pub(super) fn covers(&self, stamp: u64) -> bool {
        // Acquire: the freeing comes after what all those pins did; pairs with `note` [edge: grace].
        self.0.load(Ordering::Acquire) >= stamp
    }
}
