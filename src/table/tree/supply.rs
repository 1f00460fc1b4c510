//! Tables that come: frames that are reserved for a change, all or none, and made into tables that belong
//! to the writer alone until they are linked.

use alloc::vec::Vec;
use core::fmt;

use super::{CreateError, Tree, Writer};
use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{Content, FrameRun, FrameSource, Hint, OutOfFrames},
    entry::Entry,
    format::Format,
    level::Level,
    sync::Ordering,
    table::Table,
};

/// How many tables a change needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) leaf_tables: u64,
    pub(crate) upper_tables: u64,
}

impl Need {
    /// Adds the tables, from `lowest` up, that hang below a slot of `level` to translate `range`.
    pub(crate) fn add(&mut self, range: GpaRange, lowest: Level, level: Level) {
        for below in Level::ALL.into_iter().filter(|&below| lowest <= below && below < level) {
            match below {
                Level::L1 => self.leaf_tables += below.tables(range),
                _ => self.upper_tables += below.tables(range),
            }
        }
    }
}

impl<F: Format, S: FrameSource> Writer<'_, F, S> {
    /// Takes all the frames that a change needs, or none.
    pub(crate) fn reserve(&self, need: Need, gpa: Gpa) -> Result<Supply<'_, F, S>, CreateError> {
        let mut supply = Supply { tree: self.tree, leaf: Vec::new(), upper: Vec::new(), used: 0 };
        let frames = &self.tree.frames;
        if supply.take(need, Hint::new(gpa)).is_err() {
            // Those that it got go back first, so that they count as free.
            drop(supply);
            let needed = need.leaf_tables + need.upper_tables;
            return Err(OutOfFrames::new(needed, frames.free_frames()).into());
        }
        let format = &self.tree.format;
        let last = |run: &FrameRun| HostPfn::new(run.first.get() + (run.count - 1));
        match supply.leaf.iter().chain(&supply.upper).map(last).find(|&pfn| !format.fits(pfn)) {
            Some(pfn) => Err(CreateError::BadFrame { pfn, width: format.phys_width().bits() }),
            None => Ok(supply),
        }
    }
}

/// Frames that were reserved for a change; those left over go back when it is dropped.
pub(crate) struct Supply<'t, F: Format, S: FrameSource> {
    tree: &'t Tree<F, S>,
    /// For leaf tables; the next is the first frame of the last run.
    leaf: Vec<FrameRun>,
    /// For all other tables.
    upper: Vec<FrameRun>,
    /// How many were handed out as tables.
    used: u64,
}

impl<'t, F: Format, S: FrameSource> Supply<'t, F, S> {
    /// Allocates the frames: leaf tables by themselves, so that those of a region lie side by side.
    fn take(&mut self, need: Need, hint: Hint) -> Result<(), OutOfFrames> {
        for (count, runs) in
            [(need.leaf_tables, &mut self.leaf), (need.upper_tables, &mut self.upper)]
        {
            if count > 0 {
                self.tree.frames.allocate(count, hint, runs)?;
                // They are used from the back: the lowest frame first.
                runs.reverse();
            }
        }
        Ok(())
    }

    /// Returns a zeroed table for `level` that nobody else can reach.
    ///
    /// # Panics
    /// If more tables are taken than were reserved.
    pub(crate) fn table(&mut self, level: Level) -> NewTable<'t> {
        let runs = if level == Level::L1 { &mut self.leaf } else { &mut self.upper };
        let run = runs.last_mut().expect("a change takes no more tables than it reserved");
        self.used += 1;
        let pfn = run.first;
        if run.count == 1 {
            runs.pop();
        } else {
            *run = FrameRun { first: HostPfn::new(pfn.get() + 1), count: run.count - 1 };
        }
        // SAFETY: the frame was allocated by `reserve`, and from here on it is this table's.
        NewTable { table: unsafe { self.tree.frames.table(pfn) }, pfn }
    }

    /// Takes back a table for `level` that was not linked.
    pub(crate) fn take_back(&mut self, level: Level, NewTable { table, pfn }: NewTable<'t>) {
        table.zero();
        let runs = if level == Level::L1 { &mut self.leaf } else { &mut self.upper };
        runs.push(FrameRun { first: pfn, count: 1 });
        self.used -= 1;
    }

    /// Returns the entry by which another fresh table names this one.
    pub(crate) fn entry(&self, child: NewTable<'_>) -> Entry {
        child.into_entry(&self.tree.format)
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Supply<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, upper, .. } = self;
        f.debug_struct("Supply").field("leaf", leaf).field("upper", upper).finish_non_exhaustive()
    }
}

impl<F: Format, S: FrameSource> Drop for Supply<'_, F, S> {
    fn drop(&mut self) {
        // Relaxed: a count for people to look at. A table that was handed out is linked by now.
        self.tree.linked.fetch_add(self.used, Ordering::Relaxed);
        for run in self.leaf.drain(..).chain(self.upper.drain(..)) {
            // SAFETY: allocated by `reserve`, never handed out as a table, and so still zero.
            unsafe { self.tree.frames.free(run, Content::Zero) };
        }
    }
}

/// A table that is not linked yet: the writer's own. Zero, until it is filled.
#[derive(Debug)]
pub(crate) struct NewTable<'t> {
    table: &'t Table,
    pub(super) pfn: HostPfn,
}

impl NewTable<'_> {
    /// Gives the table up to the entry that names it.
    pub(super) fn into_entry<F: Format>(self, format: &F) -> Entry {
        format.table(self.pfn)
    }

    /// Sets every slot.
    pub(crate) fn fill(&self, entry: impl FnMut(usize) -> Entry) {
        self.table.fill(entry);
    }
}
