//! Unmap: a leaf becomes EMPTY, by one compare-exchange.
//!
//! The exchange returns the leaf as it stood at that moment, so the accessed and dirty bits that the
//! MMU set up to then are in the answer: none can be set afterwards, since the MMU sets them only in
//! present entries. Of two threads that unmap one page, one wins the exchange and gets the mapping.

use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    entry::Entry,
    format::Format,
    mapping::Mapping,
    observe::Covered,
    table::Walker,
    walk::Place,
};

/// Why a page was not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// Nothing is mapped there.
    #[error("{gpa} is not mapped")]
    NotMapped {
        /// The address.
        gpa: Gpa,
    },
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
}

/// Why a range was not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapRangeError {
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

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    #[inline]
    pub(crate) fn unmap(self, gpa: Gpa, covered: &mut Covered) -> Result<Mapping, UnmapError> {
        if !self.format().admits(gpa) {
            return Err(UnmapError::OutOfRange { gpa });
        }
        self.unmap_at(self.top(gpa.page()), gpa, covered)
    }

    /// Unmaps many pages, in order; the walks overlap.
    pub(crate) fn unmap_many(
        self,
        pages: impl IntoIterator<Item = Gpa>,
        covered: &mut Covered,
        mut sink: impl FnMut(Gpa, Result<Mapping, UnmapError>),
    ) {
        self.batch(
            pages,
            |&gpa| gpa,
            |gpa, place| {
                let unmapped = match place {
                    Some(place) => self.unmap_at(place, gpa, covered),
                    None => Err(UnmapError::OutOfRange { gpa }),
                };
                sink(gpa, unmapped);
            },
        );
    }

    /// Unmaps the leaf that translates `gpa`, at or below `place`.
    #[inline]
    fn unmap_at(
        self,
        place: Place<'p>,
        gpa: Gpa,
        covered: &mut Covered,
    ) -> Result<Mapping, UnmapError> {
        match self.update(place, gpa.page(), |_, _| Some(Entry::EMPTY)) {
            Some((size, leaf)) => {
                covered.add(size.leaf_range(gpa.page()), leaf);
                Ok(self.format().mapping(gpa, size, leaf))
            }
            None => Err(UnmapError::NotMapped { gpa }),
        }
    }

    /// Unmaps every leaf in `range`; returns how many 4 KiB pages they mapped.
    pub(crate) fn unmap_range(
        self,
        range: GpaRange,
        covered: &mut Covered,
        mut sink: impl FnMut(Mapping),
    ) -> Result<u64, UnmapRangeError> {
        if !self.format().admits_range(range) {
            return Err(UnmapRangeError::OutOfRange { range });
        }
        if let Some(gpa) = self.cut_leaf(range) {
            return Err(UnmapRangeError::CutsLarge { gpa });
        }
        let mut pages = 0;
        self.update_range(
            range,
            |_, _| Some(Entry::EMPTY),
            |page, size, leaf| {
                pages += size.pages();
                covered.add(size.leaf_range(page), leaf);
                sink(self.format().mapping(Gpa::of_page(page), size, leaf));
            },
        );
        Ok(pages)
    }
}
