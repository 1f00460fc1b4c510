//! Rounds: harvests whose cost follows what was touched.
//!
//! From the root down a round goes only where an entry is accessed, or bears the round's own carry. In
//! entries whose whole span it harvests it takes the accessed bit, leaves both carries, and reads what is
//! below; a carry that it found, with no accessed bit, it drops when it has read what is below, if no
//! translation cache can have the entry any more. So cost follows what was touched, and not what is
//! mapped; where most of it was, the next rounds read everything, which is then cheaper.
//!
//! Software that sets a bit in a leaf sets accessed bits on the way there as well, from the leaf up
//! ([`Walker::mark_above`]): the other way round a round could come between and drop the carry of what was
//! set above before what is below is there to be found.

use super::{Crop, Fate, HarvestError, Large, Mark, Wanted, gather_leaves};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    bitmap::Bitmap,
    entry::Entry,
    format::{Carry, Format, Fresh},
    level::Level,
    observe::{Collect, Course, Covered, Domain, Drops, Flush, Scope, Stale},
    ops::parts,
    sync::fence_after_exchange,
    table::{Next, Shape, Slot, Table, Walker},
    walk::Place,
};

impl Mark {
    fn carry(self) -> Carry {
        match self {
            Self::Accessed => Carry::ACCESSED,
            Self::Dirty => Carry::DIRTY,
        }
    }
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    /// As [`Walker::harvest`](crate::table::Walker::harvest), one at a time, and where something was
    /// touched only.
    pub(crate) fn harvest_round(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'_>), HarvestError> {
        let format = self.tree().format();
        let wanted = Wanted::check(format, range, mark, Fate::Cleared, found)?;
        // Where a leaf is born accessed, nothing above it is.
        let preset = mark == Mark::Accessed && format.fresh() == Fresh::Accessed;
        let descends = format.keeps_bits() && !preset;
        let mut changed = Collect::new(self.hub(), Covered::default());
        // Waited for with no pin held.
        let mut round = descends.then(|| self.begin_round(range, mark.carry()));
        let participant = self.tree().epoch().join();
        let pin = participant.pin();
        let walker = self.tree().walk(&pin);
        let mut crop = Crop::new(found.window());
        match round.as_mut().map(|round| (round.course(), round)) {
            Some((Course::Descend(drops), round)) => {
                // Paging-structure caches have what is taken above the leaves.
                changed.covered.merge(Stale::new(range, Scope::Structure));
                let carry = mark.carry();
                let mut descent = Descent { walker, wanted, carry, drops, tables: 0, read: 0 };
                let (root, level) = walker.root();
                descent.table(root, level, range, &mut crop);
                round.note(descent.tables, descent.read);
            }
            _ => walker.gather(&wanted, range, &mut crop),
        }
        changed.covered.join(crop.covered);
        drop(round);
        Ok((crop.pages, changed.done()))
    }
}

/// A round on its way down.
struct Descent<'p, F: Format, S: FrameSource> {
    walker: Walker<'p, F, S>,
    wanted: Wanted<'p>,
    carry: Carry,
    drops: Drops,
    /// Leaf tables that it came by.
    tables: u64,
    /// Those of them that it read.
    read: u64,
}

impl<'p, F: Format, S: FrameSource> Descent<'p, F, S> {
    fn table(&mut self, table: &'p Table, level: Level, range: GpaRange, crop: &mut Crop<'_>) {
        for (index, part) in parts(range, level) {
            let slot = table.slot(index);
            // Again, if a table was put in the place of a leaf meanwhile.
            while let Large::Table = self.slot(slot, level, part, crop) {}
        }
    }

    /// Visits what `slot`, of a table of `level`, leads to.
    fn slot(&mut self, slot: &'p Slot, level: Level, part: GpaRange, crop: &mut Crop<'_>) -> Large {
        let format = self.walker.format();
        let page = part.first_page();
        let entry = slot.load();
        if format.is_table(entry) && !self.carry.leads_on(entry, format) {
            // At most: how many there are is not looked at.
            self.tables += Level::L1.tables(part);
            return Large::Done;
        }
        let Next::Down(child, below) = self.walker.step(slot, level) else {
            let place = Place { slot, level, shape: Shape::UNKNOWN };
            return self.walker.gather_large(&self.wanted, self.wanted.range, place, page, crop);
        };
        self.tables += u64::from(below == Level::L1);
        let whole = part.pages() == level.span_pages();
        let was_accessed =
            whole && self.walker.update_table(slot, level, |entry| entry.carried(format));
        // Nothing orders what is read below behind the bit that was taken here: what is missed for that, the
        // carry leads to in a later round.
        if below == Level::L1 {
            self.read += 1;
            let first = below.index(page);
            let slots = child.slots(first, first + part.pages() as usize);
            gather_leaves(&self.wanted, slots, page, crop);
        } else {
            self.table(child, below, part, crop);
        }
        if whole && !was_accessed && self.drops == Drops::Yes {
            self.walker.update_table(slot, level, |entry| self.carry.dropped(entry));
        }
        Large::Done
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Sets the accessed bit in each table entry on the way to `page` that has it clear, as the MMU does:
    /// for software that has set accessed or dirty in the leaf, or found it set.
    ///
    /// From the leaf up: who finds one of them sees it led to from above, now or in the next round.
    pub(crate) fn mark_above(self, page: u64) {
        let format = self.format();
        if !format.keeps_bits() {
            return;
        }
        let (mut table, mut level) = self.root();
        let mut path = [None; 5];
        while let Next::Down(child, below) = self.step(table.slot(level.index(page)), level) {
            path[below as usize - 1] = Some((table.slot(level.index(page)), level));
            (table, level) = (child, below);
        }
        let accessed = format.accessed_bit();
        for (slot, level) in path.into_iter().flatten() {
            // Between the bit that was set below, in the leaf or in an entry, and a look that finds this entry
            // accessed already. If a round has taken that, one that may drop its carry fences before it reads
            // what is below: so the bit below is seen there, or this one is seen clear here
            // [pair: mark-round].
            fence_after_exchange();
            // Not as it was on the way down: a round may have taken it since, and found nothing below.
            if !slot.load().has(accessed) {
                self.update_table(slot, level, |entry| entry.with(accessed));
            }
        }
    }

    /// Makes of the entry of a table what `step` says; tells whether that was a change. What is no table's
    /// entry any more is left alone.
    ///
    /// Lock-free: it is lost only to the MMU, or another, changing a mark, or to a structural change.
    fn update_table(self, slot: &Slot, level: Level, step: impl Fn(Entry) -> Entry) -> bool {
        loop {
            let (seen, next) = self.read(slot, level);
            let next = match next {
                Next::Down(..) => step(seen),
                Next::Here(_) => return false,
            };
            if next == seen {
                return false;
            }
            if self.commit(slot, level, seen, next).is_ok() {
                return true;
            }
            self.mend(slot, level);
        }
    }
}

#[cfg(all(test, loom))]
mod model;
// Values only: no checker has anything to say of them.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
