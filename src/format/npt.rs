//! nPT: AMD's nested page tables.
//!
//! Bits and rules: AMD APM vol. 2, 15.25 "Nested Paging", and chapter 5 for the entries. A nested
//! walk is a user access, so `U` is set at every level (15.25.5); hardware always keeps accessed and
//! dirty bits.

use super::{
    AttrError, PhysWidth, sealed,
    x86::{self, Paging, Variant, paging_options},
};
use crate::{addr::Gpa, attr::LeafFlags, entry::Entry, level::Levels};

/// AMD's nested page tables.
///
/// ```
/// use slat::{Format, HostPfn, Levels, Npt, PhysWidth, Tracking};
///
/// let npt = Npt::new(Levels::Four, PhysWidth::new(43)?).with_encryption_bit(47)?;
/// assert_eq!(npt.root_pointer(HostPfn::new(1), Tracking::On), (1 << 47) | 0x1000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Npt {
    pub(crate) paging: Paging,
}

impl Npt {
    /// Describes nested paging with the host's paging mode and a physical address width; 1 GiB
    /// leaves, the PAT of a processor after reset, no memory encryption.
    #[must_use]
    pub const fn new(levels: Levels, width: PhysWidth) -> Self {
        Self { paging: Paging::new(levels, width) }
    }
}

paging_options!(Npt);

impl sealed::Sealed for Npt {}

impl Variant for Npt {
    const NAME: &'static str = "npt";
    const LEAF_BITS: u64 = 0;

    #[inline]
    fn paging(&self) -> &Paging {
        &self.paging
    }

    #[inline]
    fn admits(&self, gpa: Gpa) -> bool {
        gpa.page() >> self.paging.levels.page_bits() == 0
    }

    fn input_end(&self, _gpa: Gpa) -> u64 {
        1 << self.paging.levels.page_bits()
    }

    fn encode(flags: LeafFlags) -> Result<u64, AttrError> {
        // A nested walk is a user access.
        if flags.is_empty() { Ok(x86::USER) } else { Err(AttrError::Flags(flags)) }
    }

    #[inline]
    fn decode(_leaf: Entry) -> LeafFlags {
        LeafFlags::empty()
    }
}
