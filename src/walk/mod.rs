//! Walks: from the root to one page, over a range, and many at a time.
//!
//! A walk is loads only; the one thing here that writes is [`Walker::update`], the commit loop of all that
//! changes a leaf. A walk ends at the first entry that is not a table's, so it stops at a
//! leaf of any size. What it found may have changed by the time it is used; whoever acts on it does so
//! by compare-exchange on the slot and looks again if that fails.

mod batch;
mod range;

pub(crate) use self::range::{Run, Runs};
use crate::{
    arena::FrameSource,
    entry::Entry,
    format::Format,
    level::{Level, PageSize},
    table::{Next, Slot, Walker},
};

/// A slot and the level of its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p> {
    pub(crate) slot: &'p Slot,
    pub(crate) level: Level,
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
    /// A leaf of this size.
    Leaf(PageSize),
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Walks from the root to where the translation of `page` ends.
    #[inline]
    pub(crate) fn descend(self, page: u64) -> Terminal<'p> {
        self.resume(self.top(page), page)
    }

    /// Goes on from a place where the walk of `page` had come to.
    #[inline]
    pub(crate) fn resume(self, mut place: Place<'p>, page: u64) -> Terminal<'p> {
        loop {
            match self.step(place.slot, place.level) {
                Next::Down(table, level) => {
                    place = Place { slot: table.slot(level.index(page)), level };
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
                    place = Place { slot: table.slot(level.index(page)), level };
                }
                Next::Here(_) => break,
            }
        }
        place
    }

    /// Returns the root's slot for `page`.
    #[inline]
    pub(crate) fn top(self, page: u64) -> Place<'p> {
        let (table, level) = self.root();
        Place { slot: table.slot(level.index(page)), level }
    }

    /// Tells what an entry that a walk ended at is.
    #[inline]
    pub(crate) fn found(self, level: Level, entry: Entry) -> Found {
        match level.page_size() {
            Some(size) if self.format().is_present(entry) => Found::Leaf(size),
            Some(size) if entry == Entry::EMPTY => Found::Empty(size),
            _ => Found::Unpopulated,
        }
    }

    /// Applies `change` to the leaf that translates `page`, at or below `place`, until it wins or
    /// declines. Returns the leaf that it replaced, or `None` if there is no leaf or it declined.
    ///
    /// Lock-free: a commit is lost only to another one, or to the MMU setting a bit.
    #[inline]
    pub(crate) fn update(
        self,
        place: Place<'p>,
        page: u64,
        mut change: impl FnMut(PageSize, Entry) -> Option<Entry>,
    ) -> Option<(PageSize, Entry)> {
        let mut at = self.resume(place, page);
        loop {
            let Found::Leaf(size) = self.found(at.place.level, at.entry) else { return None };
            let next = change(size, at.entry)?;
            // Linearizes here, if it wins.
            match self.commit(at.place.slot, at.place.level, at.entry, next) {
                Ok(()) => return Some((size, at.entry)),
                Err(_) => at = self.resume(at.place, page),
            }
        }
    }
}
