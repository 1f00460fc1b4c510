//! Which guest pages a workload uses, and the regions of guest memory that hold them.

use std::{iter, ops::Range};

use slat::{Gpa, GpaRange, Levels, PAGE_BYTES, PageSize, RangeError};

/// Slots of a table, as a shift.
pub(crate) const INDEX_BITS: u32 = 9;

/// The guest's memory. Workloads know its pages by their index, in ascending order of address.
#[derive(Debug)]
pub(crate) struct Layout {
    pages: Vec<Gpa>,
    /// Ascending and disjoint; every page lies in one of them.
    regions: Vec<GpaRange>,
    granule: PageSize,
    /// How many of the regions, the last, are decoys.
    decoys: usize,
}

impl Layout {
    /// Lays out `bytes` of memory from address 0 on, all of it in use.
    pub(crate) fn linear(bytes: u64) -> Result<Self, RangeError> {
        Self::split(bytes, 1)
    }

    /// Lays out the same as `count` regions of about the same size, or fewer if there are not so many
    /// pages. They begin where they begin, in the middle of a table mostly.
    pub(crate) fn split(bytes: u64, count: u64) -> Result<Self, RangeError> {
        let whole = GpaRange::new(Gpa::new(0), bytes)?;
        let count = count.clamp(1, whole.pages());
        let bound = |number| Gpa::new(whole.pages() * number / count * PAGE_BYTES);
        let region = |number| {
            let (start, end) = (bound(number), bound(number + 1));
            GpaRange::new(start, end.get() - start.get())
        };
        let pages = (0..whole.pages()).map(|page| Gpa::new(page * PAGE_BYTES)).collect();
        let regions = (0..count).map(region).collect::<Result<_, _>>()?;
        Ok(Self { pages, regions, granule: PageSize::Size4K, decoys: 0 })
    }

    /// Lays out memory around `pages`, which ascend: the 2 MiB that surround each of them, as one
    /// region where they adjoin.
    pub(crate) fn around(pages: Vec<Gpa>) -> Result<Self, RangeError> {
        let span = PageSize::Size2M.bytes();
        let mut regions: Vec<GpaRange> = Vec::new();
        for gpa in &pages {
            let start = Gpa::new(gpa.get() & !(span - 1));
            let here = GpaRange::new(start, span)?;
            match regions.last_mut() {
                Some(last) if last.contains(*gpa) => {}
                Some(last) if last.last().get() + 1 == start.get() => *last = last.hull(here),
                _ => regions.push(here),
            }
        }
        Ok(Self { pages, regions, granule: PageSize::Size4K, decoys: 0 })
    }

    /// Adds regions for small leaves that come and go: each is what one table maps, behind another entry of the
    /// root's, so that it takes a table of each level below when it comes, and gives them back when it goes.
    pub(crate) fn with_decoys(mut self, count: usize) -> Result<Self, RangeError> {
        let end = self.regions.last().map_or(0, |region| region.last().get());
        let apart = 1 << Self::ROOT_SHIFT;
        for number in 1..=count as u64 {
            let start = Gpa::new((end / apart + number) * apart);
            let region = GpaRange::new(start, PageSize::Size2M.bytes())?;
            let pages = 0..region.pages();
            self.pages.extend(pages.map(|page| Gpa::new(start.get() + page * PAGE_BYTES)));
            self.regions.push(region);
        }
        self.decoys += count;
        Ok(self)
    }

    /// What an entry of a root of 4 levels is for, as a shift.
    const ROOT_SHIFT: u32 = 39;

    /// Makes room for leaves of this size instead of 4 KiB: what a region cuts becomes wholly its own, and
    /// a region that is left with nothing goes.
    pub(crate) fn with_granule(self, granule: PageSize) -> Result<Self, RangeError> {
        let (bytes, mut end) = (granule.bytes(), 0);
        let mut regions = Vec::new();
        for region in self.regions {
            let start = (region.start().get() & !(bytes - 1)).max(end);
            // The last page of all has no end that 64 bits hold.
            let last = region.last().get() | (bytes - 1);
            if start <= last && (end > 0 || regions.is_empty()) {
                regions
                    .push(GpaRange::from_pages(Gpa::new(start), (last - start) / PAGE_BYTES + 1)?);
                end = last.wrapping_add(1);
            }
        }
        Ok(Self { regions, granule, ..self })
    }

