//! A tree, who observes it, and what was taken out of it.
//!
//! A [`Domain`] is what all handles of a table share. Structural operations begin with
//! [`Domain::lock`]: a [`Structure`] is the writer lock, and the way into [limbo](super::limbo) for
//! the tables that the operation unlinks.

#![expect(unsafe_code, reason = "frees what is left when a table is dropped")]

use alloc::vec::Vec;
use core::fmt;

use super::{
    due::{Scope, Stale},
    hub::Hub,
    kick::Kick,
    limbo::Limbo,
    observers::{Reclaimed, Stats},
    record::Record,
    rounds::{Round, Rounds},
};
use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    epoch::Snapshot,
    format::{Carry, Format},
    mmu::Identity,
    sync::{Arc, Mutex, MutexGuard, Relax},
    table::{CreateError, Dead, Need, Supply, Tree, Walker, Writer},
};

/// A tree, its observers, and its dead.
pub(crate) struct Domain<F: Format, S: FrameSource> {
    tree: Tree<F, S>,
    hub: Hub,
    /// Locked after the writer lock, if that is held.
    limbo: Mutex<Limbo>,
    /// Held by a change of size that goes on over a shoot-down, from its beginning to its end; locked
    /// before the writer lock.
    resizes: Mutex<()>,
    /// Held by a round of harvests.
    rounds: Mutex<Rounds>,
    /// The tree's, by which caches of the software MMU know it.
    identity: Identity,
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    pub(crate) fn new(format: F, frames: S) -> Result<Self, CreateError> {
        let tree = Tree::new(format, frames)?;
        let (hub, limbo) = (Hub::new(), Mutex::new(Limbo::default()));
        let rounds = Mutex::new(Rounds::default());
        Ok(Self { tree, hub, limbo, resizes: Mutex::new(()), rounds, identity: Identity::fresh() })
    }

    #[inline]
    pub(crate) fn tree(&self) -> &Tree<F, S> {
        &self.tree
    }

    #[inline]
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Takes the writer lock: waits for other structural changes, never for the fault path. What
    /// nobody can walk any more is freed first, so that it is there for the change.
    pub(crate) fn lock(&self) -> Structure<'_, F, S> {
        let structure = Structure { domain: self, writer: self.tree.lock() };
        structure.sweep();
        structure
    }

    /// Begins a round of harvests of `range`: waits for other rounds.
    pub(crate) fn begin_round(&self, range: GpaRange, carry: Carry) -> Round<'_> {
        Round::begin(&self.hub, self.rounds.lock(), range, carry)
    }

    /// Takes the turn to change sizes over a shoot-down: waits for others.
    pub(crate) fn resizes(&self) -> MutexGuard<'_, ()> {
        self.resizes.lock()
    }

    /// Lets the grace period with this stamp end, if pins allow; tells whether it is over.
    pub(crate) fn end_grace(&self, stamp: u64) -> bool {
        self.limbo.lock().end_grace(self.tree.epoch(), stamp)
    }

    /// Waits until every pin has ended that is held now.
    pub(crate) fn wait_for_pins(&self) {
        let stamp = self.limbo.lock().begin_grace(self.tree.epoch());
        let mut relax = Relax::default();
        while !self.end_grace(stamp) {
            relax.pause();
        }
    }

    /// Makes a value that is read under the pins of this table.
    pub(crate) fn snapshot<T: Send + Sync>(&self, value: T) -> Snapshot<T> {
        Snapshot::new(self.tree.epoch(), value)
    }

    /// Replaces the value of a snapshot that was made here, and waits for the pins that may have seen the
    /// old one.
    pub(crate) fn replace<T: Send + Sync>(&self, snapshot: &Snapshot<T>, value: T) {
        let old = snapshot.replace(value);
        self.wait_for_pins();
        // SAFETY: the pins of this table's epoch have ended, and that is the snapshot's: readers with
        // pins of another are turned away.
        unsafe { old.free() };
    }

    /// Kicks the observers that keep something from being freed, and frees what nobody can walk.
    pub(crate) fn reclaim(&self, kick: &impl Kick) -> Reclaimed {
        for holder in self.holders() {
            kick.kick(holder.id);
        }
        let structure = Structure { domain: self, writer: self.tree.lock() };
        let freed = structure.sweep();
        Reclaimed::new(freed, structure.waiting())
    }

    /// Returns the observers that keep something from being freed.
    fn holders(&self) -> Vec<Arc<Record>> {
        let newest = self.limbo.lock().newest();
        newest.map_or(Vec::new(), |generation| self.hub.lagging(generation))
    }

    pub(crate) fn stats(&self) -> Stats {
        let waiting = self.limbo.lock().tables();
        Stats::of(self.tree.linked(), waiting, &self.hub)
    }
}

