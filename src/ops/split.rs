//! Split: a large leaf becomes a table of equal leaves of the next smaller size.
//!
//! Under the writer lock. The table is filled in private, each leaf with the attributes, and the
//! accessed and dirty bits, of the large one, and published by one compare-exchange in the place of the
//! leaf. If the MMU set a bit in it meanwhile, or a mapper changed its rights, the exchange fails and the
//! table is filled again; if it was unmapped there is nothing to split any more. So translations go on
//! all the time, and no bit is lost.
//!
//! Nothing is to be invalidated. A translation that an MMU has cached of the large leaf says what the
//! small ones say; to set a dirty bit it walks, and finds the leaf of the page. Where a small leaf is
//! changed later, the [`Flush`](crate::Flush) of that change drops the large translation too, for it
//! covers the page (Intel SDM vol. 3A, 4.10.4.1). The new table's entry counts as accessed: the pages
//! below may be, by the large leaf that is cached.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{FrameSource, OutOfFrames},
    entry::Entry,
    format::{Format, Resize, divided},
    level::PageSize,
    observe::{Domain, InsideGuest, Kick, Structure},
    ops::{OutOfRange, admit},
    table::{CreateError, Need, Slot, Walker},
    walk::{Found, Terminal},
};

/// How many leaves [`PageTable::split_range`](crate::PageTable::split_range) splits, or tables it passes,
/// before it lets others have the writer lock.
const CHUNK: usize = 64;

/// Why a leaf was not split. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// Nothing is mapped there.
    #[error("{gpa} is not mapped")]
    NotMapped {
        /// The address.
        gpa: Gpa,
    },
    /// The processor has no leaves of that size, or of one on the way.
    #[error("leaves of {size:?} are not supported")]
    BadSize {
        /// The size.
        size: PageSize,
    },
    /// The frame source has too few frames.
    #[error("too few frames for tables")]
    OutOfFrames(#[from] OutOfFrames),
    /// The frame source gave a frame that does not fit the format's physical address width.
    #[error("the source's frame {pfn} does not fit a physical address width of {width} bits")]
    BadFrame {
        /// The frame.
        pfn: HostPfn,
        /// The width of the format, in bits.
        width: u8,
    },
    /// Only where the old size has to be broken first ([`Resize::BreakFirst`]):
    /// others changed the leaf again and again.
    #[error("the leaf is being changed")]
    Busy,
    /// Only where the old size has to be broken first: the caller's thread is inside an observer, for
    /// which the split would have to wait.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
}

/// Why not all leaves of a range were split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("split {leaves} leaves before {gpa}")]
pub struct SplitRangeError {
    /// How many leaves were split.
    pub leaves: u64,
    /// Up to where all leaves are small enough.
    pub gpa: Gpa,
    /// Why no more.
    pub source: SplitError,
}

impl From<CreateError> for SplitError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::OutOfFrames(error) => Self::OutOfFrames(error),
            CreateError::BadFrame { pfn, width } => Self::BadFrame { pfn, width },
        }
    }
}

impl From<OutOfRange> for SplitError {
    fn from(OutOfRange { gpa }: OutOfRange) -> Self {
        Self::OutOfRange { gpa }
    }
}

/// How far a leaf was split.
pub(super) enum Split {
    /// There is none, or it is small enough.
    Enough,
    /// By one size.
    Once,
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    /// Splits the leaf that translates `gpa` until it is of `size`.
    pub(crate) fn split(
        &self,
        gpa: Gpa,
        size: PageSize,
        kick: &impl Kick,
    ) -> Result<(), SplitError> {
        let format = self.tree().format();
        if !format.admits(gpa) {
            return Err(SplitError::OutOfRange { gpa });
        }
        match format.resize() {
            Resize::Live => while let Split::Once = self.lock().split_once(gpa.page(), size)? {},
            Resize::BreakFirst => {
                while let Split::Once = self.split_broken(gpa.page(), size, kick)? {}
            }
        }
        let structure = self.lock();
        let at = structure.walk().descend(gpa.page());
        match structure.walk().found(at.place.level, at.entry) {
            Found::Leaf(_) => Ok(()),
            _ => Err(SplitError::NotMapped { gpa }),
        }
    }

