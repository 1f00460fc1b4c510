//! Map: EMPTY becomes a leaf, by one compare-exchange.
//!
//! The walk finds the slot where the page's translation ends. If that is EMPTY and of the leaf's size,
//! a compare-exchange puts the leaf there; two mappers of one page race for that one exchange, and the
//! loser looks again and finds the winner's leaf: the same but for accessed and dirty, or another.
//! Nobody waits: an exchange is lost only to one that won.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    entry::Entry,
    format::{EncodeError, Format},
    level::PageSize,
    mapping::Mapping,
    ops::encode_run,
    table::Walker,
    walk::{Found, Place, Terminal},
};

/// What a successful map did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mapped {
    /// The page was not mapped, and is now, by this call.
    New,
    /// The same mapping was there already: same frame, size and attributes; accessed and dirty bits
    /// are not compared.
    Same,
}

/// Why a page was not mapped. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
    /// The page was never populated: there is no memory there.
    #[error("{gpa} is not populated")]
    NotPopulated {
        /// The address.
        gpa: Gpa,
    },
    /// Another mapping is in the way; unmap it first.
    #[error("{} is mapped to {} already", .0.gpa, .0.pfn)]
    Occupied(Mapping),
    /// The page was populated for leaves of another size.
    #[error("{gpa} was populated for leaves of {granule:?}")]
    WrongSize {
        /// The address.
        gpa: Gpa,
        /// The size of leaf that fits there.
        granule: PageSize,
    },
    /// The format cannot encode the leaf.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
}

/// What [`Pinned::map_range`](crate::Pinned::map_range) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MappedRange {
    /// Pages that were not mapped before.
    pub new: u64,
    /// Pages that had the same mapping already.
    pub same: u64,
}

/// Why a range was not mapped, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapRangeError {
    /// Some page of the range is not an input address of the table's format; nothing was mapped.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
    /// A page cannot be mapped. Unless another thread changed the range meanwhile, nothing was.
    #[error("stopped after {} new pages", .done.new)]
    Page {
        /// What was mapped before that page; it stays mapped.
        done: MappedRange,
        /// Why this page was not.
        source: MapError,
    },
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    #[inline]
    pub(crate) fn map(
        self,
        gpa: Gpa,
        pfn: HostPfn,
        size: PageSize,
        attr: Attr,
    ) -> Result<Mapped, MapError> {
        let leaf = self.format().leaf(size, pfn, attr)?;
        if !self.format().admits(gpa) {
            return Err(MapError::OutOfRange { gpa });
        }
        self.map_at(self.top(gpa.page()), gpa, size, leaf)
    }

    /// Maps many 4 KiB pages, in order; the walks overlap.
    pub(crate) fn map_many(
        self,
        pages: impl IntoIterator<Item = (Gpa, HostPfn)>,
        attr: Attr,
        mut sink: impl FnMut(Gpa, Result<Mapped, MapError>),
    ) {
        let size = PageSize::Size4K;
        self.batch(
            pages,
            |&(gpa, _)| gpa,
            |(gpa, pfn), place| {
                let mapped = match (self.format().leaf(size, pfn, attr), place) {
                    (Err(error), _) => Err(error.into()),
                    (Ok(_), None) => Err(MapError::OutOfRange { gpa }),
                    (Ok(leaf), Some(place)) => self.map_at(place, gpa, size, leaf),
                };
                sink(gpa, mapped);
            },
        );
    }

    /// Maps the page that holds `gpa`, whose translation ends at or below `place`.
    #[inline]
    pub(super) fn map_at(
        self,
        place: Place<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Mapped, MapError> {
        let mut at = self.resume(place, gpa.page());
        loop {
            match self.mappable(at, gpa, size, leaf)? {
                Mapped::Same => return Ok(Mapped::Same),
                // Linearizes here, if it wins.
                Mapped::New => match self.commit(at.place.slot, at.place.level, at.entry, leaf) {
                    Ok(()) => return Ok(Mapped::New),
                    Err(_) => at = self.resume(at.place, gpa.page()),
                },
            }
        }
    }

    /// Tells what mapping `leaf` where the walk of `gpa` ended would do.
    #[inline]
    fn mappable(
        self,
        at: Terminal<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Mapped, MapError> {
        match self.found(at.place.level, at.entry) {
            Found::Empty(granule) if granule == size => Ok(Mapped::New),
            Found::Empty(granule) => Err(MapError::WrongSize { gpa, granule }),
            Found::Unpopulated => Err(MapError::NotPopulated { gpa }),
            Found::Leaf(found) => {
                let format = self.format();
                let ignored = format.accessed_bit() | format.dirty_bit() | Entry::LATE;
                if found == size && at.entry.without(ignored) == leaf.without(ignored) {
                    Ok(Mapped::Same)
                } else {
                    Err(MapError::Occupied(format.mapping(gpa, found, at.entry)))
                }
            }
        }
    }

    /// Maps the pages of `range` to consecutive frames, 4 KiB each.
    pub(crate) fn map_range(
        self,
        range: GpaRange,
        first: HostPfn,
        attr: Attr,
    ) -> Result<MappedRange, MapRangeError> {
        let mut done = MappedRange::default();
        let fail = |done, source| MapRangeError::Page { done, source };
        if !self.format().admits_range(range) {
            return Err(MapRangeError::OutOfRange { range });
        }
        let leaf = encode_run(self.format(), first, range.pages(), attr)
            .map_err(|error| fail(done, error.into()))?;
        // Look first, so that what can be refused is refused before anything changes.
        self.each_page(range, leaf, |place, gpa, leaf| {
            let at = self.resume(place, gpa.page());
            self.mappable(at, gpa, PageSize::Size4K, leaf).map(drop)
        })
        .map_err(|source| fail(done, source))?;
        self.each_page(range, leaf, |place, gpa, leaf| {
            match self.map_at(place, gpa, PageSize::Size4K, leaf)? {
                Mapped::New => done.new += 1,
                Mapped::Same => done.same += 1,
            }
            Ok(())
        })
        .map_err(|source| fail(done, source))?;
        Ok(done)
    }

    /// Calls `visit` for every page of `range`, in order, with the leaf for it, until that fails.
    fn each_page(
        self,
        range: GpaRange,
        first: Entry,
        mut visit: impl FnMut(Place<'p>, Gpa, Entry) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let mut next = range.first_page();
        for run in self.runs(range) {
            // The cursor passes over what has no tables.
            if run.page() != next {
                break;
            }
            for (place, page) in run.places() {
                visit(place, Gpa::of_page(page), first.advanced(page - range.first_page()))?;
                next = page + 1;
            }
        }
        if next < range.end_page() {
            return Err(MapError::NotPopulated { gpa: Gpa::of_page(next) });
        }
        Ok(())
    }
}
