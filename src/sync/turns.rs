//! Turns: nothing in an ordinary build, under a checker a store before each access to a word that is not
//! the checker's, or not enough so.
//!
//! loom 0.7 remembers one access per object to find out where an execution could have gone another
//! way. A thread that loads a word and then changes it, as every operation here does, hides the
//! earlier load of another thread behind its own, and the executions in which that load comes later
//! are never tried (tokio-rs/loom issues 166 and 392). So each access is preceded by a store to a
//! word beside it, on which all accesses depend. Nobody loads that word, and a store that nobody
//! loads orders nothing.
//!
//! shuttle goes on with another thread at its own words only: where one is crossbeam-epoch's, the turn before it
//! is the place.

#[cfg(loom)]
use loom::sync::atomic::AtomicU64;

#[cfg(any(loom, shuttle))]
use super::Ordering;
#[cfg(shuttle)]
use super::step::AtomicU64;

/// Whose turn it is to access some word.
#[derive(Debug)]
pub(crate) struct Turn(#[cfg(any(loom, shuttle))] AtomicU64);

impl Turn {
    pub(crate) fn new() -> Self {
        Self(
            #[cfg(any(loom, shuttle))]
            AtomicU64::new(0),
        )
    }

    /// To be called before each access.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn take(&self) {
        #[cfg(any(loom, shuttle))]
        self.0.store(0, Ordering::Relaxed);
    }
}
