//! Watched leaves: dirty bits without an MMU that keeps them.
//!
//! A leaf with WATCHED allows writes, but the right to write is in its hardware bits only while it is
//! dirty. So the first write since it was cleaned faults, and who handles the fault makes it writable and
//! dirty at once; who cleans it takes the right away again, at once:
//!
//! | WATCHED | W | D | |
//! | --- | --- | --- | --- |
//! | clear | as the mapping | as the MMU, or software | not watched |
//! | set | clear | clear | clean: a write faults |
//! | set | set | set | dirty: writes go on unnoticed |
//! | set | clear | set | dirty, and a write faults all the same |
//! | set | set | clear | never: a write would be lost |
//!
//! The fourth state is the MMU's: a walk that began while the leaf was writable may set the dirty bit
//! after the right is gone.
//!
//! Where the MMU keeps no dirty bits this is the only source of them. EPT without accessed and dirty
//! flags ignores bits 8 and 9 (Intel SDM vol. 3C, tables 29-1 to 29-6), so they are software's there.
//! Where it does keep them, it sets the one of a leaf that is writable and therefore dirty already.

use super::Format;
use crate::entry::Entry;

/// A bit that is taken from leaves, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Take {
    bit: u64,
    /// What goes as well where writes are watched.
    right: u64,
}

impl Take {
    /// Takes accessed bits.
    pub(crate) fn accessed<F: Format>(format: &F) -> Self {
        Self { bit: format.accessed_bit(), right: 0 }
    }

    /// Takes dirty bits, so that the next write is noted: it faults, if the leaf is watched.
    #[inline]
    pub(crate) fn dirty<F: Format>(format: &F) -> Self {
        Self { bit: format.dirty_bit(), right: format.write_bit() }
    }

    /// Returns the bit.
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        self.bit
    }

    /// Tells whether it takes the same from every leaf, whatever else is in it.
    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.right == 0
    }

    /// Returns the leaf without the bit.
    #[inline]
    pub(crate) const fn from(self, leaf: Entry) -> Entry {
        leaf.without(self.bit | if leaf.is_watched() { self.right } else { 0 })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Take {
    /// Takes any bit, and the right `right` where writes are watched.
    pub(crate) const fn any(bit: u64, right: u64) -> Self {
        Self { bit, right }
    }
}

/// What becomes of a leaf. Each is the leaf itself if there is nothing to change.
impl Entry {
    /// Returns the leaf dirty; writable as well, if it is watched.
    #[inline]
    #[must_use]
    pub(crate) fn dirtied<F: Format>(self, format: &F) -> Self {
        let right = if self.is_watched() { format.write_bit() } else { 0 };
        self.with(format.dirty_bit() | right)
    }

    /// Returns the leaf clean; not writable any more, if it is watched, so that the next write faults.
    #[inline]
    #[must_use]
    pub(crate) fn cleaned<F: Format>(self, format: &F) -> Self {
        Take::dirty(format).from(self)
    }

    /// Returns the leaf watched, if it allows writes. A dirty one stays writable: it is going to be
    /// reported anyway, and who cleans it takes the right away.
    #[inline]
    #[must_use]
    pub(crate) fn watched<F: Format>(self, format: &F) -> Self {
        if self.is_watched() || !self.has(format.write_bit()) {
            return self;
        }
        let right = if self.has(format.dirty_bit()) { 0 } else { format.write_bit() };
        self.with(Self::WATCHED).without(right)
    }

    /// Returns the leaf as it is when nobody watches it: writable, if it is watched.
    #[inline]
    #[must_use]
    pub(crate) fn unwatched<F: Format>(self, format: &F) -> Self {
        if self.is_watched() { self.without(Self::WATCHED).with(format.write_bit()) } else { self }
    }

    /// Returns the leaf, which was given new rights, watched as `old` was; if it still allows writes.
    #[inline]
    pub(super) const fn watched_as(self, old: Self, write: u64) -> Self {
        if old.is_watched() && self.has(write) {
            // The right itself as it was: it comes and goes with the dirty bit.
            self.without(if old.has(write) { 0 } else { write }).with(Self::WATCHED)
        } else {
            self.without(Self::WATCHED)
        }
    }

    /// Tells whether a watched leaf is in the state that never is: writable, and not dirty.
    #[inline]
    pub(super) fn escapes<F: Format>(self, format: &F) -> bool {
        let either = Self::WATCHED | format.write_bit();
        self.raw() & (either | format.dirty_bit()) == either
    }
}