    /// Returns the size of leaves that its regions have room for, but for decoys.
    pub(crate) fn granule(&self) -> PageSize {
        self.granule
    }

    /// Returns the size of leaves that a region has room for.
    pub(crate) fn leaves_of(&self, region: usize) -> PageSize {
        if self.decoy(region).is_some() { PageSize::Size4K } else { self.granule }
    }

    /// Returns how many of its regions are decoys.
    pub(crate) fn decoys(&self) -> usize {
        self.decoys
    }

    /// Returns which of the decoys a region is, if it is one.
    pub(crate) fn decoy(&self, region: usize) -> Option<usize> {
        region.checked_sub(self.regions.len() - self.decoys)
    }

    /// Returns how many pages are mapped when all that are in use are.
    pub(crate) fn mapped(&self) -> usize {
        let leaf = |page: &Gpa| page.get() / self.granule.bytes();
        let leaves = self.pages.chunk_by(|one, next| leaf(one) == leaf(next));
        leaves.count() * self.granule.pages() as usize
    }

    /// Tells whether some page of a range is in use.
    pub(crate) fn uses(&self, range: GpaRange) -> bool {
        let first = self.pages.partition_point(|&gpa| gpa < range.start());
        self.pages.get(first).is_some_and(|&gpa| range.contains(gpa))
    }

    /// Returns the number of pages in use.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Returns the address of a page.
    pub(crate) fn gpa(&self, page: usize) -> Gpa {
        self.pages[page]
    }

    /// Returns the regions to populate.
    pub(crate) fn regions(&self) -> &[GpaRange] {
        &self.regions
    }

    /// Returns which pages lie in a region.
    pub(crate) fn pages_of(&self, region: usize) -> Range<usize> {
        let region = self.regions[region];
        let first = self.pages.partition_point(|&gpa| gpa < region.start());
        first..self.pages.partition_point(|&gpa| gpa <= region.last())
    }

    /// Returns the region that a page lies in.
    pub(crate) fn region_of(&self, page: usize) -> usize {
        let gpa = self.pages[page];
        self.regions.partition_point(|region| region.last() < gpa)
    }

    /// Returns the number of pages of the largest region.
    pub(crate) fn largest(&self) -> usize {
        self.regions.iter().map(|region| region.pages() as usize).max().unwrap_or(0)
    }
}

/// Returns how many tables it takes to map regions, which are disjoint, each with leaves of its size: the
/// root, and below it one for every span of a table in which there is such a leaf.
pub(crate) fn tables(mut regions: Vec<(GpaRange, PageSize)>, levels: Levels) -> u64 {
    regions.sort_unstable_by_key(|(region, _)| region.start());
    let below_root = 1..levels.count();
    let tables = below_root.map(|level| {
        let reach = regions.iter().filter(|(_, size)| size.level() as u32 <= level);
        spans(&Vec::from_iter(reach.map(|&(region, _)| region)), level * INDEX_BITS)
    });
    1 + tables.sum::<u64>()
}

/// Returns how many aligned spans of `2^shift` pages the regions reach into.
fn spans(regions: &[GpaRange], shift: u32) -> u64 {
    let span = |gpa: Gpa| gpa.get() / PAGE_BYTES >> shift;
    let before = iter::once(None).chain(regions.iter().map(|r| Some(span(r.last()))));
    iter::zip(regions, before)
        .map(|(region, before)| {
            let shared = before == Some(span(region.start()));
            span(region.last()) - span(region.start()) + u64::from(!shared)
        })
        .sum()
}

#[cfg(test)]
mod tests;
