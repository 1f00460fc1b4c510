//! Who observes a table, and how things stand: for diagnosis, and for the dead.

#![expect(unsafe_code, reason = "to say of an observer that it is gone is its caller's risk")]

use alloc::vec::Vec;

use super::{
    due::Generation,
    hub::Hub,
    record::{ObserverId, ObserverState},
};

/// How a table stands; for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tables that are linked, with the root.
    pub tables: u64,
    /// Tables that were unlinked, and wait for somebody who may still walk them.
    pub waiting: u64,
    /// The generation.
    pub generation: Generation,
    /// Observers, also those that went while they were inside.
    pub observers: usize,
    /// Observers that are inside, or entering.
    pub inside: usize,
    /// Observers that are inside and do not know of the latest generation.
    pub lagging: usize,
}

impl Stats {
    pub(super) fn of(tables: u64, waiting: u64, hub: &Hub) -> Self {
        let generation = hub.now();
        let states = hub.states();
        let count = |which: fn(ObserverState, u64) -> bool| {
            states.iter().filter(|&&(_, state)| which(state, generation)).count()
        };
        Self {
            tables,
            waiting,
            generation: Generation::new(generation),
            observers: states.len(),
            inside: count(|state, _| state.inside_at().is_some()),
            lagging: count(ObserverState::lags),
        }
    }
}

/// What a [`reclaim`](crate::PageTable::reclaim) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// How many tables it freed.
    pub freed: u64,
    /// How many still wait.
    pub waiting: u64,
}

impl Reclaimed {
    pub(super) const fn new(freed: u64, waiting: u64) -> Self {
        Self { freed, waiting }
    }
}

/// There is no such observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table has no observer {0}")]
pub struct UnknownObserver(pub ObserverId);

/// The observers of a table.
#[derive(Clone, Copy, Debug)]
pub struct Observers<'t> {
    hub: &'t Hub,
}

impl<'t> Observers<'t> {
    pub(crate) fn new(hub: &'t Hub) -> Self {
        Self { hub }
    }

    /// Returns each of them, by name, and where it was a moment ago.
    #[must_use]
    pub fn states(&self) -> Vec<(ObserverId, ObserverState)> {
        self.hub.states()
    }

    /// Says of an observer that is inside that it is out: its [`Inside`](crate::Inside) was leaked, or
    /// its thread is dead, and it would hold back what was retired since, for ever.
    ///
    /// Where the [`Observer`](crate::Observer) itself is gone it is taken off the list; where it
    /// still is there, it can enter again, and has to invalidate everything then.
    ///
    /// # Errors
    /// [`UnknownObserver`] if there is none of that name (any more).
    ///
    /// # Safety
    /// 1. Nothing walks the table for this observer: no hardware with its root pointer, no view of its
    ///    `Inside`, and none will without its entering again.
    /// 2. Translations that its hardware has cached are gone, or will never be used.
    /// 3. Nobody enters with it, or acknowledges, during this call.
    pub unsafe fn forget(&self, observer: ObserverId) -> Result<(), UnknownObserver> {
        // What it kept, the table perhaps, goes when no lock is held.
        self.hub.forget(observer).map(drop).ok_or(UnknownObserver(observer))
    }
}