    /// Splits every leaf in `range` until it is of `size` or smaller.
    pub(crate) fn split_range(
        &self,
        range: GpaRange,
        size: PageSize,
        kick: &impl Kick,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, SplitRangeError> {
        let mut page = range.first_page();
        let mut leaves = 0;
        let stop =
            |leaves, page, source| SplitRangeError { leaves, gpa: Gpa::of_page(page), source };
        let format = self.tree().format();
        admit(format, range).map_err(|error| stop(0, page, error.into()))?;
        while page < range.end_page() {
            let split = match format.resize() {
                Resize::Live => self.split_chunk(range, &mut page, size, &mut leaves),
                Resize::BreakFirst => self.split_next(&mut page, size, &mut leaves, kick),
            };
            split.map_err(|source| stop(leaves, page, source))?;
            progress(page.min(range.end_page()) - range.first_page());
        }
        Ok(leaves)
    }

    /// Splits the leaves of a chunk, from `page` on, and moves it on.
    fn split_chunk(
        &self,
        range: GpaRange,
        page: &mut u64,
        size: PageSize,
        leaves: &mut u64,
    ) -> Result<(), SplitError> {
        let structure = self.lock();
        for _ in 0..CHUNK {
            match structure.split_once(*page, size)? {
                Split::Once => *leaves += 1,
                Split::Enough => *page = structure.walk().beyond(*page, size),
            }
            if *page >= range.end_page() {
                break;
            }
        }
        Ok(())
    }

    /// Splits the leaf that translates `page`, which has to be broken first, and moves on behind it: the
    /// lock is not held while it is shot down.
    fn split_next(
        &self,
        page: &mut u64,
        size: PageSize,
        leaves: &mut u64,
        kick: &impl Kick,
    ) -> Result<(), SplitError> {
        while let Split::Once = self.split_broken(*page, size, kick)? {
            *leaves += 1;
        }
        *page = self.lock().walk().beyond(*page, size);
        Ok(())
    }
}

impl<F: Format, S: FrameSource> Structure<'_, F, S> {
    /// Splits the leaf that translates `page` by one size, if it is larger than `size`.
    fn split_once(&self, page: u64, size: PageSize) -> Result<Split, SplitError> {
        let walker = self.walk();
        let format = walker.format();
        let Some(Larger { slot, large, below }) = self.larger(page, size)? else {
            return Ok(Split::Enough);
        };
        let mut need = Need::default();
        need.add(GpaRange::between(page, page + 1), below.level(), large.level());
        let mut supply = self.reserve(need, large.leaf_range(page).start())?;
        let mut child = supply.table(below.level());
        loop {
            let leaf = slot.load();
            if !matches!(walker.found(large.level(), leaf), Found::Leaf(_)) {
                supply.take_back(below.level(), child);
                return Ok(Split::Enough);
            }
            let first = divided(format, large, below, leaf);
            child.fill(|index| first.advanced(index as u64 * below.pages()));
            // Takes effect here. Lost to the MMU setting a bit, or to who changed or unmapped the leaf.
            match self.writer().link_over(slot, large.level(), leaf, child) {
                Ok(()) => {
                    // Rounds may have been over the leaf, which counted as accessed and dirty; these are.
                    if leaf.has(Entry::LATE) {
                        walker.mark_above(page);
                    }
                    return Ok(Split::Once);
                }
                Err(back) => child = back,
            }
        }
    }

    /// Returns the leaf that translates `page`, if it is larger than `size`, and can be split.
    pub(super) fn larger(
        &self,
        page: u64,
        size: PageSize,
    ) -> Result<Option<Larger<'_>>, SplitError> {
        let walker = self.walk();
        let Terminal { place, entry } = walker.descend(page);
        let large = place.level.page_size().filter(|&large| large > size);
        let (Some(large), Some(below)) = (large, large.and_then(PageSize::smaller)) else {
            return Ok(None);
        };
        if !matches!(walker.found(place.level, entry), Found::Leaf(_)) {
            return Ok(None);
        }
        if !walker.format().supports(below) {
            return Err(SplitError::BadSize { size: below });
        }
        Ok(Some(Larger { slot: place.slot, large, below }))
    }
}

/// A leaf that is too large.
pub(super) struct Larger<'p> {
    pub(super) slot: &'p Slot,
    pub(super) large: PageSize,
    /// The next smaller size.
    pub(super) below: PageSize,
}

impl<F: Format, S: FrameSource> Walker<'_, F, S> {
    /// Returns the first page after `page` that a leaf larger than `size` may translate, when none
    /// translates `page` itself.
    fn beyond(self, page: u64, size: PageSize) -> u64 {
        let level = self.descend(page).place.level;
        if level <= size.level() {
            level.table_span(page).end_page()
        } else {
            level.next_page(page)
        }
    }
}
