//! Why something was not done: one error for each operation.

use super::backing::BackingError;
use crate::{
    addr::{Gpa, GpaRange},
    attr::Prot,
    format::EncodeError,
    observe::InsideGuest,
    ops::{HarvestError, PopulateError, RefineError, SplitError, VacateError},
};

/// Why a region was not made. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapRegionError {
    /// A page of the range belongs to a region already.
    #[error("a region is there already: {region}")]
    Overlap {
        /// That region.
        region: GpaRange,
    },
    /// The offset is not a multiple of 4096.
    #[error("the offset {offset:#x} is not a multiple of the page size")]
    Misaligned {
        /// The offset, in bytes.
        offset: u64,
    },
    /// The backing has too few pages.
    #[error("the backing has {have} pages, and {needed} are needed")]
    BackingTooSmall {
        /// How many it has, in all.
        have: u64,
        /// How many it would have to have.
        needed: u64,
    },
    /// The format cannot encode leaves with these attributes.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
    /// There is no room for the region in the table.
    #[error(transparent)]
    Table(#[from] PopulateError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why a region was not taken away. Nothing has changed, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapRegionError {
    /// No region is just that range.
    #[error("no region is just {range}")]
    NotFound {
        /// The range.
        range: GpaRange,
    },
    /// A leaf reaches beyond the region, because somebody else collapsed it, and cannot be split.
    #[error("a leaf reaches beyond the region")]
    CutsLarge(#[source] SplitError),
    /// The region is gone, and nothing is mapped there; but somebody else changed the structure of the table, and
    /// it cannot be vacated.
    #[error("the region is gone, but not its tables")]
    Table(#[from] VacateError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why the rights of a region are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectRegionError {
    /// No region is just that range.
    #[error("no region is just {range}")]
    NotFound {
        /// The range.
        range: GpaRange,
    },
    /// The format cannot encode leaves with these rights.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
    /// A leaf reaches beyond the region, because somebody else collapsed it, and cannot be split.
    #[error("a leaf reaches beyond the region")]
    CutsLarge(#[source] SplitError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why a region has the backing that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceBackingError {
    /// No region is just that range.
    #[error("no region is just {range}")]
    NotFound {
        /// The range.
        range: GpaRange,
    },
    /// The offset is not a multiple of 4096.
    #[error("the offset {offset:#x} is not a multiple of the page size")]
    Misaligned {
        /// The offset, in bytes.
        offset: u64,
    },
    /// The backing has too few pages.
    #[error("the backing has {have} pages, and {needed} are needed")]
    BackingTooSmall {
        /// How many it has, in all.
        have: u64,
        /// How many it would have to have.
        needed: u64,
    },
    /// The format cannot encode leaves with the attributes that the new backing asks for.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
    /// A leaf reaches beyond the region, because somebody else collapsed it, and cannot be split.
    #[error("a leaf reaches beyond the region")]
    CutsLarge(#[source] SplitError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why a region has the size that it had. Nothing has changed, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeRegionError {
    /// No region is just that range.
    #[error("no region is just {range}")]
    NotFound {
        /// The range.
        range: GpaRange,
    },
    /// The new range does not begin where the region begins.
    #[error("the region begins at {start}")]
    OtherStart {
        /// Where it begins.
        start: Gpa,
    },
    /// A page of the new range belongs to another region.
    #[error("a region is there already: {region}")]
    Overlap {
        /// That region.
        region: GpaRange,
    },
    /// The backing has too few pages.
    #[error("the backing has {have} pages, and {needed} are needed")]
    BackingTooSmall {
        /// How many it has, in all.
        have: u64,
        /// How many it would have to have.
        needed: u64,
    },
    /// There is no room for the region in the table.
    #[error(transparent)]
    Populate(#[from] PopulateError),
    /// A leaf reaches beyond what is to go, and cannot be split.
    #[error("a leaf reaches beyond what is to go")]
    CutsLarge(#[source] SplitError),
    /// The room for a large leaf reaches beyond what is to go, and cannot be refined.
    #[error("the room for a large leaf reaches beyond what is to go")]
    CutsRoom(#[source] RefineError),
    /// The region is smaller, and nothing is mapped in what is gone; but somebody else changed the structure of the
    /// table, and it cannot be vacated.
    #[error("the region is smaller, but not its tables")]
    Vacate(#[from] VacateError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why pages were not given up. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscardError {
    /// A page of the range is in no region.
    #[error("{gpa} is in no region")]
    NoRegion {
        /// The first such page.
        gpa: Gpa,
    },
    /// A large leaf reaches beyond the range, and cannot be split.
    #[error("a leaf reaches beyond the range")]
    CutsLarge(#[source] SplitError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why writes are tracked, or not tracked, as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// The large leaves cannot all be split. Those that were stay split.
    #[error("the large leaves cannot be split")]
    Split(#[source] SplitError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why no dirty pages were reported. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// Writes are not tracked.
    #[error("writes are not tracked")]
    NotTracked,
    /// The bitmap does not cover the range, or the format does not translate it.
    #[error(transparent)]
    Harvest(#[from] HarvestError),
    /// The caller's thread is inside an observer.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why a fault was not resolved. The page is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// No region is there: emulate the access (MMIO), or report it to the guest.
    #[error("{gpa} is in no region")]
    NoRegion {
        /// The address.
        gpa: Gpa,
    },
    /// The region, or its backing, does not allow the access.
    #[error("{gpa} allows {have:?}")]
    Denied {
        /// The address.
        gpa: Gpa,
        /// What it allows.
        have: Prot,
    },
    /// The backing has no frame.
    #[error("the backing has no frame for {gpa}")]
    Backing {
        /// The address.
        gpa: Gpa,
        /// What it said.
        source: BackingError,
    },
    /// The backing gave a frame, or left rights, that the format cannot encode. A frame was released.
    #[error("the backing's frame for {gpa} does not fit")]
    Unencodable {
        /// The address.
        gpa: Gpa,
        /// Why not.
        source: EncodeError,
    },
    /// There is room for a large leaf only, and no frame for the table that would make it room for small ones.
    #[error("the room at {gpa} cannot be refined")]
    Refine {
        /// The address.
        gpa: Gpa,
        /// Why not.
        source: RefineError,
    },
    /// A large leaf is to give way for a smaller one, and cannot be split.
    #[error("the leaf at {gpa} cannot be split")]
    Split {
        /// The address.
        gpa: Gpa,
        /// Why not.
        source: SplitError,
    },
    /// There is no memory there, although a region is: somebody else vacated it.
    #[error("{gpa} is in a region, but not populated")]
    NotPopulated {
        /// The address.
        gpa: Gpa,
    },
    /// The caller's thread is inside an observer, for which it would have to wait.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
}

/// Why a range was not prefaulted to its end.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {done} pages")]
#[non_exhaustive]
pub struct PrefaultError {
    /// How many pages of the range were passed; what is mapped stays mapped.
    pub done: u64,
    /// Why it went no further.
    pub source: FaultError,
}
