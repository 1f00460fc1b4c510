//! What a round of harvests leaves in the entries of tables: docs/THEORY.md, "Rounds".
//!
//! The MMU sets the accessed bit in every entry that it walks through, so what hangs below an entry with
//! that bit clear was not touched since it was cleared; but for what an MMU touches by way of a
//! paging-structure cache, in which the entry still is. So who clears the bit leaves two carries, one for
//! each kind of harvest, which stand for it until such a cache is known to be gone.

use super::Format;
use crate::entry::Entry;

/// A kind of harvest, by the carry that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carry(u64);

impl Carry {
    pub(crate) const ACCESSED: Self = Self(Entry::CARRY_ACCESSED);
    pub(crate) const DIRTY: Self = Self(Entry::CARRY_DIRTY);

    /// Tells whether something that this kind of harvest looks for may be below a table entry.
    #[inline]
    pub(crate) fn leads_on<F: Format>(self, entry: Entry, format: &F) -> bool {
        entry.has(self.0 | format.accessed_bit())
    }

    /// Returns the entry without its own carry: everything below was visited, and no cache has the entry
    /// that had it before the round before.
    #[inline]
    pub(crate) fn dropped(self, entry: Entry) -> Entry {
        entry.without(self.0)
    }
}

impl Entry {
    /// Returns the entry of a table with its accessed bit taken, and carried.
    #[inline]
    #[must_use]
    pub(crate) fn carried<F: Format>(self, format: &F) -> Self {
        let accessed = format.accessed_bit();
        if self.has(accessed) { self.without(accessed).with(Self::CARRY) } else { self }
    }
}
