//! The duty to invalidate what translation caches may still hold.
//!
//! Whoever takes a right away, by unmapping or by protecting, is told which guest pages some
//! translation cache may still translate as before. A [`Flush`] is that duty, as a value: it cannot be
//! overlooked (`#[must_use]`), knows its table and when it arose, merges with others of the same table,
//! and if it is dropped all the same, every observer invalidates everything before it walks again.

use core::{fmt, ptr};

use super::{
    due::{Generation, Scope, Stale},
    hub::Hub,
    shootdown::Shootdown,
};
use crate::{addr::GpaRange, entry::Entry};

/// What a change made stale: a hull, so it may name pages that did not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered(Option<Stale>);

impl Covered {
    /// Adds the pages of a leaf that was changed.
    #[inline]
    pub(crate) fn add(&mut self, range: GpaRange, leaf: Entry) {
        // While the mark stands, a paging-structure cache may still lead to the table that was
        //   collapsed, where every page of the leaf is mapped as it was.
        let late = leaf.has(Entry::LATE);
        self.merge(Stale::new(range, if late { Scope::Structure } else { Scope::Leaves }));
    }

    #[inline]
    pub(crate) fn merge(&mut self, stale: Stale) {
        self.0 = Some(self.0.map_or(stale, |all| all.hull(stale)));
    }

    /// Adds all that `other` covers.
    pub(crate) fn join(&mut self, other: Self) {
        if let Some(stale) = other.0 {
            self.merge(stale);
        }
    }
}

/// The duty to invalidate translations that were cached before a change took effect.
///
/// Cached translations of the pages in [`range`](Self::range) have to be invalidated, in every cache
/// that may have walked the table, before the frames behind them are used for anything else.
/// [`shootdown`](Self::shootdown) sees to that.
///
/// It is *served* once a shoot-down that covered its pages is complete, its own or another's, if that
/// began after the change. Dropped unserved, it makes every observer invalidate everything before it
/// enters again; but nobody knows when that will be, so its pages must not be used again.
///
/// It outlives the pin under which the change was made, since the pin must not be held while caches
/// are invalidated.
#[must_use = "translation caches still hold what was taken away: shoot it down before the pages are reused"]
pub struct Flush<'t> {
    /// Identifies the table.
    hub: &'t Hub,
    covered: Covered,
    /// As it was when the changes had been made, all of them.
    generation: Generation,
}

/// Two flushes belong to different tables.
///
/// Carries back the one that was not merged.
#[derive(Debug, thiserror::Error)]
#[error("the flush belongs to another table")]
pub struct ForeignFlush<'t>(pub Flush<'t>);

impl<'t> Flush<'t> {
    /// Makes the duty of changes that were committed just now.
    #[inline]
    pub(crate) fn new(hub: &'t Hub, covered: Covered) -> Self {
        Collect::new(hub, covered).done()
    }

    /// Makes the duty of all changes up to now.
    pub(crate) fn all(hub: &'t Hub) -> Self {
        Self::structure(hub, GpaRange::ALL)
    }

    /// Makes the duty of all changes up to now to the tables of `range`.
    pub(crate) fn structure(hub: &'t Hub, range: GpaRange) -> Self {
        Self::new(hub, Covered(Some(Stale::new(range, Scope::Structure))))
    }

    /// Returns the pages to invalidate: the hull of all that changed, or `None` if nothing needs
    /// invalidation.
    #[must_use]
    pub fn range(&self) -> Option<GpaRange> {
        self.covered.0.map(|stale| stale.range)
    }

    /// Returns what is to be invalidated of them.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.covered.0.map_or(Scope::Leaves, |stale| stale.scope)
    }

    /// Returns the generation that had begun when the change was complete; merged, the latest.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Tells whether nothing needs invalidation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.covered.0.is_none()
    }

    /// Tells whether every observer has invalidated the pages since the change: a shoot-down that
    /// covered them, whoever ran it, is complete. True if there are none.
    ///
    /// It may say no of one that is served when many other shoot-downs came after.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.covered.0.is_none_or(|stale| self.hub.serves(self.generation.get(), stale))
    }

    /// Takes over the duty of `other`.
    ///
    /// # Errors
    /// [`ForeignFlush`] if it belongs to another table; both are as they were.
    pub fn merge(&mut self, mut other: Flush<'t>) -> Result<(), ForeignFlush<'t>> {
        if !other.is_of(self.hub) {
            return Err(ForeignFlush(other));
        }
        if let Some(stale) = other.take() {
            self.covered.merge(stale);
            self.generation = self.generation.max(other.generation);
        }
        Ok(())
    }

    /// Begins to invalidate what it covers, in every translation cache that walks the table. When the
    /// shoot-down is complete, the pages may be used again.
    ///
    /// Observers that are out invalidate when they enter; those that are inside have to come out, or
    /// to acknowledge.
    ///
    /// ```
    /// # use slat::{Attr, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, PageSize};
    /// # use slat::{ObserverId, PageTable, PhysWidth, Prot};
    /// # let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
    /// # let table = PageTable::new(ept, HeapFrames::new(8))?;
    /// # table.populate(GpaRange::new(Gpa::new(0), 0x10_0000)?, PageSize::Size4K)?;
    /// # let reader = table.reader();
    /// # reader.pin().map(Gpa::new(0), HostPfn::new(7), PageSize::Size4K, Attr::new(Prot::RW))?;
    /// # let kick = |_: ObserverId| ();
    /// let (mapping, flush) = reader.pin().unmap(Gpa::new(0))?;
    /// flush.shootdown().wait(&kick)?;
    /// // Nobody reaches frame `mapping.pfn` through the table now.
    /// # assert_eq!(mapping.pfn, HostPfn::new(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Concurrency
    /// Takes a lock that observers take when they are made and dropped, and other shoot-downs, for a
    /// look at each observer. Call it with no pin held.
    pub fn shootdown(self) -> Shootdown<'t> {
        Shootdown::begin(self.hub, self)
    }

    fn is_of(&self, hub: &Hub) -> bool {
        ptr::eq(self.hub, hub)
    }

    /// Takes the duty out of it, so that it is empty.
    pub(super) fn take(&mut self) -> Option<Stale> {
        self.covered.0.take()
    }
}

impl Drop for Flush<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_served() {
            self.hub.bump();
        }
    }
}

impl fmt::Debug for Flush<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush")
            .field("stale", &self.covered.0)
            .field("generation", &self.generation.get())
            .finish()
    }
}

/// What a running operation has changed so far. If it panics, the duty is as if dropped.
#[derive(Debug)]
pub(crate) struct Collect<'t> {
    hub: &'t Hub,
    pub(crate) covered: Covered,
}

impl<'t> Collect<'t> {
    #[inline]
    pub(crate) fn new(hub: &'t Hub, covered: Covered) -> Self {
        Self { hub, covered }
    }

    /// Makes the duty, once all changes are committed.
    #[inline]
    pub(crate) fn done(mut self) -> Flush<'t> {
        let covered = core::mem::take(&mut self.covered);
        let generation = match covered.0 {
            Some(_) => self.hub.after_change(),
            None => Generation::FIRST.get(),
        };
        let generation = Generation::new(generation);
        Flush { hub: self.hub, covered, generation }
    }
}

impl Drop for Collect<'_> {
    fn drop(&mut self) {
        if self.covered.0.is_some() {
            self.hub.bump();
        }
    }
}
