//! The tree of tables, and the right to reach it.
//!
//! **The node tree is the hardware tables**: a [`Tree`] owns a root frame and, through the table
//! entries in it, every other. Nothing beside the tables says what is where.
//!
//! Two things give the right to follow a table entry, and both come as a [`Walker`]: a pin in the
//! tree's epoch, and the writer lock. Two things follow from who may do what:
//!
//! - *Tables come and go under the writer lock only.* A [`NewTable`] belongs to the writer alone,
//!   is filled, and is linked by one compare-exchange; from then on any walker may enter it.
//! - *Invariant `linked`*: an entry that the format takes for a table's, read from a slot of the
//!   tree, names a frame that was allocated from the tree's own source and is not freed while a
//!   walker that could have read it lives. [`Writer::link`], [`Writer::link_over`] and
//!   [`Supply::entry`] are the only makers of such entries. [`Writer::unlink`] takes a table out, with all that is below it, and
//!   turns it into a [`Dead`]; [`Writer::bury`], whose caller vouches that nobody can walk it any
//!   more, and the tree's drop are all that frees.

#![expect(unsafe_code, reason = "follows frame numbers to tables")]

mod dead;
mod supply;

use alloc::vec::Vec;
use core::fmt;

pub(crate) use self::{
    dead::Dead,
    supply::{Need, NewTable, Supply},
};
use super::{Race, Slot, Table, claim::Claims};
use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{Content, FrameSource, Hint, OutOfFrames},
    entry::Entry,
    epoch::{Epoch, Pin},
    format::{Format, Who},
    level::Level,
    sync::{AtomicU64, Mutex, MutexGuard, Ordering},
};

/// Why a [`PageTable`](crate::PageTable) could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is no frame for the root table.
    #[error("no frame for the root table")]
    OutOfFrames(#[from] OutOfFrames),
    /// The frame that the source gave does not fit the format's physical address width.
    #[error("the source's frame {pfn} does not fit a physical address width of {width} bits")]
    BadFrame {
        /// The frame.
        pfn: HostPfn,
        /// The width of the format, in bits.
        width: u8,
    },
}

/// All tables of one [`PageTable`](crate::PageTable), and what guards them.
pub(crate) struct Tree<F: Format, S: FrameSource> {
    format: F,
    frames: S,
    root: HostPfn,
    writer: Mutex<()>,
    claims: Claims,
    epoch: Epoch,
    /// How many tables are linked, with the root; only the writer changes it.
    linked: AtomicU64,
}

impl<F: Format, S: FrameSource> Tree<F, S> {
    pub(crate) fn new(format: F, frames: S) -> Result<Self, CreateError> {
        let mut runs = Vec::new();
        frames.allocate(1, Hint::new(Gpa::new(0)), &mut runs)?;
        let root = runs[0].first;
        if !format.fits(root) {
            for run in runs {
                // SAFETY: the frame was allocated just now, is unused and still zero.
                unsafe { frames.free(run, Content::Zero) };
            }
            return Err(CreateError::BadFrame { pfn: root, width: format.phys_width().bits() });
        }
        // SAFETY: the frame was allocated just now.
        unsafe { frames.table(root) }.fill(|_| Entry::UNPOPULATED);
        let (writer, claims, epoch) = (Mutex::new(()), Claims::new(), Epoch::new());
        let linked = AtomicU64::new(1);
        Ok(Self { format, frames, root, writer, claims, epoch, linked })
    }

    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    pub(crate) fn frames(&self) -> &S {
        &self.frames
    }

    pub(crate) fn root(&self) -> HostPfn {
        self.root
    }

    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns how many tables are linked, with the root.
    pub(crate) fn linked(&self) -> u64 {
        // Relaxed: a count for people to look at.
        self.linked.load(Ordering::Relaxed)
    }

    /// Takes the writer lock: waits for other structural changes, never for the fault path.
    pub(crate) fn lock(&self) -> Writer<'_, F, S> {
        Writer { _lock: self.writer.lock(), tree: self }
    }

    /// Gives the right to walk, for a look, for as long as the pin is held.
    #[inline]
    pub(crate) fn walk<'p>(&'p self, _pin: &'p Pin) -> Walker<'p, F, S> {
        Walker { tree: self, intent: Intent::Look }
    }

    /// Gives the right to walk, and to change leaves, for as long as the pin is held.
    #[inline]
    pub(crate) fn walk_to_change<'p>(&'p self, _pin: &'p Pin) -> Walker<'p, F, S> {
        Walker { tree: self, intent: Intent::Change }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Tree<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, root, .. } = self;
        f.debug_struct("Tree").field("format", format).field("root", root).finish_non_exhaustive()
    }
}

