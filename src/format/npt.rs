//! nPT: AMD's nested page tables.
//!
//! Bits and rules: AMD APM vol. 2, 15.25 "Nested Paging", and chapter 5 for the entries. A nested
//! walk is a user access, so `U` is set at every level (15.25.5); hardware always keeps accessed and
//! dirty bits.

use super::{
    AttrError, EncodeError, Format, Fresh, Pat, PhysWidth, check_frame, sealed,
    x86::{self, BadEncryptionBit, Paging},
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, LeafFlags, Prot},
    entry::Entry,
    level::{Levels, PageSize},
};

/// AMD's nested page tables.
///
/// ```
/// use slat::{Format, HostPfn, Levels, Npt, PhysWidth};
///
/// let npt = Npt::new(Levels::Four, PhysWidth::new(43)?).with_encryption_bit(47)?;
/// assert_eq!(npt.root_pointer(HostPfn::new(1)), (1 << 47) | 0x1000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Npt {
    paging: Paging,
}

impl Npt {
    /// Describes nested paging with the host's paging mode and a physical address width; 1 GiB
    /// leaves, the PAT of a processor after reset, no memory encryption.
    #[must_use]
    pub const fn new(levels: Levels, width: PhysWidth) -> Self {
        Self { paging: Paging::new(levels, width) }
    }

    /// Returns the same with another PAT layout.
    #[must_use]
    pub const fn with_pat(self, pat: Pat) -> Self {
        Self { paging: Paging { pat, ..self.paging } }
    }

    /// Returns the same for a processor that has no 1 GiB leaves.
    #[must_use]
    pub const fn without_1g_pages(self) -> Self {
        Self { paging: Paging { pages_1g: false, ..self.paging } }
    }

    /// Returns the same with another policy for fresh leaves.
    #[must_use]
    pub const fn with_fresh(self, fresh: Fresh) -> Self {
        Self { paging: Paging { fresh, ..self.paging } }
    }

    /// Returns the same with memory encryption: `bit` is set in every entry and in the root pointer
    /// (the C-bit; AMD APM vol. 2, 15.34), and the width given before is the reduced one.
    ///
    /// # Errors
    /// [`BadEncryptionBit`] if the bit lies inside the width or above bit 51.
    pub const fn with_encryption_bit(self, bit: u8) -> Result<Self, BadEncryptionBit> {
        match self.paging.with_encryption_bit(bit) {
            Ok(paging) => Ok(Self { paging }),
            Err(error) => Err(error),
        }
    }

    /// Returns the layout, for the software MMU.
    pub(crate) const fn paging(&self) -> &Paging {
        &self.paging
    }
}

impl sealed::Sealed for Npt {}

impl Format for Npt {
    fn name(&self) -> &'static str {
        "npt"
    }

    #[inline]
    fn levels(&self) -> Levels {
        self.paging.levels
    }

    fn phys_width(&self) -> PhysWidth {
        self.paging.width
    }

    fn supports(&self, size: PageSize) -> bool {
        self.paging.supports(size)
    }

    #[inline]
    fn admits(&self, gpa: Gpa) -> bool {
        gpa.page() >> self.paging.levels.page_bits() == 0
    }

    fn input_end(&self, _gpa: Gpa) -> u64 {
        1 << self.paging.levels.page_bits()
    }

    fn root_pointer(&self, root: HostPfn) -> u64 {
        self.paging.root_pointer(root)
    }

    #[inline]
    fn table(&self, pfn: HostPfn) -> Entry {
        self.paging.table(pfn)
    }

    fn leaf(&self, size: PageSize, pfn: HostPfn, attr: Attr) -> Result<Entry, EncodeError> {
        check_frame(self, size, pfn)?;
        if attr.flags() != LeafFlags::empty() {
            return Err(AttrError::Flags(attr.flags()).into());
        }
        Ok(self.paging.leaf(size, pfn, attr, x86::USER)?)
    }

    fn with_prot(&self, leaf: Entry, prot: Prot) -> Result<Entry, AttrError> {
        x86::with_prot(leaf, prot)
    }

    #[inline]
    fn is_present(&self, entry: Entry) -> bool {
        x86::is_present(entry)
    }

    #[inline]
    fn is_table(&self, entry: Entry) -> bool {
        x86::is_table(entry)
    }

    #[inline]
    fn table_frame(&self, entry: Entry) -> HostPfn {
        self.paging.table_frame(entry)
    }

    #[inline]
    fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn {
        self.paging.leaf_frame(size, leaf)
    }

    #[inline]
    fn attr(&self, size: PageSize, leaf: Entry) -> Attr {
        self.paging.attr(size, leaf)
    }

    #[inline]
    fn accessed_bit(&self) -> u64 {
        x86::ACCESSED
    }

    #[inline]
    fn dirty_bit(&self) -> u64 {
        x86::DIRTY
    }

    fn rights_bits(&self) -> u64 {
        x86::RIGHTS
    }

    fn table_bits(&self) -> u64 {
        self.paging.table_bits()
    }

    fn leaf_bits(&self, size: PageSize) -> u64 {
        self.paging.leaf_bits(size)
    }
}
