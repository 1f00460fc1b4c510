//! One mapping, as lookups and errors report it.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    attr::Attr,
    level::PageSize,
};

/// A leaf as it stood at one moment: where it maps, to which frame, and its accessed and dirty bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The first byte that the leaf maps; aligned to `size`.
    pub gpa: Gpa,
    /// The first host frame; aligned to `size`.
    pub pfn: HostPfn,
    /// The size of the leaf.
    pub size: PageSize,
    /// Rights, memory type, flags and software bits.
    pub attr: Attr,
    /// The accessed bit; also set while a collapse does not know yet what the MMU does through caches of
    /// the table that it replaced.
    pub accessed: bool,
    /// The dirty bit; likewise.
    pub dirty: bool,
}

impl Mapping {
    /// Returns the guest pages that the leaf maps.
    #[must_use]
    pub const fn range(&self) -> GpaRange {
        // Aligned also where a caller made the mapping up: so it cannot go past the last page.
        self.size.leaf_range(self.gpa.page())
    }

    /// Returns the host frame behind the 4 KiB page that holds `gpa`, or `None` if `gpa` is not
    /// mapped by this leaf.
    #[must_use]
    pub const fn frame_of(&self, gpa: Gpa) -> Option<HostPfn> {
        if self.range().contains(gpa) {
            self.pfn.checked_add(gpa.page() - self.range().first_page())
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