impl<F: Format, S: FrameSource> Drop for Domain<F, S> {
    fn drop(&mut self) {
        let writer = self.tree.lock();
        // SAFETY: pins borrow a handle, readers and observers own one, and an observer that went
        // while it was inside left one behind; the last of them is gone.
        unsafe { self.limbo.lock().drain(&writer) };
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Domain<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tree, hub, .. } = self;
        f.debug_struct("Domain").field("tree", tree).field("hub", hub).finish_non_exhaustive()
    }
}

/// The writer lock, held: the right to change the structure of the tree.
pub(crate) struct Structure<'t, F: Format, S: FrameSource> {
    domain: &'t Domain<F, S>,
    writer: Writer<'t, F, S>,
}

impl<'t, F: Format, S: FrameSource> Structure<'t, F, S> {
    pub(crate) fn writer(&self) -> &Writer<'t, F, S> {
        &self.writer
    }

    /// Gives the right to walk for as long as the lock is held: tables go only under it.
    pub(crate) fn walk(&self) -> Walker<'_, F, S> {
        self.writer.walk()
    }

    /// Takes all the frames that a change needs, or none.
    pub(crate) fn reserve(&self, need: Need, gpa: Gpa) -> Result<Supply<'_, F, S>, CreateError> {
        self.writer.reserve(need, gpa).map_err(|error| match error {
            CreateError::OutOfFrames(few) => few.with_waiting(self.waiting()).into(),
            other => other,
        })
    }

    /// Hands over what was unlinked, to be freed when nobody can walk it any more, perhaps at once: so
    /// it ends the change, and with it every walk under the lock. Begins a generation, also if no leaf
    /// was in it: paging-structure caches know tables.
    ///
    /// `range` has a page in common with the span of each of the tables, those below included: so
    /// whoever invalidates what is cached for it, invalidates what is cached of them.
    pub(crate) fn retire(self, dead: Vec<Dead>, range: GpaRange) {
        if dead.is_empty() {
            return;
        }
        let generation = self.domain.hub.announce(Stale::new(range, Scope::Structure));
        self.retire_since(dead, generation);
    }

    /// Does the same for what everybody was told of at `generation`, which began after it was unlinked.
    pub(crate) fn retire_since(self, dead: Vec<Dead>, generation: u64) {
        self.domain.limbo.lock().add(dead, generation, self.domain.tree.epoch());
        self.sweep();
    }

    /// Begins a grace period, which is over when every pin has ended that is held now; returns its stamp.
    pub(crate) fn begin_grace(&self) -> u64 {
        self.domain.limbo.lock().begin_grace(self.domain.tree.epoch())
    }

    /// Frees what nobody can walk any more; returns how many tables that were. Called where nobody
    /// walks under the lock: when it was just taken, and right before it is released.
    fn sweep(&self) -> u64 {
        let Domain { tree, hub, limbo, .. } = self.domain;
        limbo.lock().sweep(&self.writer, tree.epoch(), hub)
    }

    /// Returns how many tables wait in limbo.
    fn waiting(&self) -> u64 {
        self.domain.limbo.lock().tables()
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Structure<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Structure").field(&self.domain).finish()
    }
}
