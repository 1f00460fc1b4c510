//! Turns: nothing in an ordinary build, under loom a store on which the accesses of a word depend.
//!
//! loom 0.7 remembers one access per object to find out where an execution could have gone another
//! way. A thread that loads a word and then changes it, as every operation here does, hides the
//! earlier load of another thread behind its own, and the executions in which that load comes later
//! are never tried (tokio-rs/loom issues 166 and 392). So each access is preceded by a store to a
//! word beside it, on which all accesses depend. Nobody loads that word, and a store that nobody
//! loads orders nothing.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Whose turn it is to access some word.
#[derive(Debug)]
pub(crate) struct Turn(#[cfg(loom)] AtomicU64);

impl Turn {
    pub(crate) fn new() -> Self {
        Self(
            #[cfg(loom)]
            AtomicU64::new(0),
        )
    }

    /// To be called before each access.
    #[inline]
    pub(crate) fn take(&self) {
        #[cfg(loom)]
        self.0.store(0, Ordering::Relaxed);
    }
}
