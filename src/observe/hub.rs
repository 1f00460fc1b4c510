//! The hub of a table: its generation, and who observes it.
//!
//! The generation is bumped for everything that translation caches have to be told of: by a
//! shoot-down, by a table that was unlinked, by a [`Flush`](super::Flush) that nobody served. Two
//! things are said of each bump, and two fences stand behind them:
//!
//! - *Whoever enters later knows of it, whoever was inside is seen* [pair: enter-announce]. An
//!   observer says ENTERING, fences, reads the generation; an announcer bumps it, fences, reads the
//!   observers' states. One of the two sees the other.
//! - *Whoever reads the generation after a change, and finds it old, made a change that everybody
//!   sees who enters at a greater one* [pair: change-enter]. A changer commits, fences, reads the
//!   generation; an observer reads the generation, fences, walks.
//!
//! The lock guards the list of observers and the writing of the log. Entering does not take it, nor
//! does anything of the fault path.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use super::{
    due::{Due, Generation, Ranges, Stale},
    log::{CELLS, Log},
    record::{ObserverId, ObserverState, Record},
};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence_after_exchange, full_fence};

/// The generation of one table, and its observers.
#[derive(Debug)]
pub(crate) struct Hub {
    generation: AtomicU64,
    /// The greatest generation to which a shoot-down is complete: every observer was then out, or
    /// inside at this one or later.
    served: AtomicU64,
    log: Log,
    registry: Mutex<Registry>,
}

/// The observers of a table.
#[derive(Debug, Default)]
struct Registry {
    made: u64,
    seats: Vec<Seat>,
}

