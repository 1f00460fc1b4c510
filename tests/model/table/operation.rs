//! Operations, in the neighbourhoods where tables begin and end.

use slat::{Attr, GpaRange, PageSize, Prot};

use crate::common::{GIB, MIB, PAGE, Space, at};

/// How many places there are that something is near to.
pub(super) const NEIGHBOURHOODS: usize = 8;

/// Where tables begin and end, and the space does.
fn neighbourhoods(space: Space) -> [u64; NEIGHBOURHOODS] {
    [
        0,
        2 * MIB,
        GIB,
        512 * GIB,
        space.last_low_page(),
        space.upper,
        space.upper | 2 * GIB,
        space.last_page(),
    ]
}

/// One page: a neighbourhood, a place in it, and an offset in the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub(super) near: usize,
    pub(super) pages: i64,
    pub(super) offset: u64,
}

impl Spot {
    /// Returns the address; it may lie outside the space.
    pub(crate) fn address(self, space: Space) -> u64 {
        let base = neighbourhoods(space)[self.near];
        base.wrapping_add_signed(self.pages * PAGE as i64) | self.offset
    }
}

/// Some pages that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Area {
    /// So many from a spot on.
    Pages { spot: Spot, pages: u64 },
    /// Those of a few large leaves, counted from a neighbourhood.
    Leaves { near: usize, size: PageSize, first: i64, leaves: u64 },
}

impl Area {
    /// Returns the range, or `None` where it would go past 2^64.
    pub(crate) fn range(self, space: Space) -> Option<GpaRange> {
        let (start, pages) = match self {
            Self::Pages { spot, pages } => (at(spot.address(space)).page_base(), pages),
            Self::Leaves { near, size, first, leaves } => {
                let base = neighbourhoods(space)[near] / size.bytes() * size.bytes();
                let start = base.wrapping_add_signed(first * size.bytes() as i64);
                (at(start), leaves * size.pages())
            }
        };
        GpaRange::from_pages(start, pages).ok()
    }
}

/// A place among so many that are not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(pub(super) u32);

impl Share {
    fn of(self, count: u64) -> u64 {
        (u128::from(self.0) * u128::from(count) >> u32::BITS) as u64
    }
}

/// Some neighbours among the populated pages: a run of them, and where in it to begin and to end,
/// unless with the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(super) run: Share,
    pub(super) from: Option<Share>,
    pub(super) pages: Option<Share>,
}

impl Part {
    /// Returns the range, given the runs of populated pages as (first page number, count).
    pub(crate) fn range(self, runs: &[(u64, u64)]) -> Option<GpaRange> {
        let &(first, count) = runs.get(self.run.of(runs.len() as u64) as usize)?;
        let from = self.from.map_or(0, |from| from.of(count));
        let rest = count - from;
        let pages = self.pages.map_or(rest, |pages| pages.of(rest) + 1);
        GpaRange::from_pages(at((first + from) * PAGE), pages).ok()
    }
}

/// What a kept slot is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bit {
    SetAccessed,
    ClearAccessed,
    SetDirty,
    ClearDirty,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Populate(Area, PageSize),
    PopulateMapped(Area, PageSize, u64, Attr),
    Refine(Area, PageSize),
    RefinePart(Part, PageSize),
    Split(Spot, PageSize),
    SplitPart(Part, PageSize),
    SplitRange(Area, PageSize),
    Collapse(Spot, PageSize),
    CollapsePart(Part, PageSize),
    CollapseRange(Area, PageSize),
    Vacate(Area),
    VacatePart(Part),
    Map(Spot, u64, PageSize, Attr),
    SlotMap(Spot, u64, Attr),
    MapRange(Area, u64, Attr),
    MapMany(Vec<Spot>, u64, Attr),
    Unmap(Spot),
    UnmapRange(Area),
    UnmapMany(Vec<Spot>),
    Protect(Area, Prot),
    Watch(Area),
    Unwatch(Area),
    FixWrite(Spot),
    NoteDirty(Spot),
    Bits(Spot, Bit),
    Lookup(Spot),
    LookupMany(Vec<Spot>),
    Translate(Spot, u64, Prot),
    Mappings(Area),
}
