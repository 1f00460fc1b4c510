//! A cursor over the tables of a range.
//!
//! It visits tables, not pages: no walk from the root per page, and a hole of any size costs what the
//! table that holds it costs. Under it tables may be linked and unlinked, and entries may change; a page
//! that is populated throughout is visited exactly once, and one that never was at most once: if it lies
//! in a leaf table. In a table that was unlinked under it the cursor goes on to its end.

use core::{fmt, slice};

use crate::{
    addr::GpaRange,
    arena::FrameSource,
    entry::Entry,
    format::Format,
    level::{INDEX_BITS, Level, SLOTS},
    table::{Next, Shape, Slot, Table, Walker},
    walk::Place,
};

/// The runs of slots in which the translations of a range end, in ascending order. Pages without
/// memory above the leaf tables are passed over.
pub(crate) struct Runs<'p, F: Format, S: FrameSource> {
    walker: Walker<'p, F, S>,
    /// When the cursor left the root.
    shape: Shape,
    /// The next page to visit.
    page: u64,
    /// The page after the last.
    end: u64,
    /// The level of the table that the cursor is in.
    level: Level,
    /// The tables on the way from the root to `page`, by level; those below `level` are stale.
    path: [&'p Table; 5],
}

/// Neighbouring slots of one table. Above the leaf level a run has one slot.
#[derive(Debug)]
pub(crate) struct Run<'p> {
    slots: &'p [Slot],
    level: Level,
    shape: Shape,
    /// The first page of the range that the first slot translates.
    page: u64,
}

impl<'p> Run<'p> {
    /// Returns each slot with a page that it translates.
    #[inline]
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place<'p>, u64)> + use<'p> {
        let Self { slots, level, shape, page: first } = *self;
        slots.iter().zip(first..).map(move |(slot, page)| (Place { slot, level, shape }, page))
    }

    /// Takes the first slot out, with a page that it translates.
    #[inline]
    pub(crate) fn pop_first(&mut self) -> Option<(Place<'p>, u64)> {
        let (slot, rest) = self.slots.split_first()?;
        let first = (Place { slot, level: self.level, shape: self.shape }, self.page);
        self.slots = rest;
        self.page += 1;
        Some(first)
    }

    /// Returns the slots, if they are a leaf table's.
    #[inline]
    pub(crate) fn leaf_slots(&self) -> Option<&'p [Slot]> {
        (self.level == Level::L1).then_some(self.slots)
    }

    /// Returns the first page of the range that the first slot translates.
    #[inline]
    pub(crate) fn page(&self) -> u64 {
        self.page
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Visits `range`, which the format admits.
    pub(crate) fn runs(self, range: GpaRange) -> Runs<'p, F, S> {
        let shape = self.claims().sample();
        let (root, level) = self.root();
        Runs {
            walker: self,
            shape,
            page: range.first_page(),
            end: range.end_page(),
            level,
            path: [root; 5],
        }
    }
}

impl<F: Format, S: FrameSource> Runs<'_, F, S> {
    /// Goes back to a place of the run that was visited last, whose slot leads to a table by now, and
    /// goes on below it: with `page`, which the slot translates.
    pub(crate) fn enter(&mut self, place: Place<'_>, page: u64) {
        self.page = page;
        // The table of that slot is still on the path: nothing below a higher one was visited since.
        self.level = place.level;
    }

    /// Moves on to `page`, and up as far as that leaves the tables of the path.
    #[inline]
    fn advance(&mut self, page: u64) {
        self.page = page;
        let root = self.walker.format().levels().root();
        let leaves = |level: Level| page.trailing_zeros() >= level.span_shift() + INDEX_BITS;
        while self.level < root
            && leaves(self.level)
            && let Some(above) = self.level.above()
        {
            self.level = above;
        }
    }
}

impl<'p, F: Format, S: FrameSource> Iterator for Runs<'p, F, S> {
    type Item = Run<'p>;

    fn next(&mut self) -> Option<Run<'p>> {
        while self.page < self.end {
            let (page, level, shape) = (self.page, self.level, self.shape);
            let table = self.path[level as usize - 1];
            let index = level.index(page);
            if level == Level::L1 {
                let count = (self.end - page).min((SLOTS - index) as u64);
                self.advance(page + count);
                let slots = table.slots(index, index + count as usize);
                return Some(Run { slots, level, shape, page });
            }
            let slot = table.slot(index);
            match self.walker.step(slot, level) {
                Next::Down(child, below) => {
                    self.path[below as usize - 1] = child;
                    self.level = below;
                }
                Next::Here(entry) => {
                    self.advance(level.next_page(page));
                    if entry != Entry::UNPOPULATED {
                        return Some(Run { slots: slice::from_ref(slot), level, shape, page });
                    }
                }
            }
        }
        None
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Runs<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page, end, level, .. } = self;
        f.debug_struct("Runs")
            .field("page", page)
            .field("end", end)
            .field("level", level)
            .finish_non_exhaustive()
    }
}
