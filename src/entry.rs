//! The value of one slot, and the software bits that every format shares.
//!
//! An [`Entry`] is a plain 64-bit value. What its hardware bits mean is the business of a
//! [`Format`](crate::format::Format); what the software bits mean is said here, once, for all
//! formats. The MMU ignores them: in a non-present entry it ignores every bit but the present
//! ones, and in a present one it ignores bits 52 to 56 in all three formats (Intel SDM vol. 3C,
//! 29.3.2, tables 29-1 to 29-6; AMD APM vol. 2, 5.3.3).
//!
//! | bit | not present | table | leaf |
//! | --- | --- | --- | --- |
//! | 12 to 51 | a claim's number | | |
//! | 52 | UNPOPULATED | | |
//! | 53 | CLAIMED | COLLAPSING | WATCHED |
//! | 54, 55 | | carry (accessed, dirty) | the caller's [`SoftBits`] |
//! | 56 | | | LATE |
//!
//! EMPTY is zero, so that a fresh page of memory is a table of EMPTY slots.

use core::fmt;

use crate::{
    addr::{HostPfn, PAGE_SHIFT},
    attr::SoftBits,
};

/// The value of a slot: what the MMU reads there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Entry(u64);

impl Entry {
    /// Not present, and populated: a leaf of this level's size may be mapped here.
    pub const EMPTY: Self = Self(0);
    /// Not present, and no memory here: a map must fail.
    pub const UNPOPULATED: Self = Self(1 << 52);

    /// In an entry that is not present: populated, but a structural change is being decided that would
    /// take the page away.
    pub(crate) const CLAIMED: u64 = 1 << 53;
    /// In a table entry: a collapse is going to replace the table by a leaf, unless somebody who changes
    /// what is below clears the mark first.
    pub(crate) const COLLAPSING: u64 = 1 << 53;
    /// In a claimed entry: the number of the claim, as far as it fits.
    const CLAIM_NUMBER: u64 = Self::ADDRESS;
    /// In a leaf: it allows writes, but each first one since it was cleaned has to be noted by a fault.
    pub(crate) const WATCHED: u64 = 1 << 53;
    /// In a table entry: accessed bits that a round of harvests has taken, and that the next one for
    /// accessed leaves, or for dirty ones, has still to follow.
    pub(crate) const CARRY_ACCESSED: u64 = 1 << 54;
    pub(crate) const CARRY_DIRTY: u64 = 1 << 55;
    pub(crate) const CARRY: u64 = Self::CARRY_ACCESSED | Self::CARRY_DIRTY;
    /// In a leaf: the caller's two bits, as a shift.
    const SOFT_SHIFT: u32 = 54;
    /// In a leaf: the bits that are the caller's.
    pub(crate) const SOFT: u64 = 0b11 << Self::SOFT_SHIFT;
    /// In a leaf: its accessed and dirty bits may still be joined by those of a collapsed table.
    pub(crate) const LATE: u64 = 1 << 56;

    /// The bits in which every format keeps the frame number; each format masks it further.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Returns the entry that marks a populated slot as claimed by the claim `number`: EMPTY to
    /// everybody but a mapper and the writer.
    ///
    /// Numbers that are 2^40 apart share a mark. A mapper compares the mark with the number of the
    /// open claim, and cannot sleep that long: it is pinned.
    pub(crate) const fn claimed(number: u64) -> Self {
        Self(Self::CLAIMED | ((number << PAGE_SHIFT) & Self::CLAIM_NUMBER))
    }

    /// Wraps a raw value.
    #[must_use]
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the raw value, as the MMU sees it.
    #[must_use]
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Tells whether any of `bits` is set.
    #[must_use]
    #[inline]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Returns the entry with `bits` set.
    #[must_use]
    #[inline]
    pub const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// Returns the entry with `bits` clear.
    #[must_use]
    #[inline]
    pub const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }

    /// Tells whether a claim has marked the slot.
    pub(crate) const fn is_claimed(self) -> bool {
        self.0 & !Self::CLAIM_NUMBER == Self::CLAIMED
    }

    /// Tells whether a leaf is watched: see [`format`](crate::format).
    #[inline]
    pub(crate) const fn is_watched(self) -> bool {
        self.has(Self::WATCHED)
    }

    /// Returns the leaf whose frame is `frames` frames further on.
    ///
    /// The caller has checked that the last frame still fits the format's frame field.
    #[inline]
    pub(crate) const fn advanced(self, frames: u64) -> Self {
        Self(self.0 + (frames << PAGE_SHIFT))
    }

    /// Returns the frame number in the address bits `mask`.
    #[inline]
    pub(crate) const fn frame_in(self, mask: u64) -> HostPfn {
        HostPfn::new((self.0 & mask) >> PAGE_SHIFT)
    }

    /// Returns the caller's bits of a leaf.
    #[inline]
    pub(crate) const fn soft(self) -> SoftBits {
        SoftBits::from_bits_truncate(((self.0 & Self::SOFT) >> Self::SOFT_SHIFT) as u8)
    }

    /// Returns the bits that encode `soft` in a leaf.
    #[inline]
    pub(crate) const fn soft_bits(soft: SoftBits) -> u64 {
        (soft.bits() as u64) << Self::SOFT_SHIFT
    }
}

const _: () = {
    let table = Entry::CARRY | Entry::COLLAPSING;
    let leaf = Entry::SOFT | Entry::LATE | Entry::WATCHED;
    let software = 0b1_1111 << 52;
    let absent = Entry::UNPOPULATED.0 | Entry::CLAIMED;
    assert!(Entry::SOFT & Entry::LATE == 0 && Entry::WATCHED & (Entry::SOFT | Entry::LATE) == 0);
    assert!((table | leaf | absent) & !software == 0);
    // So that one bit tells a claimed entry from all others that are not present.
    assert!(Entry::CLAIMED & (Entry::UNPOPULATED.0 | Entry::CLAIM_NUMBER) == 0);
    assert!(Entry::COLLAPSING & Entry::CARRY == 0);
    assert!(Entry::UNPOPULATED.0 & (table | leaf) == 0);
    assert!(Entry::ADDRESS & software == 0);
};

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EMPTY => f.write_str("Entry(EMPTY)"),
            Self::UNPOPULATED => f.write_str("Entry(UNPOPULATED)"),
            claimed if claimed.is_claimed() => {
                let number = (claimed.0 & Self::CLAIM_NUMBER) >> PAGE_SHIFT;
                write!(f, "Entry(CLAIMED {number})")
            }
            Self(raw) => write!(f, "Entry({raw:#018x})"),
        }
    }
}
