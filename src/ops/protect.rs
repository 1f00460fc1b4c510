//! Protect: a leaf becomes the same leaf with other rights, by one compare-exchange.
//!
//! Frame, memory type, accessed and dirty bits stay, and whether writes are watched, while they are
//! allowed. A dirty bit that the MMU sets meanwhile makes the exchange fail, and the next attempt carries
//! it over.

use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    attr::Prot,
    entry::Entry,
    format::{AttrError, Format},
    observe::Covered,
    table::Walker,
};

/// Why the rights of a range were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// The format cannot encode these rights.
    #[error(transparent)]
    BadProt(#[from] AttrError),
    /// A large leaf lies partly outside the range.
    #[error("the range cuts the large leaf at {gpa}")]
    CutsLarge {
        /// The first address that the leaf maps.
        gpa: Gpa,
    },
    /// Some page of the range is not an input address of the table's format.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
}

impl<F: Format, S: FrameSource> Walker<'_, F, S> {
    /// Gives every leaf in `range` the rights `prot`; returns how many 4 KiB pages had others.
    pub(crate) fn protect(
        self,
        range: GpaRange,
        prot: Prot,
        covered: &mut Covered,
    ) -> Result<u64, ProtectError> {
        let format = self.format();
        // Whether rights can be encoded depends on the rights alone.
        format.with_prot(Entry::EMPTY, prot)?;
        if !format.admits_range(range) {
            return Err(ProtectError::OutOfRange { range });
        }
        if let Some(gpa) = self.cut_leaf(range) {
            return Err(ProtectError::CutsLarge { gpa });
        }
        let mut pages = 0;
        self.update_range(
            range,
            |_, leaf| format.with_prot(leaf, prot).ok().filter(|&next| next != leaf),
            |page, size, leaf| {
                pages += size.pages();
                if !prot.contains(format.attr(size, leaf).prot()) {
                    covered.add(size.leaf_range(page), leaf);
                }
            },
        );
        Ok(pages)
    }
}
