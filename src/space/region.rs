//! Regions, and the layout that they make: plain values, replaced as a whole.
//!
//! A [`Layout`] is what a pin sees, from its beginning to its end. Everything that a fault decides by is in
//! it: the regions, their rights, their backings, and whether writes are tracked. Who changes one of them
//! makes a new layout, and waits for the pins that may have seen the old one; so whatever faults did on
//! account of that is done, and can be looked for in the table.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use super::{
    backing::{Backing, Released},
    fetches::Fetches,
    holds::Holds,
};
use crate::{
    addr::{Gpa, GpaRange},
    attr::Attr,
    format::Tracking,
    level::PageSize,
    mapping::Mapping,
};

/// The regions of a space, in ascending order and without overlap, and whether writes are tracked.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) regions: Vec<Region>,
    pub(super) tracking: Tracking,
    /// A part in which nothing is mapped for a while: what is there is being taken away.
    pub(super) closed: Option<GpaRange>,
}

/// A range of guest memory that one backing fills.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) range: GpaRange,
    /// What was asked for.
    pub(super) asked: Attr,
    /// What the backing made of it.
    pub(super) attr: Attr,
    /// The page of the backing at the beginning of the range.
    pub(super) offset: u64,
    pub(super) ground: Arc<Ground>,
}

/// One backing in one region, for as long as it is there, and whoever still uses it afterwards.
pub(super) struct Ground {
    pub(super) backing: Arc<dyn Backing>,
    /// The pages that somebody is fetching.
    pub(super) fetches: Fetches,
    /// The frames that somebody holds.
    pub(super) holds: Holds,
}

impl Ground {
    pub(super) fn new(backing: Arc<dyn Backing>) -> Self {
        Self { backing, fetches: Fetches::default(), holds: Holds::default() }
    }

    /// Gives back what was unmapped and shot down: at once, or when nobody holds it any more.
    pub(super) fn release(&self, released: Released) {
        if let Some(released) = self.holds.put_off(released) {
            self.backing.release(released);
        }
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("backing", &self.backing).finish_non_exhaustive()
    }
}

impl Layout {
    /// Returns the index of the region that holds `gpa`; `last` is a guess.
    #[inline]
    pub(super) fn find(&self, gpa: Gpa, last: usize) -> Option<usize> {
        if self.regions.get(last).is_some_and(|region| region.range.contains(gpa)) {
            return Some(last);
        }
        let index = self.regions.partition_point(|region| region.range.last() < gpa);
        let region = self.regions.get(index)?;
        region.range.contains(gpa).then_some(index)
    }

    /// Returns the index of the region that is just `range`.
    pub(super) fn exactly(&self, range: GpaRange) -> Option<usize> {
        let index = self.find(range.start(), 0)?;
        (self.regions[index].range == range).then_some(index)
    }

    /// Returns the region that holds `gpa`, if that may be mapped now.
    pub(super) fn open_region_at(&self, gpa: Gpa) -> Option<&Region> {
        let index = self.find(gpa, 0).filter(|_| !self.is_closed(gpa))?;
        Some(&self.regions[index])
    }

    /// Returns the region of `ground` that holds `gpa`.
    pub(super) fn region_on(&self, ground: &Arc<Ground>, gpa: Gpa) -> Option<&Region> {
        let region = &self.regions[self.find(gpa, 0)?];
        Arc::ptr_eq(&region.ground, ground).then_some(region)
    }

    /// Tells whether the page of `gpa` is not to be mapped for a while.
    #[inline]
    pub(super) fn is_closed(&self, gpa: Gpa) -> bool {
        self.closed.is_some_and(|closed| closed.contains(gpa))
    }

    /// Returns a region that has a page in common with `range`.
    pub(super) fn overlapping(&self, range: GpaRange) -> Option<&Region> {
        self.within(range).first()
    }

    /// Returns the regions that have a page in common with `range`.
    pub(super) fn within(&self, range: GpaRange) -> &[Region] {
        let first = self.regions.partition_point(|region| region.range.last() < range.start());
        let count =
            self.regions[first..].partition_point(|region| region.range.start() <= range.last());
        &self.regions[first..first + count]
    }

    /// Puts a region in, which overlaps none.
    pub(super) fn with(mut self, region: Region) -> Self {
        let index =
            self.regions.partition_point(|other| other.range.start() < region.range.start());
        self.regions.insert(index, region);
        self
    }

    /// Closes a part, or opens what was closed.
    pub(super) fn closing(self, closed: Option<GpaRange>) -> Self {
        Self { closed, ..self }
    }

    /// Replaces the region at `index`, or takes it out.
    pub(super) fn changed(mut self, index: usize, region: Option<Region>) -> Self {
        match region {
            Some(region) => self.regions[index] = region,
            None => drop(self.regions.remove(index)),
        }
        self
    }
}

impl Region {
    /// Returns the page of the backing at a page of the guest's.
    #[inline]
    pub(super) fn backing_page(&self, page: u64) -> u64 {
        self.offset + (page - self.range.first_page())
    }

    /// Says how a leaf comes back that was unmapped.
    pub(super) fn released(&self, leaf: &Mapping) -> Released {
        Released::unmapped(self.backing_page(leaf.gpa.page()), leaf)
    }

    /// Returns the largest leaf around `gpa`, which is in the region, up to `most`, that lies in the region.
    #[inline]
    pub(super) fn leaf_within(&self, gpa: Gpa, most: PageSize) -> PageSize {
        let mut size = most;
        // A 4 KiB leaf does.
        while let Some(smaller) = size.smaller()
            && !self.range.covers(size.leaf_range(gpa.page()))
        {
            size = smaller;
        }
        size
    }
}
