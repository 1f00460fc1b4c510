//! Vacate: the pages of a range become UNPOPULATED, and tables that nobody needs any more are taken out
//! of the tree. All or nothing, beside mappers that may come at any moment.
//!
//! Under the writer lock, in rounds:
//!
//! 1. *Claim* the range: [`Claim`] says what that is, and how a mapper breaks it.
//! 2. *Scan.* Every page of the range must be populated and not mapped. Tables that lie in the range
//!    whole are only read. In a table of which the range covers a part (there are at most two at each
//!    level) the covered slots are marked, EMPTY to CLAIMED, one by one.
//! 3. *Commit* the claim: one compare-exchange, where all of it takes effect. If a mapper broke the
//!    claim, begin again; the scan will find its leaf, unless that is gone again.
//! 4. *Unlink* the topmost tables of those that lie in the range whole; turn the marks UNPOPULATED; and
//!    unlink every table that was left with nothing but UNPOPULATED slots, upwards, but for the root.
//! 5. *Close* the claim, and retire what was unlinked.
//!
//! If 2 finds a leaf, or a page without memory, the marks are taken back and the claim is closed: nothing
//! was changed, and nobody was told that it was, since a marked slot is an EMPTY one to all but mappers,
//! and they break the claim.
//!
//! The leaf tables of an unlinked range are all EMPTY, and stay so: a mapper that was slow takes its leaf
//! out again before its pin ends. So they are zero when they are used again, and need not be cleared.
//!
//! KVM's way, to freeze every slot by an exchange, would make the scan of whole tables ten times as
//! expensive. It is taken only for the two ends.

use alloc::vec::Vec;

use super::parts;
use crate::{
    addr::{Gpa, GpaRange},
    arena::{Content, FrameSource},
    entry::Entry,
    format::Format,
    level::{Level, PageSize, SLOTS},
    observe::Domain,
    table::{Claim, Dead, Next, Slot, Table, Walker, Writer},
    walk::Found,
};

#[cfg(all(test, loom))]
mod model;
// The tests spell out full-sized tables; the checkers' are narrow.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

/// How often a claim may be broken before vacate gives up.
const ROUNDS: usize = 3;

/// Why a range was not vacated. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VacateError {
    /// A page of the range is not populated.
    #[error("{gpa} is not populated")]
    NotPopulated {
        /// An address of the first part of the range where that is so.
        gpa: Gpa,
    },
    /// A page of the range is mapped; unmap it first.
    #[error("{gpa} is still mapped")]
    StillMapped {
        /// The address, or the first one of the range that a large leaf maps.
        gpa: Gpa,
    },
    /// The range begins or ends within a granule of a large leaf.
    #[error("the range cuts the granule of {granule:?} at {gpa}")]
    CutsLarge {
        /// The first address of the granule.
        gpa: Gpa,
        /// The size of leaf that fits there.
        granule: PageSize,
    },
    /// Again and again another thread mapped a page of the range, which was unmapped at once. Try again
    /// when they have been told to stop.
    #[error("pages of the range are being mapped")]
    Busy,
    /// Some page of the range is not an input address of the table's format.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    pub(crate) fn vacate(&self, range: GpaRange) -> Result<(), VacateError> {
        let structure = self.lock();
        let dead = structure.writer().vacate(range)?;
        structure.retire(dead, range);
        Ok(())
    }
}

impl<F: Format, S: FrameSource> Writer<'_, F, S> {
    /// Vacates `range`; returns the tables that were unlinked, for retirement.
    fn vacate(&self, range: GpaRange) -> Result<Vec<Dead>, VacateError> {
        if !self.walk().format().admits_range(range) {
            return Err(VacateError::OutOfRange { range });
        }
        for _ in 0..ROUNDS {
            let claim = self.claim(range);
            let mut scan = Scan::new(self, &claim);
            let (root, level) = self.walk().root();
            let found = scan.part(root, level, range);
            let plan = scan.plan;
            if let Err(error) = found {
                plan.undo(self);
                return Err(error);
            }
            // Takes effect here.
            if claim.commit() {
                return Ok(plan.carry_out(self));
            }
            plan.undo(self);
        }
        Err(VacateError::Busy)
    }
}

