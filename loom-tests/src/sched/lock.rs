//! A lock of the scenario's own.

// As a plain thread's, ThreadSanitizer sees into it, which it does not into the standard library's.
#[cfg(not(any(loom, shuttle)))]
use parking_lot::Mutex;

#[cfg(any(loom, shuttle))]
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
        let guard = self.0.lock();
        #[cfg(any(loom, shuttle))]
        let guard = guard.unwrap();
        let mut guard = guard;
        work(&mut guard)
    }
}