impl<F: Format, S: FrameSource> Drop for Tree<F, S> {
    fn drop(&mut self) {
        self.free_all();
    }
}

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// To see what is there, or to change it under the writer lock.
    Look,
    /// To change, under a pin, the leaf at which it ends. On its way it thwarts every collapse:
    /// docs/THEORY.md, "Sizes".
    Change,
}

/// The right to follow the tree's entries, under a pin or under the writer lock.
pub(crate) struct Walker<'p, F: Format, S: FrameSource> {
    tree: &'p Tree<F, S>,
    intent: Intent,
}

impl<F: Format, S: FrameSource> Clone for Walker<'_, F, S> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format, S: FrameSource> Copy for Walker<'_, F, S> {}

impl<F: Format, S: FrameSource> fmt::Debug for Walker<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Walker").field(self.tree).finish()
    }
}

/// What a slot leads to.
#[derive(Debug)]
pub(crate) enum Next<'p> {
    /// A table, and its level.
    Down(&'p Table, Level),
    /// Nothing further: the walk ends with this entry.
    Here(Entry),
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    #[inline]
    pub(crate) fn format(self) -> &'p F {
        &self.tree.format
    }

    /// Returns the root table and its level.
    #[inline]
    pub(crate) fn root(self) -> (&'p Table, Level) {
        // SAFETY: the root is allocated in `new` and freed when the tree is dropped, after `'p`.
        let table = unsafe { self.tree.frames.table(self.tree.root) };
        (table, self.tree.format.levels().root())
    }

    /// Reads a slot of a table of `level` and follows it if it leads on.
    #[inline]
    pub(crate) fn step(self, slot: &'p Slot, level: Level) -> Next<'p> {
        self.read(slot, level).1
    }

    /// Does a [`step`](Self::step), and returns the entry that it followed as well.
    #[inline]
    pub(crate) fn read(self, slot: &'p Slot, level: Level) -> (Entry, Next<'p>) {
        let entry = slot.load();
        let step = match level.below() {
            Some(below) if self.tree.format.is_table(entry) => {
                if entry.has(Entry::COLLAPSING) && self.intent == Intent::Change {
                    self.thwart(slot, level);
                    return self.read(slot, level);
                }
                let child = self.tree.format.table_frame(entry);
                // SAFETY: the entry was read from a slot of the tree, so it names a table of the
                // tree, which is not freed during `'p` (invariant `linked`).
                Next::Down(unsafe { self.tree.frames.table(child) }, below)
            }
            _ if entry.may_be_broken() => return self.read_broken(slot, level, entry),
            _ => Next::Here(entry),
        };
        (entry, step)
    }

    /// Does the same for an entry that may be broken: returns what it was, or mends it to change it.
    #[cold]
    fn read_broken(self, slot: &'p Slot, level: Level, entry: Entry) -> (Entry, Next<'p>) {
        let format = &self.tree.format;
        let Some(old) = entry.mended(level, format) else { return (entry, Next::Here(entry)) };
        if self.intent == Intent::Change {
            self.mend(slot, level);
            return self.read(slot, level);
        }
        let step = match level.below() {
            Some(below) if format.is_table(old) => {
                let child = format.table_frame(old);
                // SAFETY: it was a table's entry in this slot before it was broken, and the table is
                // linked as before (invariant `linked`).
                Next::Down(unsafe { self.tree.frames.table(child) }, below)
            }
            _ => Next::Here(old),
        };
        (old, step)
    }

    /// Makes a broken entry what it was. The change of size that broke it has to begin again.
    ///
    /// Lock-free: it is lost only to another who mends it, or to that change.
    #[cold]
    pub(crate) fn mend(self, slot: &Slot, level: Level) {
        let seen = slot.load();
        if let Some(old) = seen.mended(level, &self.tree.format) {
            let _done_by_another = self.commit(slot, level, seen, old);
        }
    }

    /// Takes the mark of a collapse off a slot.
    ///
    /// Lock-free: it is lost only to the collapse, to another who takes the mark off, or to the MMU or a
    /// harvest setting a bit.
    #[cold]
    pub(crate) fn thwart(self, slot: &Slot, level: Level) {
        loop {
            let seen = slot.load();
            let marked = self.tree.format.is_table(seen) && seen.has(Entry::COLLAPSING);
            if !marked || self.commit(slot, level, seen, seen.without(Entry::COLLAPSING)).is_ok() {
                return;
            }
        }
    }

    /// Returns the claims of the tree.
    #[inline]
    pub(crate) fn claims(self) -> &'p Claims {
        &self.tree.claims
    }

    /// Makes a lock-free transition: one compare-exchange on a slot of the tree.
    #[inline]
    pub(crate) fn commit(
        self,
        slot: &Slot,
        level: Level,
        seen: Entry,
        next: Entry,
    ) -> Result<(), Race> {
        debug_assert_eq!(
            seen.may_become(next, level, &self.tree.format),
            Some(Who::Anyone),
            "{seen:?} -> {next:?} at {level:?}"
        );
        slot.publish(seen, next)
    }
}

