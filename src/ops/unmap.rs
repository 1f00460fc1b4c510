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
    ops::cuts,
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
    pub(crate) fn unmap(self, gpa: Gpa) -> Result<Mapping, UnmapError> {
        if !self.format().admits(gpa) {
            return Err(UnmapError::OutOfRange { gpa });
        }
        self.unmap_at(self.top(gpa.page()), gpa)
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
                    Some(place) => self.unmap_at(place, gpa),
                    None => Err(UnmapError::OutOfRange { gpa }),
                };
                if let Ok(mapping) = &unmapped {
                    covered.add(mapping.range());
                }
                sink(gpa, unmapped);
            },
        );
    }

    /// Unmaps the leaf that translates `gpa`, at or below `place`.
    #[inline]
    fn unmap_at(self, place: Place<'p>, gpa: Gpa) -> Result<Mapping, UnmapError> {
        match self.update(place, gpa.page(), |_, _| Some(Entry::EMPTY)) {
            Some((size, leaf)) => Ok(self.format().mapping(gpa, size, leaf)),
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
        for (place, page) in self.runs(range).flat_map(|run| run.places()) {
            if !self.format().is_present(place.slot.load()) {
                continue;
            }
            // A leaf that would be cut was mapped meanwhile, and is missed like any other. To fail
            // now would lose the duty to flush what is unmapped already.
            let whole = |size, _| (!cuts(range, page, size)).then_some(Entry::EMPTY);
            if let Some((size, leaf)) = self.update(place, page, whole) {
                pages += size.pages();
                covered.add(size.leaf_range(page));
                sink(self.format().mapping(Gpa::of_page(page), size, leaf));
            }
        }
        Ok(pages)
    }
}
