//! Split and collapse where a size must be broken before another is made: see
//! [`Resize`](crate::Resize).
//!
//! The entry is broken, everybody is shot down, and then the new entry is put in its place: for no page
//! does an MMU ever have two sizes. Meanwhile it faults; software goes on finding the page, and who
//! changes something there mends the entry first, a mapper that is told of such a fault among them. Then the
//! change of size begins again, or gives up.
//!
//! What is done under the writer lock, and what is not, is as in [`split`](super::split) and
//! [`collapse`](super::collapse). Since nothing can come to a broken table by the MMU once the shoot-down
//! is complete, what its leaves say then is final: there is no LATE leaf.

use alloc::vec::Vec;

use super::{
    collapse::{Above, CollapseError},
    split::{Larger, Split, SplitError},
};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    entry::Entry,
    format::{Format, divided},
    level::{Level, PageSize},
    observe::{Domain, Flush, InsideGuest, Kick, Structure},
    table::{Need, Next, Slot, Walker},
    walk::Found,
};

/// How often a leaf is broken, and mended by others, before split gives up.
const ATTEMPTS: usize = 3;

/// Mends what is still broken when it is dropped: the change of size did not come to its end.
struct Broken<'d, F: Format, S: FrameSource> {
    domain: &'d Domain<F, S>,
    /// A page below each entry that was broken, its level, and the entry.
    entries: Vec<(u64, Level, Entry)>,
}

impl<F: Format, S: FrameSource> Drop for Broken<'_, F, S> {
    fn drop(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let structure = self.domain.lock();
        for &(page, level, entry) in &self.entries {
            if let Some(slot) = structure.walk().slot_of(page, level)
                && slot.load() == entry
            {
                structure.walk().mend(slot, level);
            }
        }
    }
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    /// Splits the leaf that translates `page` by one size, if it is larger than `size`.
    pub(super) fn split_broken(
        &self,
        page: u64,
        size: PageSize,
        kick: &impl Kick,
    ) -> Result<Split, SplitError> {
        if let Some(observer) = self.hub().inside_here() {
            return Err(InsideGuest { observer }.into());
        }
        let _turn = self.resizes();
        for _ in 0..ATTEMPTS {
            let mut broken = Broken { domain: self, entries: Vec::new() };
            let structure = self.lock();
            let Some(Larger { slot, large, below }) = structure.larger(page, size)? else {
                return Ok(Split::Enough);
            };
            let level = large.level();
            let Some(entry) = structure.break_leaf(slot, level) else {
                return Ok(Split::Enough);
            };
            broken.entries.push((page, level, entry));
            let shootdown = Flush::structure(self.hub(), large.leaf_range(page)).shootdown();
            drop(structure);
            { shootdown }.wait(kick)?;
            let structure = self.lock();
            if structure.link_broken(page, entry, large, below)? {
                return Ok(Split::Once);
            }
        }
        Err(SplitError::Busy)
    }

    /// Replaces the tables of `marked`, each of which a grace period has passed, by leaves of `size`; says
    /// of each how it went.
    pub(super) fn collapse_broken(
        &self,
        range: GpaRange,
        marked: Vec<u64>,
        size: PageSize,
        kick: &impl Kick,
        mut sink: impl FnMut(Result<(), CollapseError>),
    ) -> Result<(), InsideGuest> {
        let level = size.level();
        let mut broken = Broken { domain: self, entries: Vec::new() };
        let structure = self.lock();
        for page in marked {
            match structure.break_table(page, level) {
                Some(entry) => broken.entries.push((page, level, entry)),
                None => sink(Err(CollapseError::Busy)),
            }
        }
        if broken.entries.is_empty() {
            return Ok(());
        }
        let shootdown = Flush::structure(self.hub(), range).shootdown();
        drop(structure);
        { shootdown }.wait(kick)?;
        let structure = self.lock();
        let mut dead = Vec::new();
        for &(page, _, entry) in &broken.entries {
            let replaced = match structure.walk().above(page, size) {
                Above::Table(slot) if slot.load() == entry => {
                    let together = structure.walk().taken_together(slot, page, size);
                    together.and_then(|(_, leaf)| {
                        let leaf = leaf.without(Entry::LATE);
                        let replaced = structure.writer().replace(slot, level, entry, leaf);
                        replaced.map_err(|_| CollapseError::Busy)
                    })
                }
                _ => Err(CollapseError::Busy),
            };
            sink(replaced.map(|table| dead.push(table)));
        }
        structure.retire(dead, range);
        Ok(())
    }
}

impl<F: Format, S: FrameSource> Structure<'_, F, S> {
    /// Puts a table of equal leaves in the place of the broken leaf `entry`; false if that was mended.
    fn link_broken(
        &self,
        page: u64,
        entry: Entry,
        large: PageSize,
        below: PageSize,
    ) -> Result<bool, SplitError> {
        let format = self.walk().format();
        let level = large.level();
        let Some(slot) = self.walk().slot_of(page, level) else { return Ok(false) };
        let Some(leaf) = entry.mended(level, format) else { return Ok(false) };
        let mut need = Need::default();
        need.add(GpaRange::between(page, page + 1), below.level(), level);
        let mut supply = self.reserve(need, large.leaf_range(page).start())?;
        let child = supply.table(below.level());
        let first = divided(format, large, below, leaf);
        child.fill(|index| first.advanced(index as u64 * below.pages()));
        // Takes effect here.
        match self.writer().link_over(slot, level, entry, child) {
            Ok(()) => Ok(true),
            Err(child) => {
                supply.take_back(below.level(), child);
                Ok(false)
            }
        }
    }

    /// Breaks the leaf in `slot`; `None` if it was unmapped.
    fn break_leaf(&self, slot: &Slot, level: Level) -> Option<Entry> {
        let walker = self.walk();
        loop {
            let leaf = slot.load();
            if !matches!(walker.found(level, leaf), Found::Leaf(_)) {
                return None;
            }
            let next = leaf.broken(walker.format());
            // Lost to the MMU setting a bit, or to who changes or unmaps the leaf.
            if self.writer().exchange(slot, level, leaf, next).is_ok() {
                return Some(next);
            }
        }
    }

    /// Breaks the entry of a table that is marked; `None` if the mark is gone.
    fn break_table(&self, page: u64, level: Level) -> Option<Entry> {
        let slot = self.walk().slot_of(page, level)?;
        let format = self.walk().format();
        loop {
            let seen = slot.load();
            if !(format.is_table(seen) && seen.has(Entry::COLLAPSING)) {
                return None;
            }
            let next = seen.without(Entry::COLLAPSING).broken(format);
            if self.writer().exchange(slot, level, seen, next).is_ok() {
                return Some(next);
            }
        }
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Returns the slot of `level` on the way to `page`, or `None` if the walk ends above.
    fn slot_of(self, page: u64, level: Level) -> Option<&'p Slot> {
        let (mut table, mut at) = self.root();
        while at > level {
            let Next::Down(child, below) = self.step(table.slot(at.index(page)), at) else {
                return None;
            };
            (table, at) = (child, below);
        }
        Some(table.slot(level.index(page)))
    }
}