/// The writer lock, held: the right to change the shape of the tree.
#[derive(Debug)]
pub(crate) struct Writer<'t, F: Format, S: FrameSource> {
    tree: &'t Tree<F, S>,
    _lock: MutexGuard<'t, ()>,
}

/// An open claim; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'t> {
    claims: &'t Claims,
    number: u64,
}

impl Claim<'_> {
    /// Returns the entry that marks a slot as claimed.
    pub(crate) fn mark(&self) -> Entry {
        Entry::claimed(self.number)
    }

    /// Tells whether a mapper broke the claim.
    #[cfg(all(test, loom))]
    pub(crate) fn is_broken(&self) -> bool {
        self.claims.is_broken(self.number)
    }

    /// Decides the claim in the writer's favour; false if a mapper broke it.
    pub(crate) fn commit(&self) -> bool {
        self.claims.commit(self.number)
    }
}

impl Drop for Claim<'_> {
    /// The marks are gone by now, and so are the tables if it was committed.
    fn drop(&mut self) {
        self.claims.close(self.number);
    }
}

impl<F: Format, S: FrameSource> Writer<'_, F, S> {
    /// Gives the right to walk for as long as the lock is held: tables go only under it.
    pub(crate) fn walk(&self) -> Walker<'_, F, S> {
        Walker { tree: self.tree, intent: Intent::Look }
    }

    /// Makes a transition that only the writer may make, against others that may come first.
    pub(crate) fn exchange(
        &self,
        slot: &Slot,
        level: Level,
        seen: Entry,
        next: Entry,
    ) -> Result<(), Race> {
        debug_assert!(
            seen.may_become(next, level, &self.tree.format).is_some(),
            "{seen:?} -> {next:?} at {level:?}"
        );
        slot.publish(seen, next)
    }

    /// Changes a slot that is the writer's: one that is UNPOPULATED, or bears the mark of a claim that
    /// was committed.
    ///
    /// # Panics
    /// If another changed it.
    pub(crate) fn commit(&self, slot: &Slot, level: Level, seen: Entry, next: Entry) {
        let won = self.exchange(slot, level, seen, next);
        assert!(won.is_ok(), "a slot that is the writer's was changed by another: {slot:?}");
    }

    /// Opens a claim of `range`: see [`claim`](super::claim).
    pub(crate) fn claim(&self, range: GpaRange) -> Claim<'_> {
        let claims = &self.tree.claims;
        Claim { claims, number: claims.open(range) }
    }

    /// Publishes a table in a slot that others may change; gives it back if `seen` does not stand any
    /// more. In the place of a leaf it counts as accessed: what is below may be, by what the MMU has
    /// cached of that leaf.
    pub(crate) fn link_over<'n>(
        &self,
        slot: &Slot,
        level: Level,
        seen: Entry,
        child: NewTable<'n>,
    ) -> Result<(), NewTable<'n>> {
        let format = &self.tree.format;
        let accessed = if seen == Entry::EMPTY { 0 } else { format.accessed_bit() };
        let entry = format.table(child.pfn).with(accessed);
        self.exchange(slot, level, seen, entry).map_err(|Race| child)
    }

    /// Publishes a table: from now on walkers enter it.
    pub(crate) fn link(&self, slot: &Slot, level: Level, child: NewTable<'_>) {
        self.commit(slot, level, Entry::UNPOPULATED, child.into_entry(&self.tree.format));
    }
}
