//! Long mode: ordinary x86-64 paging.
//!
//! A process can hand these to hardware: the guest's CR3, under KVM, points at tables that the host
//! process owns. Bits and rules: AMD APM vol. 2, chapter 5; Intel SDM vol. 3A, chapter 4.

use super::{
    AttrError, PhysWidth, sealed,
    x86::{self, Paging, Variant, paging_options},
};
use crate::{
    addr::{Gpa, PAGE_SHIFT},
    attr::LeafFlags,
    entry::Entry,
    level::Levels,
};

/// Ordinary x86-64 page tables, which have user pages and global pages.
///
/// The input address is a linear address and must be canonical: bits 63:47 (63:56 with five levels)
/// are all equal. Both halves are usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LongMode {
    pub(crate) paging: Paging,
}

impl LongMode {
    /// Describes long-mode paging with a paging mode and a physical address width; 1 GiB leaves, the
    /// PAT of a processor after reset, no memory encryption.
    #[must_use]
    pub const fn new(levels: Levels, width: PhysWidth) -> Self {
        Self { paging: Paging::new(levels, width) }
    }
}

paging_options!(LongMode);

impl sealed::Sealed for LongMode {}

impl Variant for LongMode {
    const NAME: &'static str = "long-mode";
    const LEAF_BITS: u64 = x86::GLOBAL;

    #[inline]
    fn paging(&self) -> &Paging {
        &self.paging
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

    fn encode(flags: LeafFlags) -> Result<u64, AttrError> {
        let foreign = flags.difference(LeafFlags::USER | LeafFlags::GLOBAL);
        if !foreign.is_empty() {
            return Err(AttrError::Flags(foreign));
        }
        let user = if flags.contains(LeafFlags::USER) { x86::USER } else { 0 };
        let global = if flags.contains(LeafFlags::GLOBAL) { x86::GLOBAL } else { 0 };
        Ok(user | global)
    }

    #[inline]
    fn decode(leaf: Entry) -> LeafFlags {
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::USER, leaf.has(x86::USER));
        flags.set(LeafFlags::GLOBAL, leaf.has(x86::GLOBAL));
        flags
    }
}
