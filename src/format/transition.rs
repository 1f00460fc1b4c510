//! Which value may follow which in a live slot, and who may make the change.
//!
//! This is the state machine of the tree (docs/THEORY.md, "Slots"), as a pure function over entries.
//! Every commit in the crate asserts it in debug builds; a table-driven test exhausts it.

use super::{Format, Kind};
use crate::{entry::Entry, level::Level};

/// Who may make a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Any thread with a pin, and, for accessed and dirty bits of present entries, the MMU.
    Anyone,
    /// Only the holder of the writer lock.
    Writer,
}

impl Entry {
    /// Tells who may change a slot of `level` from `self` to `next`, or `None` if nobody may.
    ///
    /// A leaf never becomes a leaf of another frame, a non-present entry never gains accessed or
    /// dirty bits, and no value ever has a bit that its format does not define.
    #[must_use]
    pub fn may_become<F: Format>(self, next: Self, level: Level, format: &F) -> Option<Who> {
        if !format.is_well_formed(level, self) || !format.is_well_formed(level, next) {
            return None;
        }
        let claimed = self.has(Entry::CLAIM);
        match (format.kind(level, self), format.kind(level, next)) {
            // Populate; whole leaves at once where it also maps. A new table is not yet claimed.
            (Kind::Unpopulated, Kind::Empty) => level.page_size().map(|_| Who::Writer),
            (Kind::Unpopulated, Kind::Leaf) => Some(Who::Writer),
            (Kind::Unpopulated, Kind::Table(_)) => (!next.has(Entry::CLAIM)).then_some(Who::Writer),
            // The fault path.
            (Kind::Empty, Kind::Leaf) | (Kind::Leaf, Kind::Empty) => Some(Who::Anyone),
            (Kind::Leaf, Kind::Leaf) => {
                let size = level.page_size()?;
                let same_frame = format.leaf_frame(size, self) == format.leaf_frame(size, next);
                same_frame.then_some(Who::Anyone)
            }
            (Kind::Table(from), Kind::Table(to)) if from == to => {
                let changed = Self::from_raw(self.raw() ^ next.raw());
                let anyone = format.accessed_bit() | Entry::CARRY;
                if !changed.has(!anyone) {
                    Some(Who::Anyone)
                } else if !changed.has(!(anyone | Entry::CLAIM)) {
                    Some(Who::Writer)
                } else {
                    None
                }
            }
            // Vacate: the covered slots of a table that stays, and tables.
            (Kind::Empty | Kind::Leaf, Kind::Unpopulated) => {
                (level == Level::L1).then_some(Who::Writer)
            }
            (Kind::Table(_), Kind::Unpopulated) => Some(Who::Writer),
            // Collapse.
            (Kind::Table(_), Kind::Leaf) => claimed.then_some(Who::Writer),
            // Refine and split.
            (Kind::Empty | Kind::Leaf, Kind::Table(_)) => {
                (!next.has(Entry::CLAIM)).then_some(Who::Writer)
            }
            _ => None,
        }
    }
}
