//! Map: EMPTY becomes a leaf, by one compare-exchange.
//!
//! The walk finds the slot where the page's translation ends. If that is EMPTY and of the leaf's size,
//! a compare-exchange puts the leaf there; two mappers of one page race for that one exchange, and the
//! loser looks again and finds the winner's leaf: the same but for accessed and dirty, or another.
//! Nobody waits: an exchange is lost only to one that won.
//!
//! Against [vacate](super::vacate) it is a race for more than one word. Behind its exchange a mapper
//! looks at the tree's claim word, once. Mostly nothing was claimed since its walk began, and the leaf
//! stands. Otherwise:
//!
//! - *The claim is undecided*: the mapper breaks it, and the leaf stands.
//! - *It was committed*: the leaf is in a table that nobody will come to any more. If it is still there
//!   the mapper takes it out again, by compare-exchange, so that no bit is lost that the MMU sets
//!   meanwhile (through a paging-structure cache it may still come there), and says
//!   [`Vacated`](MapError::Vacated). If the leaf is gone, an unmap has taken it out and reported it: so
//!   the page was mapped, and unmapped, before the commit, and the answer is [`New`](Mapped::New). Or
//!   another late map of the same frame has taken it for its own, which an unmap has taken out.
//! - *The slot bears a claim's mark* (in a table that lives on): the mapper breaks that claim and maps
//!   through the mark, or finds it committed: there is no memory here any more.
//!
//! An answer that rests on another's leaf, `Same` or `Occupied`, is looked at in the same way: the leaf
//! may be one that its mapper is about to take out.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    entry::Entry,
    format::{EncodeError, Format},
    level::PageSize,
    mapping::Mapping,
    ops::{cut_by, encode_run},
    table::{Next, Verdict, Walker},
    walk::{Found, Place, Terminal},
};

#[cfg(all(test, loom))]
mod model;

