//! Long mode: ordinary x86-64 paging.
//!
//! A process can hand these to hardware: the guest's CR3, under KVM, points at tables that the host
//! process owns. Bits and rules: AMD APM vol. 2, chapter 5; Intel SDM vol. 3A, chapter 4.

use super::{
    AttrError, EncodeError, Format, Fresh, Pat, PhysWidth, check_frame, sealed,
    x86::{self, BadEncryptionBit, Paging},
};
use crate::{
    addr::{Gpa, HostPfn, PAGE_SHIFT},
    attr::{Attr, LeafFlags, Prot},
    entry::Entry,
    level::{Levels, PageSize},
};

/// Ordinary x86-64 page tables, which have user pages and global pages.
///
/// The input address is a linear address and must be canonical: bits 63:47 (63:56 with five levels)
/// are all equal. Both halves are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LongMode {
    paging: Paging,
}

impl LongMode {
    /// Describes long-mode paging with a paging mode and a physical address width; 1 GiB leaves, the
    /// PAT of a processor after reset, no memory encryption.
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

impl sealed::Sealed for LongMode {}

impl Format for LongMode {
    fn name(&self) -> &'static str {
        "long-mode"
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
        // Canonical: everything from the top index bit upwards is that bit's sign.
        let sign_and_above =
            gpa.get().cast_signed() >> (self.paging.levels.page_bits() + PAGE_SHIFT - 1);
        sign_and_above == 0 || sign_and_above == -1
    }

    fn input_end(&self, gpa: Gpa) -> u64 {
        // Half of the input space, at the bottom or at the top of the 64-bit one.
        if gpa.get() >> 63 == 0 {
            1 << (self.paging.levels.page_bits() - 1)
        } else {
            1 << (64 - PAGE_SHIFT)
        }
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
        let foreign = attr.flags().difference(LeafFlags::USER | LeafFlags::GLOBAL);
        if !foreign.is_empty() {
            return Err(AttrError::Flags(foreign).into());
        }
        let user = if attr.flags().contains(LeafFlags::USER) { x86::USER } else { 0 };
        let global = if attr.flags().contains(LeafFlags::GLOBAL) { x86::GLOBAL } else { 0 };
        Ok(self.paging.leaf(size, pfn, attr, user | global)?)
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
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::USER, leaf.has(x86::USER));
        flags.set(LeafFlags::GLOBAL, leaf.has(x86::GLOBAL));
        self.paging.attr(size, leaf).with_flags(flags)
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
        self.paging.leaf_bits(size) | x86::GLOBAL
    }
}
