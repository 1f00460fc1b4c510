//! One page's slot, kept: its mapping, its accessed and dirty bits, and map without a new walk.
//!
//! A [`SlotRef`] borrows the pin, so it cannot outlive what it points at. It remembers a place on the
//! way to its page; each operation goes on from there, so that a slot that has meanwhile got a table
//! under it is followed, or from the root if a table was taken out of the tree since. It commits by
//! compare-exchange on a present leaf only: a non-present entry never gains an accessed or dirty bit.

use core::fmt;

use crate::{
    addr::{Gpa, HostPfn},
    arena::FrameSource,
    attr::Attr,
    entry::Entry,
    format::Format,
    level::PageSize,
    mapping::Mapping,
    ops::{
        OutOfRange,
        map::{MapError, Mapped},
        watch::Noted,
    },
    table::Walker,
    walk::{Found, Place, Terminal},
};

/// A pinned reference to the slot where the translation of one page ends.
///
/// Each operation takes effect at one load or one compare-exchange and never waits; where it says
/// that it returns the old bit and nothing is mapped, it returns false and changes nothing.
///
/// # Concurrency
/// Clearing a bit does not touch translation caches: until those are invalidated, an MMU may go on
/// using a cached translation without setting the bit again.
///
/// On a leaf whose map comes too late for a vacate, what is changed is lost with it, but for the bits that
/// [`MapError::Vacated`] tells of.
pub struct SlotRef<'p, F: Format, S: FrameSource> {
    walker: Walker<'p, F, S>,
    place: Place<'p>,
    /// What the walk found there.
    seen: Entry,
    gpa: Gpa,
}

/// What the translation of a page ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Leaf(Mapping),
    /// Room for a leaf of this size.
    Room(PageSize),
    /// No memory.
    Nothing,
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    #[inline]
    pub(crate) fn slot(self, gpa: Gpa) -> Result<SlotRef<'p, F, S>, OutOfRange> {
        if !self.format().admits(gpa) {
            return Err(OutOfRange { gpa });
        }
        let page = gpa.page();
        let Terminal { place, entry } = self.resume(self.top(page), page);
        Ok(SlotRef { walker: self, place, seen: entry, gpa })
    }

    /// Tells what the walk of `gpa` ended at.
    #[inline]
    fn spot(self, at: Terminal<'p>, gpa: Gpa) -> Spot {
        match self.found(at.place.level, at.entry) {
            Found::Leaf(size) => Spot::Leaf(self.format().mapping(gpa, size, at.entry)),
            Found::Empty(size) | Found::Claimed(size) => Spot::Room(size),
            Found::Unpopulated => Spot::Nothing,
        }
    }
}

impl<'p, F: Format, S: FrameSource> SlotRef<'p, F, S> {
    /// Returns the address whose translation ends here.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Returns the mapping, or `None` if nothing is mapped.
    #[must_use]
    pub fn mapping(&self) -> Option<Mapping> {
        self.walker.lookup_at(self.place(), self.gpa)
    }

    /// Returns what is here, by one look.
    #[inline]
    pub(crate) fn spot(&self) -> Spot {
        self.walker.spot(self.walker.resume(self.place(), self.gpa.page()), self.gpa)
    }

    /// Returns what was here when it was walked to.
    #[inline]
    pub(crate) fn spot_seen(&self) -> Spot {
        self.walker.spot(self.seen(), self.gpa)
    }

