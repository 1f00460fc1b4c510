//! One thread says that it is so far.

#![cfg_attr(
    not(any(loom, shuttle)),
    expect(clippy::disallowed_types, reason = "a word of the scenario's own")
)]

use super::{AtomicBool, Ordering};

/// Tells another thread that something is done, and orders what came before it.
#[derive(Debug)]
pub struct Signal(AtomicBool);

impl Signal {
    /// Makes one that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Says that what the caller did is done.
    pub fn set(&self) {
        // Release: what is done comes before; pairs with `is_set`.
        self.0.store(true, Ordering::Release);
    }

    /// Tells whether it is done.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // Acquire: what was done before comes before what the caller does now; pairs with `set`.
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}
