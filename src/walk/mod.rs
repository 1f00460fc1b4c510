//! Walks: from the root to one page, over a range, and many at a time.
//!
//! A walk is loads only. It ends at the first entry that is not a table's, so it stops at a leaf of any
//! size. What it found may have changed by the time it is used; whoever acts on it does so by
//! compare-exchange on the slot and looks again if that fails.
//!
//! The table that a walk came to may also be taken out of the tree meanwhile. The pin keeps it from
//! being used for anything else, so to read it is safe, and to change it is harmless; but a leaf that
//! is mapped in it is mapped nowhere. So a walk that is going to map samples the [`Shape`] of the tree
//! before its first load, and [`Walker::settle`] tells afterwards whether the mapping stands.

mod batch;
mod range;

use core::ptr;

pub(crate) use self::range::{Run, Runs};
use crate::{
    arena::FrameSource,
    entry::Entry,
    format::Format,
    level::{Level, PageSize},
    sync::fence_after_exchange,
    table::{Next, Shape, Slot, Verdict, Walker},
};

/// A slot, the level of its table, and the shape of the tree when the walk to it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p> {
    pub(crate) slot: &'p Slot,
    pub(crate) level: Level,
    pub(crate) shape: Shape,
}

/// Where a walk ended, and the entry that it found there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal<'p> {
    pub(crate) place: Place<'p>,
    pub(crate) entry: Entry,
}

/// What a walk can end at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No memory here.
    Unpopulated,
    /// Room for a leaf of this size.
    Empty(PageSize),
    /// Room for a leaf of this size, unless the claim that left its mark is committed.
    Claimed(PageSize),
    /// A leaf of this size.
    Leaf(PageSize),
}

