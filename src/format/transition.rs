//! Which value may follow which in a live slot, and who may make the change.
//!
//! This is the state machine of the tree (docs/THEORY.md, "Slots"; all of it as a table in
//! docs/FORMATS.md), as a pure function over entries. Every commit in the crate asserts it in debug
//! builds; a table-driven test exhausts it.

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
        // Only where leaves can be are there granules, and tables made out of them.
        let has_leaves = level.page_size().is_some_and(|size| format.supports(size));
        let is_large = has_leaves && level > Level::L1;
        let writer_if = |allowed: bool| allowed.then_some(Who::Writer);
        // Only collapse makes LATE leaves, and only what is mapped can be watched.
        let is_fresh = !next.has(Self::LATE | Self::WATCHED);
        match (format.kind(level, self), format.kind(level, next)) {
            // Populate; whole leaves at once where it also maps.
            (Kind::Unpopulated, Kind::Empty) => writer_if(has_leaves),
            (Kind::Unpopulated, Kind::Leaf) => writer_if(is_fresh),
            (Kind::Unpopulated, Kind::Table(_)) => writer_if(!next.has(Self::COLLAPSING)),
            // The fault path.
            (Kind::Empty, Kind::Leaf) => is_fresh.then_some(Who::Anyone),
            (Kind::Leaf, Kind::Empty) => Some(Who::Anyone),
            (Kind::Leaf, Kind::Leaf) => self.leaf_change(next, format),
            (Kind::Table(_), Kind::Table(_)) => self.table_change(next, format),
            // Vacate: the covered slots of a table that stays, which may be one of large granules. A
            // mapper that broke the claim maps through its mark.
            (Kind::Empty, Kind::Claimed) | (Kind::Claimed, Kind::Empty | Kind::Unpopulated) => {
                writer_if(has_leaves)
            }
            (Kind::Claimed, Kind::Leaf) => is_fresh.then_some(Who::Anyone),
            // Vacate of tables.
            (Kind::Table(_), Kind::Unpopulated) => Some(Who::Writer),
            // Collapse, if nobody has cleared its mark.
            (Kind::Table(_), Kind::Leaf) => {
                writer_if(self.has(Self::COLLAPSING) && next.has(Self::LATE))
            }
            // Split and collapse where they break first; who changes what is there mends it.
            (Kind::Leaf, Kind::Broken) => writer_if(is_large && next == self.broken(format)),
            (Kind::Table(_), Kind::Broken) => {
                let table = self.without(Self::COLLAPSING);
                writer_if(self != table && next == table.broken(format))
            }
            (Kind::Broken, Kind::Leaf | Kind::Table(_)) => {
                let old = self.mended(level, format)?;
                let resized = format.is_table(old) != format.is_table(next);
                let is_final = match format.kind(level, next) {
                    Kind::Leaf => !next.has(Self::LATE),
                    _ => !next.has(Self::COLLAPSING),
                };
                if old == next { Some(Who::Anyone) } else { writer_if(resized && is_final) }
            }
            // Refine and split.
            (Kind::Empty | Kind::Leaf, Kind::Table(_)) => {
                writer_if(has_leaves && !next.has(Self::COLLAPSING))
            }
            _ => None,
        }
    }

    /// Tells who may change one well-formed leaf into another.
    fn leaf_change<F: Format>(self, next: Self, format: &F) -> Option<Who> {
        let changed = Self::from_raw(self.raw() ^ next.raw());
        let marks = format.accessed_bit() | format.dirty_bit() | Self::WATCHED;
        let anyone = format.rights_bits() | marks;
        if !changed.has(!anyone) {
            return Some(Who::Anyone);
        }
        // The collapser merges the dead table's bits and drops the mark.
        let drops_mark = !changed.has(!(anyone | Self::LATE)) && !next.has(Self::LATE);
        drops_mark.then_some(Who::Writer)
    }

    /// Tells who may change one well-formed table entry into another.
    fn table_change<F: Format>(self, next: Self, format: &F) -> Option<Who> {
        let changed = Self::from_raw(self.raw() ^ next.raw());
        if changed.has(!(format.accessed_bit() | Self::CARRY | Self::COLLAPSING)) {
            return None;
        }
        let begins_collapse = changed.has(Self::COLLAPSING) && next.has(Self::COLLAPSING);
        Some(if begins_collapse { Who::Writer } else { Who::Anyone })
    }
}