/// What a commit changes, or a failure takes back.
#[derive(Debug)]
struct Plan<'w> {
    /// The mark of the claim.
    mark: Entry,
    /// The topmost slots whose tables lie in the range whole, and how many tables each leads to.
    whole: Vec<(&'w Slot, Level, u64)>,
    /// The slots that were marked.
    marked: Vec<(&'w Slot, Level)>,
    /// Tables of which the range covers a part, each before those above it, and the slots that lead
    /// to them.
    ends: Vec<(&'w Slot, Level, &'w Table)>,
}

impl Plan<'_> {
    /// Takes the marks back. Where one is gone a mapper broke the claim and took the slot.
    fn undo<F: Format, S: FrameSource>(self, writer: &Writer<'_, F, S>) {
        for (slot, level) in self.marked {
            let _taken = writer.exchange(slot, level, self.mark, Entry::EMPTY);
        }
    }

    /// Does what was committed; returns what was unlinked.
    fn carry_out<F: Format, S: FrameSource>(self, writer: &Writer<'_, F, S>) -> Vec<Dead> {
        let mut dead = Vec::new();
        for (slot, level, tables) in self.whole {
            dead.push(writer.unlink(slot, level, tables, Content::Zero));
        }
        for (slot, level) in self.marked {
            // A claim that was committed is not broken any more, so its marks are the writer's.
            writer.commit(slot, level, self.mark, Entry::UNPOPULATED);
        }
        for (slot, level, table) in self.ends {
            if table.slots(0, SLOTS).iter().all(|slot| slot.load() == Entry::UNPOPULATED) {
                dead.push(writer.unlink(slot, level, 1, Content::Unknown));
            }
        }
        dead
    }
}

/// The scan of a claimed range.
struct Scan<'w, F: Format, S: FrameSource> {
    writer: &'w Writer<'w, F, S>,
    walker: Walker<'w, F, S>,
    plan: Plan<'w>,
}

impl<'w, F: Format, S: FrameSource> Scan<'w, F, S> {
    fn new(writer: &'w Writer<'w, F, S>, claim: &Claim<'_>) -> Self {
        let (whole, marked, ends) = (Vec::new(), Vec::new(), Vec::new());
        let plan = Plan { mark: claim.mark(), whole, marked, ends };
        Self { writer, walker: writer.walk(), plan }
    }

    /// Scans `range`, which is a part of what a table of `level` translates, or all that the root does.
    fn part(&mut self, table: &'w Table, level: Level, range: GpaRange) -> Result<(), VacateError> {
        for (index, part) in parts(range, level) {
            let slot = table.slot(index);
            match self.walker.step(slot, level) {
                Next::Down(child, below) if part.pages() == level.span_pages() => {
                    let mut tables = 0;
                    self.whole(child, below, part.first_page(), &mut tables)?;
                    self.plan.whole.push((slot, level, tables));
                }
                Next::Down(child, below) => {
                    self.part(child, below, part)?;
                    self.plan.ends.push((slot, level, child));
                }
                Next::Here(_) => self.mark(slot, level, part)?,
            }
        }
        Ok(())
    }

    /// Marks the slot in which `part` ends, in a table that may live on.
    fn mark(&mut self, slot: &'w Slot, level: Level, part: GpaRange) -> Result<(), VacateError> {
        let page = part.first_page();
        loop {
            let entry = slot.load();
            match self.walker.found(level, entry) {
                Found::Empty(granule) if part.pages() < granule.pages() => {
                    let gpa = granule.leaf_range(page).start();
                    return Err(VacateError::CutsLarge { gpa, granule });
                }
                Found::Empty(_) => {
                    let mark = self.plan.mark;
                    if self.writer.exchange(slot, level, entry, mark).is_ok() {
                        self.plan.marked.push((slot, level));
                        return Ok(());
                    }
                    // Lost to a mapper, and the next look finds its leaf.
                }
                _ => return Err(self.refuse(level, entry, page)),
            }
        }
    }

    /// Scans a table that lies in the range whole, its first page being `first`; counts it, and those
    /// below it.
    fn whole(
        &self,
        table: &'w Table,
        level: Level,
        first: u64,
        tables: &mut u64,
    ) -> Result<(), VacateError> {
        *tables += 1;
        for (index, slot) in (0..).zip(table.slots(0, SLOTS)) {
            let page = first + index * level.span_pages();
            match self.walker.step(slot, level) {
                Next::Down(child, below) => self.whole(child, below, page, tables)?,
                Next::Here(Entry::EMPTY) => {}
                Next::Here(entry) => return Err(self.refuse(level, entry, page)),
            }
        }
        Ok(())
    }

    /// Says why the range cannot be vacated that has this entry for `page`.
    fn refuse(&self, level: Level, entry: Entry, page: u64) -> VacateError {
        let gpa = Gpa::of_page(page);
        match self.walker.found(level, entry) {
            Found::Leaf(_) => VacateError::StillMapped { gpa },
            _ => VacateError::NotPopulated { gpa },
        }
    }
}
