//! Levels of the tree, page sizes, and the geometry that both follow from.
//!
//! A table has 512 slots of 64 bits, indexed by nine bits of the address per level. Under a model
//! checker tables are narrow (four slots) so that the search ends; everything else in the crate
//! follows from [`INDEX_BITS`] and is the same source.

use core::fmt;

use crate::addr::{GpaRange, PAGE_BYTES, PAGE_SHIFT};

/// Address bits that index one table.
pub(crate) const INDEX_BITS: u32 = if cfg!(any(loom, shuttle)) { 2 } else { 9 };
/// Slots in a table.
pub const SLOTS: usize = 1 << INDEX_BITS;

/// A level of the tree, counted from the leaves: `L1` tables hold 4 KiB leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Leaf level: an entry spans 4 KiB (PTE).
    L1 = 1,
    /// An entry spans 2 MiB (PDE).
    L2,
    /// An entry spans 1 GiB (PDPTE).
    L3,
    /// An entry spans 512 GiB (PML4E).
    L4,
    /// An entry spans 256 TiB (PML5E).
    L5,
}

impl Level {
    /// All levels, from the leaves up.
    pub const ALL: [Self; 5] = [Self::L1, Self::L2, Self::L3, Self::L4, Self::L5];

    /// Returns the level below, or `None` at the leaf level.
    #[must_use]
    #[inline]
    pub const fn below(self) -> Option<Self> {
        // A table, not a match: every step of a walk comes by here.
        match self as usize {
            1 => None,
            level => Some(Self::ALL[level - 2]),
        }
    }

    /// Returns the level above, or `None` at the highest.
    #[must_use]
    #[inline]
    pub const fn above(self) -> Option<Self> {
        match self as usize {
            5 => None,
            level => Some(Self::ALL[level]),
        }
    }

    /// Returns the size of a leaf at this level, or `None` where no format has leaves.
    #[must_use]
    #[inline]
    pub const fn page_size(self) -> Option<PageSize> {
        match self {
            Self::L1 => Some(PageSize::Size4K),
            Self::L2 => Some(PageSize::Size2M),
            Self::L3 => Some(PageSize::Size1G),
            Self::L4 | Self::L5 => None,
        }
    }

    /// Returns how many 4 KiB pages one entry of this level spans, as a shift.
    #[inline]
    pub(crate) const fn span_shift(self) -> u32 {
        (self as u32 - 1) * INDEX_BITS
    }

    /// Returns how many 4 KiB pages one entry of this level spans.
    #[must_use]
    #[inline]
    pub const fn span_pages(self) -> u64 {
        1 << self.span_shift()
    }

    /// Returns the index in a table of this level for the page number `page`.
    #[inline]
    pub(crate) const fn index(self, page: u64) -> usize {
        (page >> self.span_shift()) as usize & (SLOTS - 1)
    }

    /// Returns how many tables of this level it takes to translate `range`.
    pub(crate) const fn tables(self, range: GpaRange) -> u64 {
        let shift = self.span_shift() + INDEX_BITS;
        ((range.end_page() - 1) >> shift) - (range.first_page() >> shift) + 1
    }

    /// Returns the pages that the table of this level translates that holds the slot for `page`.
    pub(crate) const fn table_span(self, page: u64) -> GpaRange {
        let pages = self.span_pages() << INDEX_BITS;
        let first = page & !(pages - 1);
        GpaRange::between(first, first + pages)
    }

    /// Returns the first page after the entry of this level that holds `page`.
    #[inline]
    pub(crate) const fn next_page(self, page: u64) -> u64 {
        (page | (self.span_pages() - 1)) + 1
    }
}

/// The size of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, a leaf at [`Level::L1`].
    Size4K,
    /// 2 MiB, a leaf at [`Level::L2`].
    Size2M,
    /// 1 GiB, a leaf at [`Level::L3`].
    Size1G,
}

impl PageSize {
    /// All sizes, from the smallest.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// Returns the level at which leaves of this size stand.
    #[must_use]
    #[inline]
    pub const fn level(self) -> Level {
        match self {
            Self::Size4K => Level::L1,
            Self::Size2M => Level::L2,
            Self::Size1G => Level::L3,
        }
    }

    /// Returns the next smaller size, or `None` if this is the smallest.
    #[must_use]
    #[inline]
    pub const fn smaller(self) -> Option<Self> {
        match self {
            Self::Size4K => None,
            Self::Size2M => Some(Self::Size4K),
            Self::Size1G => Some(Self::Size2M),
        }
    }

    /// Returns the size in 4 KiB pages.
    #[must_use]
    #[inline]
    pub const fn pages(self) -> u64 {
        self.level().span_pages()
    }

    /// Returns the size in bytes.
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.pages() * PAGE_BYTES
    }

    /// Tells whether a leaf of this size may begin with that page, or that frame.
    #[inline]
    pub(crate) const fn begins_at(self, number: u64) -> bool {
        // No remainder: that is a division, which costs as much as some ten other instructions.
        number & (self.pages() - 1) == 0
    }

    /// Returns the pages of the leaf of this size that translates the page number `page`.
    #[inline]
    pub(crate) const fn leaf_range(self, page: u64) -> GpaRange {
        let first = page & !(self.pages() - 1);
        GpaRange::between(first, first + self.pages())
    }
}

/// As `4K`, `2M` or `1G`.
impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4K",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

/// How many levels the tree has: the paging mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Levels {
    /// Two levels, with four slots a table: for model checkers only.
    #[cfg(any(loom, shuttle))]
    Two,
    /// Four levels: 48-bit input addresses.
    Four,
    /// Five levels: 57-bit input addresses.
    Five,
}

impl Levels {
    /// Returns the level of the root table.
    #[must_use]
    #[inline]
    pub const fn root(self) -> Level {
        match self {
            #[cfg(any(loom, shuttle))]
            Self::Two => Level::L2,
            Self::Four => Level::L4,
            Self::Five => Level::L5,
        }
    }

    /// Returns the number of levels.
    #[must_use]
    #[inline]
    pub const fn count(self) -> u32 {
        self.root() as u32
    }

    /// Returns the width of the input address in bits: 48 or 57.
    #[must_use]
    #[inline]
    pub const fn address_bits(self) -> u32 {
        self.page_bits() + PAGE_SHIFT
    }

    /// Returns how many tables populating `range` with 4 KiB pages takes at most, beside the root:
    /// fewer where it shares tables with a range that is populated already.
    ///
    /// To size a frame source for several ranges, add them up, and one for the root.
    ///
    /// ```
    /// use slat::{Gpa, GpaRange, Levels};
    ///
    /// let gibibyte = GpaRange::new(Gpa::new(0), 1 << 30)?;
    /// assert_eq!(Levels::Four.tables_for(gibibyte), 512 + 1 + 1);
    /// # Ok::<(), slat::RangeError>(())
    /// ```
    #[must_use]
    pub fn tables_for(self, range: GpaRange) -> u64 {
        let below_root = Level::ALL.into_iter().filter(|&level| level < self.root());
        below_root.map(|level| level.tables(range)).sum()
    }

    /// Returns the width of the input address in page-number bits.
    #[inline]
    pub(crate) const fn page_bits(self) -> u32 {
        self.count() * INDEX_BITS
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = {
    assert!(SLOTS == 512 && SLOTS * 8 == PAGE_BYTES as usize);
    assert!(PageSize::Size2M.bytes() == 2 << 20 && PageSize::Size1G.bytes() == 1 << 30);
    assert!(Levels::Four.address_bits() == 48 && Levels::Five.address_bits() == 57);
};
