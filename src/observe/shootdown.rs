//! The shoot-down: no observer goes on with what was made stale.
//!
//! It begins a generation that says what is stale, and lists the observers that are inside at an
//! older one. Who enters from now on is told [pair: enter-announce]; so once each of those listed has
//! been out, or has acknowledged, nobody uses the old translations any more. None of them can come
//! back in between without being told, so each is struck off the list for good.
//!
//! Nobody has to wait: [`Shootdown::poll`] looks, and two processors that shoot each other down with
//! interrupts off poll, acknowledge, and serve each other. A shoot-down that is dropped has still
//! begun its generation: nothing is lost but the knowledge of when it was complete.

use alloc::vec::Vec;
use core::fmt;

use super::{
    due::Generation,
    flush::Flush,
    hub::Hub,
    kick::Kick,
    record::{ObserverId, Record},
};
use crate::sync::{Arc, Relax};

/// How far a shoot-down has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No observer uses the old translations any more: the pages may be used again.
    Complete,
    /// So many observers are inside and have not been told.
    Waiting {
        /// How many.
        observers: usize,
    },
}

/// A shoot-down was to wait for an observer that is inside on the very thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("observer {observer} is inside on the thread that would wait for it")]
pub struct InsideGuest {
    /// The observer: leave, or acknowledge, first.
    pub observer: ObserverId,
}

/// A shoot-down under way; [`Flush::shootdown`] begins it.
///
/// Once it is [complete](Progress::Complete) no observer uses the translations that its [`Flush`]
/// covered.
#[must_use = "the pages may be used again only once it is complete"]
pub struct Shootdown<'t> {
    hub: &'t Hub,
    generation: Generation,
    /// Those that have to come out, or to acknowledge, still. With the last of them, or if there are
    /// none to begin with, the hub is told.
    laggards: Vec<Laggard>,
}

struct Laggard {
    record: Arc<Record>,
    kicked: bool,
}

impl<'t> Shootdown<'t> {
    /// Begins to serve `flush`.
    pub(super) fn begin(hub: &'t Hub, mut flush: Flush<'t>) -> Self {
        if flush.is_served() {
            let generation = flush.generation();
            return Self { hub, generation, laggards: Vec::new() };
        }
        let stale = flush.take().expect("an empty flush is served");
        let (generation, records) = hub.shoot(stale);
        let laggard = |record| Laggard { record, kicked: false };
        let laggards = records.into_iter().map(laggard).collect();
        let shootdown = Self { hub, generation: Generation::new(generation), laggards };
        shootdown.note();
        shootdown
    }

    /// Returns the generation up to which every observer has to know everything.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the observers that it waits for, as of the last look.
    pub fn laggards(&self) -> impl Iterator<Item = ObserverId> {
        self.laggards.iter().map(|laggard| laggard.record.id)
    }

    /// Looks how far it has come.
    ///
    /// # Concurrency
    /// Wait-free; takes no lock.
    pub fn poll(&mut self) -> Progress {
        let generation = self.generation.get();
        self.laggards.retain(|laggard| laggard.record.state().lags(generation));
        self.note()
    }

    /// Lets others know if it is complete.
    fn note(&self) -> Progress {
        match self.laggards.len() {
            0 => {
                self.hub.complete(self.generation.get());
                Progress::Complete
            }
            observers => Progress::Waiting { observers },
        }
    }

    /// Kicks each observer that it waits for, once, and waits until it is complete.
    ///
    /// Waits for as long as an observer stays inside: for ever, if its [`Inside`](crate::Inside) was
    /// leaked ([`Observers::forget`](crate::Observers::forget) is the way out), or where the thread
    /// that entered it waits for this one.
    ///
    /// If `kick` panics, everything is as it was, and the observers that were not kicked are kicked by
    /// the next call.
    ///
    /// # Errors
    /// [`InsideGuest`], at once, if one of them is inside on this thread. Without the standard library
    /// threads cannot be told apart, and it waits for ever.
    pub fn wait(&mut self, kick: &impl Kick) -> Result<(), InsideGuest> {
        let mut relax = Relax::default();
        while self.poll() != Progress::Complete {
            if let Some(own) = self.laggards.iter().find(|laggard| laggard.record.is_here()) {
                return Err(InsideGuest { observer: own.record.id });
            }
            for laggard in self.laggards.iter_mut().filter(|laggard| !laggard.kicked) {
                kick.kick(laggard.record.id);
                laggard.kicked = true;
            }
            relax.pause();
        }
        Ok(())
    }
}

impl fmt::Debug for Shootdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shootdown")
            .field("generation", &self.generation.get())
            .field("laggards", &self.laggards().collect::<Vec<_>>())
            .finish()
    }
}
