//! Addresses: guest-physical addresses, host frame numbers, and ranges of whole pages.
//!
//! Everything that must hold of an address is checked here, once, when the value is made: a
//! [`GpaRange`] is never empty, always page-aligned and never wraps. Whether an address lies inside
//! the input space of a table depends on the table's format, and is checked there
//! ([`Format::admits`](crate::format::Format::admits)).

use core::fmt;

/// Bytes in a page and in a table, as a shift.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// Bytes in a page and in a table.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Number of pages in the whole of a 64-bit address space.
const ALL_PAGES: u64 = 1 << (64 - PAGE_SHIFT);

/// A guest-physical address in bytes: the input address of the translation, whatever the format.
///
/// For [`LongMode`](crate::LongMode) tables the input address is what the manuals call a linear
/// address, and must be canonical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(u64);

impl Gpa {
    /// Wraps a byte address; any value is a `Gpa`.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// Returns the byte address.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the first byte of the 4 KiB page that holds this address.
    #[must_use]
    pub const fn page_base(self) -> Self {
        Self(self.0 & !(PAGE_BYTES - 1))
    }

    /// Returns how many bytes into its 4 KiB page this address lies.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }

    /// Returns the address `bytes` bytes further on, or `None` if it has more than 64 bits.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    /// Returns the address's page number: 52 bits.
    pub(crate) const fn page(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }

    /// Returns the first byte of page `page`.
    pub(crate) const fn of_page(page: u64) -> Self {
        Self(page << PAGE_SHIFT)
    }
}

impl From<u64> for Gpa {
    fn from(address: u64) -> Self {
        Self(address)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpa({:#x})", self.0)
    }
}

/// A host page-frame number: a host-physical address divided by 4096.
///
/// Any value can be made; a table refuses those that its format cannot encode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HostPfn(u64);

impl HostPfn {
    /// Wraps a frame number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the frame number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the frame that holds the host-physical byte address `address`.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address >> PAGE_SHIFT)
    }

    /// Returns the host-physical address of the frame's first byte, or `None` if it has more than
    /// 64 bits.
    #[must_use]
    pub const fn address(self) -> Option<u64> {
        if self.0 < ALL_PAGES { Some(self.0 << PAGE_SHIFT) } else { None }
    }

    /// Returns the frame `count` frames further on, or `None` if there is no such number.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for HostPfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for HostPfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPfn({:#x})", self.0)
    }
}

/// Why a [`GpaRange`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The range has no pages.
    #[error("the range at {start} is empty")]
    Empty {
        /// Where it would have started.
        start: Gpa,
    },
    /// The start or the length is not a multiple of 4096.
    #[error("the range at {start} of {bytes:#x} bytes is not aligned to 4 KiB pages")]
    Unaligned {
        /// Where it would have started.
        start: Gpa,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The range would go on past 2^64.
    #[error("the range at {start} of {pages:#x} pages goes past 2^64")]
    Wraps {
        /// Where it would have started.
        start: Gpa,
        /// Its length in 4 KiB pages.
        pages: u64,
    },
}

/// A non-empty run of whole 4 KiB guest pages that does not wrap.
///
/// A range may end at exactly 2^64: the last page of the space belongs to the space.
///
/// ```
/// use slat::{Gpa, GpaRange, RangeError};
///
/// let range = GpaRange::new(Gpa::new(0x1000), 0x3000)?;
/// assert_eq!(range.pages(), 3);
/// assert_eq!(range.last(), Gpa::new(0x3fff));
/// assert!(matches!(GpaRange::new(Gpa::new(0x10), 0x1000), Err(RangeError::Unaligned { .. })));
/// # Ok::<(), RangeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GpaRange {
    /// Page number of the first page.
    first: u64,
    /// At least 1; `first + pages` is at most 2^52.
    pages: u64,
}

impl GpaRange {
    /// All pages that there are.
    pub(crate) const ALL: Self = Self { first: 0, pages: ALL_PAGES };

    /// Makes the range of `bytes` bytes that starts at `start`.
    ///
    /// # Errors
    /// [`RangeError`] if `bytes` is zero, if either is not a multiple of 4096, or if the range goes
    /// past 2^64.
    pub const fn new(start: Gpa, bytes: u64) -> Result<Self, RangeError> {
        if !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(RangeError::Unaligned { start, bytes });
        }
        Self::from_pages(start, bytes >> PAGE_SHIFT)
    }

    /// Makes the range of `pages` 4 KiB pages that starts at `start`.
    ///
    /// # Errors
    /// [`RangeError`] if `pages` is zero, if `start` is not a multiple of 4096, or if the range goes
    /// past 2^64.
    pub const fn from_pages(start: Gpa, pages: u64) -> Result<Self, RangeError> {
        if start.page_offset() != 0 {
            return Err(RangeError::Unaligned { start, bytes: pages.saturating_mul(PAGE_BYTES) });
        }
        if pages == 0 {
            return Err(RangeError::Empty { start });
        }
        if pages > ALL_PAGES - start.page() {
            return Err(RangeError::Wraps { start, pages });
        }
        Ok(Self { first: start.page(), pages })
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub const fn start(self) -> Gpa {
        Gpa::of_page(self.first)
    }

    /// Returns the address of the last byte (inclusive: the end of the space has no exclusive one).
    #[must_use]
    pub const fn last(self) -> Gpa {
        Gpa(Gpa::of_page(self.first + self.pages - 1).0 | (PAGE_BYTES - 1))
    }

    /// Returns the number of 4 KiB pages, at least 1.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// Tells whether `gpa` lies in the range.
    #[must_use]
    pub const fn contains(self, gpa: Gpa) -> bool {
        self.first <= gpa.page() && gpa.page() < self.end_page()
    }

    /// Tells whether every page of `other` is in the range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.contains(other.start()) && self.contains(other.last())
    }

    /// Tells whether the two ranges have a page in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.end_page() && other.first < self.end_page()
    }

    /// Returns the smallest range that holds both.
    #[must_use]
    pub const fn hull(self, other: Self) -> Self {
        let first = if self.first < other.first { self.first } else { other.first };
        let end =
            if self.end_page() > other.end_page() { self.end_page() } else { other.end_page() };
        Self { first, pages: end - first }
    }

    /// Returns the pages that the two ranges have in common, or `None` if there is none.
    pub(crate) fn overlap(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let end = self.end_page().min(other.end_page());
        (first < end).then(|| Self::between(first, end))
    }

    /// Returns the page number of the first page.
    pub(crate) const fn first_page(self) -> u64 {
        self.first
    }

    /// Returns the page number after the last page: at most 2^52.
    pub(crate) const fn end_page(self) -> u64 {
        self.first + self.pages
    }

    /// Makes the range of the pages `first..end`, which the caller knows to be one.
    pub(crate) const fn between(first: u64, end: u64) -> Self {
        debug_assert!(first < end && end <= ALL_PAGES);
        Self { first, pages: end - first }
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={:#x}", self.start(), self.last().0)
    }
}

impl fmt::Debug for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpaRange({self})")
    }
}

#[cfg(test)]
mod tests;
