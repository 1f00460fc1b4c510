//! Tables that go: unlinked by one compare-exchange, freed when nobody can walk them any more.
//!
//! A table is unlinked with all that is below it, by one change at its parent's slot; the tables in
//! it stay as they are, so whoever is still in there finds his way down as before. Later, when
//! neither a pin nor an MMU can be in there, [`Writer::bury`] walks the same entries once more and
//! gives the frames back, in runs.

use alloc::vec::Vec;

use super::{Tree, Writer};
use crate::{
    addr::HostPfn,
    arena::{Content, FrameRun, FrameSource},
    entry::Entry,
    format::{Format, Kind},
    level::{Level, SLOTS},
    sync::Ordering,
    table::{Race, Slot},
};

/// A table that was unlinked, and all below it: frames of the tree's own that no slot of the tree
/// leads to any more. It is freed by [`Writer::bury`], or never.
#[derive(Debug)]
pub(crate) struct Dead {
    pfn: HostPfn,
    level: Level,
    tables: u64,
    /// What its leaf tables contain.
    leaves: Content,
}

impl Dead {
    /// Returns how many tables it is, with those below.
    pub(crate) fn tables(&self) -> u64 {
        self.tables
    }
}

impl<F: Format, S: FrameSource> Writer<'_, F, S> {
    /// Takes out the table that `slot`, of a table of `level`, leads to. It is `tables` tables, with
    /// those below it, whose leaf tables contain `leaves` for as long as they are dead.
    ///
    /// # Panics
    /// If no table is there: only the writer links and unlinks.
    pub(crate) fn unlink(&self, slot: &Slot, level: Level, tables: u64, leaves: Content) -> Dead {
        let format = &self.tree.format;
        loop {
            let seen = slot.load();
            let (Kind::Table(pfn), Some(below)) = (format.kind(level, seen), level.below()) else {
                panic!("a table was to be unlinked where none is: {slot:?}");
            };
            // Lost only to the MMU, or to a carry, setting a bit in the entry.
            if self.exchange(slot, level, seen, Entry::UNPOPULATED).is_ok() {
                // Relaxed: a count for people to look at.
                self.tree.linked.fetch_sub(tables, Ordering::Relaxed);
                return Dead { pfn, level: below, tables, leaves };
            }
        }
    }

    /// Puts `leaf` in the place of the table that `slot`, of a table of `level`, leads to, which is a
    /// table of leaves.
    ///
    /// # Errors
    /// [`Race`] if `seen`, which led to the table, does not stand any more.
    pub(crate) fn replace(
        &self,
        slot: &Slot,
        level: Level,
        seen: Entry,
        leaf: Entry,
    ) -> Result<Dead, Race> {
        let format = &self.tree.format;
        let table = seen.mended(level, format).unwrap_or(seen);
        let (Kind::Table(pfn), Some(below)) = (format.kind(level, table), level.below()) else {
            panic!("a table was to be replaced where none is: {slot:?}");
        };
        self.exchange(slot, level, seen, leaf)?;
        // Relaxed: a count for people to look at.
        self.tree.linked.fetch_sub(1, Ordering::Relaxed);
        Ok(Dead { pfn, level: below, tables: 1, leaves: Content::Unknown })
    }

    /// Returns the entries of a table that was unlinked, as they are now.
    pub(crate) fn entries<'d>(&'d self, dead: &'d Dead) -> impl Iterator<Item = Entry> + 'd {
        // SAFETY: it is freed only by `bury`, which takes the `Dead`.
        let table = unsafe { self.tree.frames.table(dead.pfn) };
        table.slots(0, SLOTS).iter().map(Slot::load)
    }

    /// Frees what was unlinked.
    ///
    /// # Safety
    /// 1. Every pin that was held when it was unlinked has ended.
    /// 2. No MMU reaches it: each that may walk the tree began to, from the root and without what it
    ///    had cached before, after it was unlinked.
    /// 3. Nobody who walked under this lock still has a reference into it.
    /// 4. Its leaf tables contain what [`unlink`](Self::unlink) was told.
    pub(crate) unsafe fn bury(&self, dead: Vec<Dead>) {
        let mut grave = Grave { tree: self.tree, run: None };
        for Dead { pfn, level, leaves, .. } in dead {
            // SAFETY:
            // 1. It was named by one entry, which is gone (`unlink`), so it is freed once.
            // 2. No walker is in there: neither one with a pin, nor with the lock, nor an MMU, by the
            //    caller's promise.
            unsafe { grave.take(pfn, level, leaves) };
        }
    }
}

impl<F: Format, S: FrameSource> Tree<F, S> {
    /// Frees all tables of a tree that is being dropped.
    pub(super) fn free_all(&mut self) {
        let mut grave = Grave { tree: self, run: None };
        // SAFETY: the tree is borrowed exclusively: no pin, no lock and no handle is left.
        unsafe { grave.take(self.root, self.format.levels().root(), Content::Unknown) };
    }
}

/// Frames on their way back to the source, the last run of which has not arrived.
struct Grave<'t, F: Format, S: FrameSource> {
    tree: &'t Tree<F, S>,
    /// Out of every walker's reach, and read no more.
    run: Option<(FrameRun, Content)>,
}

impl<F: Format, S: FrameSource> Grave<'_, F, S> {
    /// Takes the table in `pfn`, which is of `level`, and every one below it. Leaf tables are not even
    /// read: a table of them goes back as runs.
    ///
    /// # Safety
    /// No walker can reach the table; nobody else frees it; its leaf tables contain `leaves`.
    unsafe fn take(&mut self, pfn: HostPfn, level: Level, leaves: Content) {
        let Some(below) = level.below() else { return self.add(pfn, leaves) };
        // SAFETY: invariant `linked`, and nothing was freed yet on the way here.
        let table = unsafe { self.tree.frames.table(pfn) };
        for slot in table.slots(0, SLOTS) {
            let entry = slot.load();
            let entry = entry.mended(level, &self.tree.format).unwrap_or(entry);
            if let Kind::Table(child) = self.tree.format.kind(level, entry) {
                // SAFETY: each table is named by one entry only, so it is out of reach with the one
                // above it, and is freed once.
                unsafe { self.take(child, below, leaves) };
            }
        }
        self.add(pfn, Content::Unknown);
    }

    /// Adds a frame that was taken to the run that it continues, or begins another.
    fn add(&mut self, pfn: HostPfn, content: Content) {
        match &mut self.run {
            Some((run, same))
                if *same == content && run.first.checked_add(run.count) == Some(pfn) =>
            {
                run.count += 1;
            }
            _ => {
                self.close();
                self.run = Some((FrameRun { first: pfn, count: 1 }, content));
            }
        }
    }

    /// Hands over the last run.
    fn close(&mut self) {
        if let Some((run, content)) = self.run.take() {
            // SAFETY: what was promised to `take` for each of the frames.
            unsafe { self.tree.frames.free(run, content) };
        }
    }
}

impl<F: Format, S: FrameSource> Drop for Grave<'_, F, S> {
    fn drop(&mut self) {
        self.close();
    }
}
