//! The record of one observer: whether it is inside, and what it knows.
//!
//! One word, written by the observer alone and read by whoever waits for it:
//!
//! ```text
//!           begin             settle(g)
//!     OUT --------> ENTERING ----------> g       inside, and knows all up to generation g
//!      ^                                 | settle(g'), by acknowledging
//!      +---------------------------------+
//!                    leave
//! ```
//!
//! ENTERING counts as inside at the oldest generation there is: the observer has said that it comes,
//! and has not yet read how things stand.

use core::{fmt, num::NonZeroU64};

use super::due::Generation;
use crate::sync::{AtomicU64, Ordering, full_fence, this_thread};

const OUT: u64 = 0;
const ENTERING: u64 = 1;
const _: () = assert!(OUT < ENTERING && ENTERING < Generation::FIRST.get());

/// Names an observer of a table; no other of the same table has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObserverId(u64);

impl ObserverId {
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ObserverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where an observer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObserverState {
    /// Out of the guest: it holds nothing back.
    Outside,
    /// Entering; it has not read the generation yet.
    Entering,
    /// In the guest, knowing all that was announced up to this generation.
    Inside(Generation),
}

impl ObserverState {
    /// Tells whether the observer may use what was made stale at `generation`.
    pub(super) fn lags(self, generation: u64) -> bool {
        self.inside_at().is_some_and(|at| at < generation)
    }

    /// Returns the generation up to which an observer that is inside knows everything.
    pub(super) fn inside_at(self) -> Option<u64> {
        match self {
            Self::Outside => None,
            Self::Entering => Some(ENTERING),
            Self::Inside(generation) => Some(generation.get()),
        }
    }
}

/// What an observer says of itself. Alone on its cache lines: it is written at each entry and exit, and
/// processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Record {
    pub(super) id: ObserverId,
    state: AtomicU64,
    /// The thread that entered last, or 0 if it does not know itself.
    thread: AtomicU64,
}

impl Record {
    pub(super) fn new(id: ObserverId) -> Self {
        Self { id, state: AtomicU64::new(OUT), thread: AtomicU64::new(0) }
    }

    /// Says that the observer comes. Afterwards it reads the generation.
    pub(super) fn begin(&self) {
        // Relaxed: the state's Release publishes it.
        self.thread.store(this_thread().map_or(0, NonZeroU64::get), Ordering::Relaxed);
        // Release: who sees the observer inside sees on which thread; pairs with `state`
        //   [edge: observer-state].
        self.state.store(ENTERING, Ordering::Release);
        // Between this store and the load of the generation. The other side bumps the generation,
        // fences, and reads this word: so it finds the observer inside, or the observer finds the new
        // generation [pair: enter-announce].
        full_fence();
    }

    /// Says that the observer is inside and knows all up to `generation`.
    pub(super) fn settle(&self, generation: u64) {
        // Release: what it walked before comes before what is done once it has caught up; pairs with
        //   `state` [edge: observer-state].
        self.state.store(generation, Ordering::Release);
    }

    /// Says that the observer is out. Also said for it, by `Observers::forget`.
    pub(super) fn leave(&self) {
        // Release: all its walks come before what is done once it is out; pairs with `state`
        //   [edge: observer-state].
        self.state.store(OUT, Ordering::Release);
    }

    /// Returns where the observer is.
    pub(super) fn state(&self) -> ObserverState {
        // Acquire: what the caller frees or uses again, it does so after the observer's walks; pairs
        //   with `settle` and `leave` [edge: observer-state].
        match self.state.load(Ordering::Acquire) {
            OUT => ObserverState::Outside,
            ENTERING => ObserverState::Entering,
            generation => ObserverState::Inside(Generation::new(generation)),
        }
    }

    /// Tells whether the observer, which is inside, entered on the thread that asks.
    pub(super) fn is_here(&self) -> bool {
        // Relaxed: the caller has read the state that published it.
        let thread = self.thread.load(Ordering::Relaxed);
        this_thread().is_some_and(|this| this.get() == thread)
    }
}