/// What became of a change to one slot.
#[derive(Debug)]
pub(crate) enum Update<'p> {
    /// The leaf of this size was replaced; this is how it was.
    Done(PageSize, Entry),
    /// There is no leaf, or it was left as it is.
    Declined,
    /// The slot leads to a table; here the walk of the page goes on.
    Below(Place<'p>),
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Walks from the root to where the translation of `page` ends, for a look.
    #[inline]
    pub(crate) fn descend(self, page: u64) -> Terminal<'p> {
        self.resume(self.entrance(page, Shape::UNKNOWN), page)
    }

    /// Goes on from a place where the walk of `page` had come to.
    // Always inlined: as a call it puts what it found into memory, and takes half as long again as the loads.
    #[inline(always)]
    pub(crate) fn resume(self, mut place: Place<'p>, page: u64) -> Terminal<'p> {
        loop {
            match self.step(place.slot, place.level) {
                Next::Down(table, level) => {
                    place = Place { slot: table.slot(level.index(page)), level, ..place };
                }
                Next::Here(entry) => return Terminal { place, entry },
            }
        }
    }

    /// Walks to the slot where the translation of `page` ends, but does not read it if that is in a
    /// leaf table.
    #[inline]
    fn approach(self, page: u64) -> Place<'p> {
        let mut place = self.top(page);
        while place.level > Level::L1 {
            match self.step(place.slot, place.level) {
                Next::Down(table, level) => {
                    place = Place { slot: table.slot(level.index(page)), level, ..place };
                }
                Next::Here(_) => break,
            }
        }
        place
    }

    /// Returns the root's slot for `page`, and the shape of the tree now: where a walk begins that is
    /// going to change what it finds.
    #[inline]
    pub(crate) fn top(self, page: u64) -> Place<'p> {
        // Before the first load: what the walk comes to was there then, or later.
        let shape = self.claims().sample();
        self.entrance(page, shape)
    }

    /// Returns the root's slot for `page`.
    #[inline]
    fn entrance(self, page: u64, shape: Shape) -> Place<'p> {
        let (table, level) = self.root();
        Place { slot: table.slot(level.index(page)), level, shape }
    }

    /// Returns `place`, to which a walk of `page` came some time ago, if no table was taken out of the
    /// tree since; otherwise where a new walk begins.
    #[inline]
    pub(crate) fn refresh(self, place: Place<'p>, page: u64) -> Place<'p> {
        if self.claims().still(place.shape) { place } else { self.top(page) }
    }

    /// Tells, after something was found or changed in `place` on the walk of `page`, whether `place`
    /// was still a place of the tree then. If a claim that would take it away is undecided, breaks it.
    ///
    /// Lock-free: it walks again only because a claim was opened since its own walk began.
    #[inline]
    pub(crate) fn settle(self, place: Place<'p>, page: u64) -> Verdict {
        // The mapper's half of `stored`: the slot is written, or read, before the claim word is read.
        //   The other half is in `Claims::open` [pair: stored].
        fence_after_exchange();
        if self.claims().still(place.shape) {
            return Verdict::Stands;
        }
        // The slots of the root are never taken away with their table.
        if place.level == self.format().levels().root() {
            return Verdict::Stands;
        }
        let span = place.level.table_span(page);
        self.claims().judge(span, || self.leads_to(place.slot, page))
    }

    /// Tells whether `place`, where a walk of `page` has just come to, is already lost to a claim that was
    /// committed before that walk began, but whose tables were not unlinked yet. They may be by now, and
    /// the claim be closed: so a walk that took no sample looks again whether it is in the tree.
    #[inline]
    pub(crate) fn is_lost(self, place: Place<'p>, page: u64) -> bool {
        place.shape == Shape::UNKNOWN
            && place.level < self.format().levels().root()
            // In this order: what is over when the word is read is unlinked when the tree is.
            && (self.claims().has_committed(place.level.table_span(page))
                || !self.leads_to(place.slot, page))
    }

    /// Tells whether a walk of `page` from the root passes through `slot`.
    fn leads_to(self, slot: &Slot, page: u64) -> bool {
        let mut place = self.entrance(page, Shape::UNKNOWN);
        while !ptr::eq(place.slot, slot) {
            match self.step(place.slot, place.level) {
                Next::Down(table, level) => {
                    place = Place { slot: table.slot(level.index(page)), level, ..place };
                }
                Next::Here(_) => return false,
            }
        }
        true
    }

    #[cold]
    fn is_broken_leaf(self, level: Level, entry: Entry) -> bool {
        let format = self.format();
        entry.mended(level, format).is_some_and(|old| !format.is_table(old))
    }

    /// Tells what an entry that a walk ended at is.
    #[inline]
    pub(crate) fn found(self, level: Level, entry: Entry) -> Found {
        match level.page_size() {
            Some(size) if self.format().is_present(entry) => Found::Leaf(size),
            Some(size) if entry == Entry::EMPTY => Found::Empty(size),
            Some(size) if entry.is_claimed() => Found::Claimed(size),
            Some(size) if self.is_broken_leaf(level, entry) => Found::Leaf(size),
            _ => Found::Unpopulated,
        }
    }

    /// Applies `change` to the leaf that translates `page`, at or below `place`, until it wins or
    /// declines. Returns the leaf that it replaced, or `None` if there is no leaf or it declined.
    ///
    /// What it replaced stands, also in a table that was being taken out: docs/THEORY.md, "Vacate".
    ///
    /// Lock-free: a commit is lost only to another one, or to the MMU setting a bit.
    #[inline]
    pub(crate) fn update(
        self,
        mut place: Place<'p>,
        page: u64,
        mut change: impl FnMut(PageSize, Entry) -> Option<Entry>,
    ) -> Option<(PageSize, Entry)> {
        loop {
            match self.update_at(place, page, &mut change) {
                Update::Done(size, old) => return Some((size, old)),
                Update::Declined => return None,
                Update::Below(below) => place = below,
            }
        }
    }

    /// Applies `change` to the leaf in the very slot `place`, on the way to `page`, until it wins or
    /// declines; says so if there is a table instead. Otherwise as [`update`](Self::update).
    #[inline]
    pub(crate) fn update_at(
        self,
        place: Place<'p>,
        page: u64,
        mut change: impl FnMut(PageSize, Entry) -> Option<Entry>,
    ) -> Update<'p> {
        loop {
            let entry = match self.step(place.slot, place.level) {
                Next::Here(entry) => entry,
                Next::Down(table, level) => {
                    let slot = table.slot(level.index(page));
                    return Update::Below(Place { slot, level, ..place });
                }
            };
            let Found::Leaf(size) = self.found(place.level, entry) else {
                return Update::Declined;
            };
            if self.is_lost(place, page) {
                return Update::Declined;
            }
            let Some(next) = change(size, entry) else { return Update::Declined };
            // Linearizes here, if it wins.
            if self.commit(place.slot, place.level, entry, next).is_ok() {
                return Update::Done(size, entry);
            }
            if place.level > Level::L1 {
                self.mend(place.slot, place.level);
            }
        }
    }
}
