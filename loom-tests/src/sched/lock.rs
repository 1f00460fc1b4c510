//! A lock of the scenario's own.

#![cfg_attr(
    not(any(loom, shuttle)),
    expect(clippy::disallowed_types, reason = "a lock of the scenario's own")
)]

use super::Mutex;

/// A lock whose holders are ordered, whichever scheduler runs them.
#[derive(Debug)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Does `work` while nobody else does.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }
}