/// What a successful map did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mapped {
    /// The page was not mapped, and is now, by this call.
    New,
    /// The same mapping was there already: same frame, size and attributes; accessed and dirty bits, and
    /// whether writes are watched, are not compared.
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
    /// The range was vacated before the mapping took hold. The page is not mapped; but for a moment it
    /// was, where a paging-structure cache that is not yet invalidated could come to it.
    ///
    /// So the frame may have been read, or written; it must not be used for anything else before a
    /// shoot-down that begins now is complete ([`PageTable::flush_all`](crate::PageTable::flush_all)).
    #[error("{gpa} was vacated meanwhile")]
    Vacated {
        /// The address.
        gpa: Gpa,
        /// The accessed bit that the MMU left.
        accessed: bool,
        /// The dirty bit that the MMU left.
        dirty: bool,
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

/// What a mapper found.
enum Room<'p> {
    /// Room for the leaf, here.
    At(Terminal<'p>),
    /// The leaf itself.
    Taken,
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
        mut place: Place<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Mapped, MapError> {
        loop {
            let Room::At(at) = self.room(place, gpa, size, leaf)? else { return Ok(Mapped::Same) };
            // Linearizes here, if it wins and `keep` finds that it stands.
            if self.commit(at.place.slot, at.place.level, at.entry, leaf).is_ok() {
                return self.keep(at.place, gpa, size, leaf);
            }
            // Lost to another mapper, to a claim, or to the end of one.
            place = self.top(gpa.page());
        }
    }

    /// Maps the page whose walk has just come to `at`, without looking there again if there is room.
    #[inline]
    pub(super) fn map_seen(
        self,
        at: Terminal<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Mapped, MapError> {
        let Terminal { place, entry } = at;
        let has_room = self.found(place.level, entry) == Found::Empty(size);
        // As in `map_at`.
        if has_room
            && !self.is_lost(place, gpa.page())
            && self.commit(place.slot, place.level, entry, leaf).is_ok()
        {
            return self.keep(place, gpa, size, leaf);
        }
        self.map_at(self.refresh(place, gpa.page()), gpa, size, leaf)
    }

    /// Finds the slot that a leaf can be put in. What it says of another's leaf holds in the tree.
    #[inline]
    fn room(
        self,
        mut place: Place<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Room<'p>, MapError> {
        let page = gpa.page();
        loop {
            let at = self.resume(place, page);
            if self.is_lost(at.place, page) {
                return Err(MapError::NotPopulated { gpa });
            }
            match self.found(at.place.level, at.entry) {
                Found::Empty(granule) | Found::Claimed(granule) if granule != size => {
                    return Err(MapError::WrongSize { gpa, granule });
                }
                Found::Empty(_) => return Ok(Room::At(at)),
                Found::Unpopulated => return Err(MapError::NotPopulated { gpa }),
                Found::Claimed(_) => match self.claims().break_mark(at.entry) {
                    Verdict::Stands => return Ok(Room::At(at)),
                    Verdict::Committed => return Err(MapError::NotPopulated { gpa }),
                },
                Found::Leaf(found) => {
                    if self.settle(at.place, page) == Verdict::Stands {
                        return self.compare(gpa, found, at.entry, size, leaf);
                    }
                }
            }
            place = self.top(page);
        }
    }

    /// Compares the leaf that is there with the one that should be.
    fn compare(
        self,
        gpa: Gpa,
        found: PageSize,
        there: Entry,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Room<'p>, MapError> {
        let format = self.format();
        let ignored = format.accessed_bit() | format.dirty_bit() | Entry::LATE;
        // What it allows, whether or not its writes are watched.
        let plain = there.unwatched(format);
        if found == size && plain.without(ignored) == leaf.without(ignored) {
            Ok(Room::Taken)
        } else {
            Err(MapError::Occupied(format.mapping(gpa, found, there)))
        }
    }

    /// Finds out whether the leaf that was just put in `place` stands, and takes it out if not.
    #[inline]
    pub(super) fn keep(
        self,
        place: Place<'p>,
        gpa: Gpa,
        size: PageSize,
        leaf: Entry,
    ) -> Result<Mapped, MapError> {
        if self.settle(place, gpa.page()) == Verdict::Stands {
            return Ok(Mapped::New);
        }
        match self.withdraw(place, size, leaf) {
            Some(old) => {
                let Mapping { accessed, dirty, .. } = self.format().mapping(gpa, size, old);
                Err(MapError::Vacated { gpa, accessed, dirty })
            }
            // Who took it out has reported it: it was mapped. (Or has taken it for its own, which is
            // gone: of equal leaves as many are new as were unmapped.)
            None => Ok(Mapped::New),
        }
    }

    /// Takes the leaf out of a table that nobody can come to any more; returns it with its final bits, or
    /// `None` if another took it out.
    ///
    /// Not by one exchange whatever is there: the slot may hold another late mapper's leaf by now, which
    /// is that one's to take out. Lock-free: an exchange is lost only to one that won, or to the MMU
    /// setting a bit.
    #[cold]
    fn withdraw(self, place: Place<'p>, size: PageSize, leaf: Entry) -> Option<Entry> {
        let format = self.format();
        loop {
            let seen = place.slot.load();
            let mine = self.found(place.level, seen) == Found::Leaf(size)
                && format.leaf_frame(size, seen) == format.leaf_frame(size, leaf);
            if !mine {
                return None;
            }
            if self.commit(place.slot, place.level, seen, Entry::EMPTY).is_ok() {
                return Some(seen);
            }
        }
    }

    /// Maps the pages of `range` to consecutive frames, by leaves of the size that fits each slot.
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
        let small = encode_run(self.format(), PageSize::Size4K, first, range.pages(), attr)
            .map_err(|error| fail(done, error.into()))?;
        let leaves = Leaves { range, first, attr, small };
        // Look first, so that what can be refused is refused before anything changes.
        self.each_leaf(leaves, |place, gpa, size, leaf| {
            self.room(place, gpa, size, leaf).map(drop)
        })
        .map_err(|source| fail(done, source))?;
        self.each_leaf(leaves, |place, gpa, size, leaf| {
            match self.map_at(place, gpa, size, leaf)? {
                Mapped::New => done.new += size.pages(),
                Mapped::Same => done.same += size.pages(),
            }
            Ok(())
        })
        .map_err(|source| fail(done, source))?;
        Ok(done)
    }

    /// Calls `visit` for every slot in which the walks of the pages end, in order, with the leaf for it,
    /// until that fails.
    fn each_leaf(
        self,
        leaves: Leaves,
        mut visit: impl FnMut(Place<'p>, Gpa, PageSize, Entry) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let range = leaves.range;
        let mut next = range.first_page();
        let mut runs = self.runs(range);
        while let Some(run) = runs.next() {
            // The cursor passes over what has no tables.
            if run.page() != next {
                break;
            }
            for (place, page) in run.places() {
                let gpa = Gpa::of_page(page);
                let Some(size) = place.level.page_size() else {
                    return Err(MapError::NotPopulated { gpa });
                };
                let visited = match leaves.leaf(self.format(), page, size) {
                    Ok(leaf) => visit(place, gpa, size, leaf),
                    // What is in the way comes before what would not fit.
                    Err(misfit) => match visit(place, gpa, PageSize::Size4K, leaves.small) {
                        Err(MapError::WrongSize { .. }) => Err(misfit),
                        other => other,
                    },
                };
                match visited {
                    // The slot was refined, or split, meanwhile.
                    Err(_) if matches!(self.step(place.slot, place.level), Next::Down(..)) => {
                        runs.enter(place, page);
                    }
                    visited => {
                        visited?;
                        next = size.leaf_range(page).end_page();
                    }
                }
            }
        }
        if next < range.end_page() {
            return Err(MapError::NotPopulated { gpa: Gpa::of_page(next) });
        }
        Ok(())
    }
}

/// The leaves that map a range to consecutive frames.
#[derive(Clone, Copy)]
struct Leaves {
    range: GpaRange,
    /// The frame of the first page.
    first: HostPfn,
    attr: Attr,
    /// The leaf of the first page, if it is 4 KiB; those of the other pages can be encoded then, too.
    small: Entry,
}

impl Leaves {
    /// Returns the leaf of `size` for the page, which is the first of the range in it.
    #[inline]
    fn leaf<F: Format>(self, format: &F, page: u64, size: PageSize) -> Result<Entry, MapError> {
        let offset = page - self.range.first_page();
        if size == PageSize::Size4K {
            return Ok(self.small.advanced(offset));
        }
        if cut_by(self.range, page, size).is_some() {
            return Err(MapError::WrongSize { gpa: Gpa::of_page(page), granule: size });
        }
        Ok(format.leaf(size, HostPfn::new(self.first.get() + offset), self.attr)?)
    }
}