    #[inline]
    fn seen(&self) -> Terminal<'p> {
        Terminal { place: self.place, entry: self.seen }
    }

    /// Returns the accessed bit.
    #[must_use]
    pub fn accessed(&self) -> bool {
        self.mapping().is_some_and(|mapping| mapping.accessed)
    }

    /// Returns the dirty bit.
    #[must_use]
    pub fn dirty(&self) -> bool {
        self.mapping().is_some_and(|mapping| mapping.dirty)
    }

    /// Tells whether the leaf is [watched](crate::Pinned::watch).
    #[must_use]
    pub fn watched(&self) -> bool {
        let at = self.walker.resume(self.place(), self.gpa.page());
        matches!(self.walker.found(at.place.level, at.entry), Found::Leaf(_))
            && at.entry.is_watched()
    }

    /// Sets the accessed bit and returns the old one.
    pub fn set_accessed(&self) -> bool {
        let bit = self.walker.format().accessed_bit();
        let mut declined = None;
        let set = self.walker.update(self.place(), self.gpa.page(), |_, leaf| {
            declined = leaf.has(bit).then_some(leaf);
            // Also where LATE says as much: the mark will go, and the bit must not go with it.
            (!leaf.has(bit)).then_some(leaf.with(bit))
        });
        // What it looked at last; an exchange that was lost may have been lost to an unmap.
        let Some(leaf) = set.map(|(_, leaf)| leaf).or(declined) else { return false };
        let was_set = leaf.has(bit | Entry::LATE);
        self.walker.mark_above(self.gpa.page());
        was_set
    }

    /// Clears the accessed bit and returns the old one.
    pub fn clear_accessed(&self) -> bool {
        let bit = self.walker.format().accessed_bit();
        self.clear(bit, |leaf| leaf.without(bit))
    }

    /// Sets the dirty bit and returns the old one. If the leaf is [watched](crate::Pinned::watch), writes
    /// do not fault any more.
    pub fn set_dirty(&self) -> bool {
        self.walker.set_dirty_at(self.place(), self.gpa.page()) == Some(Noted::Already)
    }

    /// Clears the dirty bit and returns the old one. If the leaf is [watched](crate::Pinned::watch), the
    /// next write faults.
    ///
    /// That, too, holds when translation caches are invalidated
    /// ([`PageTable::flush_all`](crate::PageTable::flush_all)): until then writes may go unnoticed.
    pub fn clear_dirty(&self) -> bool {
        let format = self.walker.format();
        self.clear(format.dirty_bit(), |leaf| leaf.cleaned(format))
    }

    /// Maps the page as [`Pinned::map`](crate::Pinned::map) does, without walking from the root.
    ///
    /// # Errors
    /// [`MapError`]; the table is as it was.
    pub fn map(&self, pfn: HostPfn, size: PageSize, attr: Attr) -> Result<Mapped, MapError> {
        let leaf = self.walker.format().leaf(size, pfn, attr)?;
        self.walker.map_at(self.place(), self.gpa, size, leaf)
    }

    /// Does a [`map`](Self::map) that first tries if all is still as it was walked to: for who has just done
    /// that.
    #[inline]
    pub(crate) fn map_seen(
        &self,
        pfn: HostPfn,
        size: PageSize,
        attr: Attr,
    ) -> Result<Mapped, MapError> {
        let leaf = self.walker.format().leaf(size, pfn, attr)?;
        self.walker.map_seen(self.seen(), self.gpa, size, leaf)
    }

    /// Returns where an operation on the page begins.
    #[inline]
    fn place(&self) -> Place<'p> {
        self.walker.refresh(self.place, self.gpa.page())
    }

    /// Makes of a leaf that has `bit` what it is `without` it; tells whether it had.
    fn clear(&self, bit: u64, without: impl Fn(Entry) -> Entry) -> bool {
        let mut declined = None;
        let cleared = self.walker.update(self.place(), self.gpa.page(), |_, leaf| {
            declined = (!leaf.has(bit)).then_some(leaf);
            leaf.has(bit).then(|| without(leaf))
        });
        // One that is LATE counts as having it; an exchange that was lost may have been lost to an unmap.
        cleared.is_some() || declined.is_some_and(|leaf| leaf.has(Entry::LATE))
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for SlotRef<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotRef").field("gpa", &self.gpa).field("mapping", &self.mapping()).finish()
    }
}
