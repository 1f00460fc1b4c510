//! Leaves of one size as leaves of another: what split and collapse make of their values.

use super::{Format, Kind};
use crate::{entry::Entry, format::EncodeError, level::PageSize};

/// The leaves of a full table, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Union {
    /// Their size.
    size: PageSize,
    /// The first one, without its accessed and dirty bits; writable, if it is watched.
    first: Entry,
    /// The accessed and dirty bits that any of them has.
    marks: u64,
}

/// Why leaves cannot be taken together, by the index of the first that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uneven {
    /// It is not there, or not a leaf of that size.
    Missing(usize),
    /// It does not follow on those before: another frame, or other attributes.
    Differs(usize),
}

/// Returns the accessed and dirty bits that a leaf counts as having.
fn marks<F: Format>(format: &F, leaf: Entry) -> u64 {
    let marks = format.accessed_bit() | format.dirty_bit();
    if leaf.has(Entry::LATE) { marks } else { leaf.raw() & marks }
}

/// Returns the first of the leaves into which a large leaf of `size` is split: the same but for its
/// size. The others follow in steps of its size.
///
/// # Panics
/// If the processor has no leaves of the size `below`.
pub(crate) fn divided<F: Format>(
    format: &F,
    size: PageSize,
    below: PageSize,
    leaf: Entry,
) -> Entry {
    let (pfn, attr) = (format.leaf_frame(size, leaf), format.attr(size, leaf));
    let small = format.leaf(below, pfn, attr);
    let small = small.expect("a small leaf can say what a large one says");
    like(format, leaf, small.without(format.accessed_bit()).with(marks(format, leaf)))
}

/// Returns `leaf` watched if `model` is.
fn like<F: Format>(format: &F, model: Entry, leaf: Entry) -> Entry {
    if model.is_watched() { leaf.watched(format) } else { leaf }
}

impl Union {
    /// Takes the leaves of a table together, all of which are of `size`, with consecutive frames and the
    /// same attributes, all watched or none; accessed and dirty bits may differ.
    ///
    /// # Errors
    /// [`Uneven`] if they are not.
    pub(crate) fn of<F: Format>(
        format: &F,
        size: PageSize,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<Self, Uneven> {
        let apart = format.accessed_bit() | format.dirty_bit() | Entry::LATE;
        let mut union = Self { size, first: Entry::EMPTY, marks: 0 };
        for (index, entry) in entries.enumerate() {
            if format.kind(size.level(), entry) != Kind::Leaf {
                return Err(Uneven::Missing(index));
            }
            // The right to write, where writes are watched, comes and goes with the dirty bit.
            let right = if entry.is_watched() { format.write_bit() } else { 0 };
            let plain = entry.without(apart).with(right);
            if index == 0 {
                union.first = plain;
            }
            if plain != union.first.advanced(index as u64 * size.pages()) {
                return Err(Uneven::Differs(index));
            }
            union.marks |= marks(format, entry);
        }
        Ok(union)
    }

    /// Returns the leaf of `size` that says what all of them say, with their accessed and dirty bits,
    /// and marked LATE.
    ///
    /// # Errors
    /// [`EncodeError`] if the processor has no leaves of this size, or the first frame is not aligned to
    /// it.
    pub(crate) fn leaf<F: Format>(self, format: &F, size: PageSize) -> Result<Entry, EncodeError> {
        let pfn = format.leaf_frame(self.size, self.first);
        let leaf = format.leaf(size, pfn, format.attr(self.size, self.first))?;
        let leaf = leaf.without(format.accessed_bit()).with(self.marks | Entry::LATE);
        Ok(like(format, self.first, leaf))
    }

    /// Returns the accessed and dirty bits that the leaves have by now, which nobody but the MMU was
    /// to change since they were taken together: one that was changed in another way counts as both.
    pub(crate) fn marks_now<F: Format>(
        self,
        format: &F,
        entries: impl Iterator<Item = Entry>,
    ) -> u64 {
        match Self::of(format, self.size, entries) {
            Ok(now) if now.first == self.first => now.marks,
            _ => format.accessed_bit() | format.dirty_bit(),
        }
    }
}