/// One of them.
struct Seat {
    record: Arc<Record>,
    /// What must live on because the observer went without having come out.
    kept: Option<Box<dyn Send + Sync>>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, kept } = self;
        f.debug_struct("Seat").field("record", record).field("gone", &kept.is_some()).finish()
    }
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(Generation::FIRST.get()),
            served: AtomicU64::new(0),
            log: Log::new(),
            registry: Mutex::new(Registry::default()),
        }
    }

    /// Returns the generation, for a look.
    pub(super) fn now(&self) -> u64 {
        // Relaxed: a number to look at.
        self.generation.load(Ordering::Relaxed)
    }

    /// Returns the generation to an observer that has said that it comes, or is inside: it walks the
    /// table as it was then, or later.
    pub(super) fn look(&self) -> u64 {
        // Acquire: what was done before the generation was bumped comes before what the observer
        //   walks; pairs with `bump` [edge: generation].
        let now = self.generation.load(Ordering::Acquire);
        // Between this load, of what is only ever exchanged, and the walks [pair: change-enter].
        fence_after_exchange();
        now
    }

    /// Returns the generation to a thread that has committed a change to the table.
    #[inline]
    pub(crate) fn after_change(&self) -> u64 {
        // Between the commit and this load [pair: change-enter].
        fence_after_exchange();
        // Relaxed: nothing is done with what another wrote; the fence orders.
        self.generation.load(Ordering::Relaxed)
    }

    /// Begins a generation of which nothing is known but that everything may be stale. No lock: what
    /// is left of a duty on the fault path.
    pub(super) fn bump(&self) -> u64 {
        // Release: the change comes before the walks of whoever enters at this generation; pairs
        //   with `look` [edge: generation]. All who write it exchange it, so a later bump passes on
        //   what an earlier one published.
        self.generation.fetch_add(1, Ordering::Release) + 1
    }

    /// Begins a generation that made `stale` stale.
    pub(super) fn announce(&self, stale: Stale) -> u64 {
        self.announce_locked(&self.registry.lock(), stale)
    }

    fn announce_locked(&self, _registry: &Registry, stale: Stale) -> u64 {
        let generation = self.bump();
        // An observer that enters before this is written takes everything for stale.
        self.log.write(generation, stale);
        generation
    }

    /// Begins a generation that made `stale` stale; returns it and the observers that are inside at
    /// an older one.
    pub(super) fn shoot(&self, stale: Stale) -> (u64, Vec<Arc<Record>>) {
        let registry = self.registry.lock();
        let generation = self.announce_locked(&registry, stale);
        (generation, registry.lagging(generation))
    }

    /// Returns the observers that are inside at a generation older than this one, which was announced
    /// before.
    pub(super) fn lagging(&self, generation: u64) -> Vec<Arc<Record>> {
        self.registry.lock().lagging(generation)
    }

    /// Returns the oldest generation at which an observer is inside, if one is. Whatever was announced
    /// before and is not greater is past for all observers, for ever.
    pub(super) fn oldest(&self) -> Option<u64> {
        let registry = self.registry.lock();
        // As in `lagging` [pair: enter-announce].
        full_fence();
        registry.seats.iter().filter_map(|seat| seat.record.state().inside_at()).min()
    }

    /// Returns what became stale after `since`, up to `now`.
    pub(super) fn due(&self, since: u64, now: u64) -> Due {
        if since == now {
            return Due::None;
        }
        if now - since > CELLS as u64 {
            return Due::All;
        }
        let mut unknown = false;
        let known = (since + 1..=now).map_while(|generation| {
            let stale = self.log.read(generation);
            unknown |= stale.is_none();
            stale
        });
        match Ranges::collect(known) {
            Some(ranges) if !unknown => Due::Ranges(ranges),
            _ => Due::All,
        }
    }

    /// States that a shoot-down to `generation` is complete.
    pub(super) fn complete(&self, generation: u64) {
        // Release: what was walked before comes before what is done with the pages by whoever finds
        //   them served; pairs with `serves` [edge: served].
        self.served.fetch_max(generation, Ordering::Release);
    }

    /// Tells whether every observer has invalidated `stale`, of a change after which the generation
    /// was `since`: some shoot-down to a greater one is complete, and one on the way covered it.
    ///
    /// That a greater generation is complete would not be enough: observers invalidate what they are
    /// told to, and may have been told of other pages. It may say no where the log has forgotten.
    pub(super) fn serves(&self, since: u64, stale: Stale) -> bool {
        // Acquire: pairs with `complete` [edge: served].
        let served = self.served.load(Ordering::Acquire);
        let first = since.saturating_add(1).max(served.saturating_sub(CELLS as u64 - 1));
        (first..=served)
            .any(|generation| self.log.read(generation).is_some_and(|logged| logged.covers(stale)))
    }

    /// Makes the record of a new observer.
    pub(super) fn register(&self) -> Arc<Record> {
        let mut registry = self.registry.lock();
        registry.made += 1;
        let record = Arc::new(Record::new(ObserverId::new(registry.made)));
        registry.seats.push(Seat { record: Arc::clone(&record), kept: None });
        record
    }

    /// Takes an observer that goes off the list. If it is still inside (its guard was leaked), it
    /// stays there, with what `kept` returns, until it is forgotten.
    pub(super) fn depart(&self, record: &Record, kept: impl FnOnce() -> Box<dyn Send + Sync>) {
        let mut registry = self.registry.lock();
        let index = registry.index(record.id);
        let index = index.expect("an observer is listed until it goes");
        match record.state() {
            ObserverState::Outside => drop(registry.seats.swap_remove(index)),
            _ => registry.seats[index].kept = Some(kept()),
        }
    }

    /// Says of an observer that it is out; returns whether there is such a one, and what it kept, to
    /// be dropped where no lock is held.
    pub(super) fn forget(&self, id: ObserverId) -> Option<Option<Box<dyn Send + Sync>>> {
        let mut registry = self.registry.lock();
        let index = registry.index(id)?;
        registry.seats[index].record.leave();
        let gone = registry.seats[index].kept.is_some();
        Some(if gone { registry.seats.swap_remove(index).kept } else { None })
    }

    /// Returns the observer that is inside on the thread that asks, if one is.
    pub(crate) fn inside_here(&self) -> Option<ObserverId> {
        let registry = self.registry.lock();
        let mut records = registry.seats.iter().map(|seat| &seat.record);
        let here = |record: &&Arc<Record>| record.state().inside_at().is_some() && record.is_here();
        records.find(here).map(|record| record.id)
    }

    /// Returns who observes the table, and where they are.
    pub(super) fn states(&self) -> Vec<(ObserverId, ObserverState)> {
        let registry = self.registry.lock();
        let mut states: Vec<_> =
            registry.seats.iter().map(|seat| (seat.record.id, seat.record.state())).collect();
        states.sort_unstable_by_key(|&(id, _)| id);
        states
    }
}

impl Registry {
    fn index(&self, id: ObserverId) -> Option<usize> {
        self.seats.iter().position(|seat| seat.record.id == id)
    }

    fn lagging(&self, generation: u64) -> Vec<Arc<Record>> {
        // Between the bump, which came before, and the states [pair: enter-announce].
        full_fence();
        let records = self.seats.iter().map(|seat| &seat.record);
        records.filter(|record| record.state().lags(generation)).map(Arc::clone).collect()
    }
}
