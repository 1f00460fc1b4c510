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
        Ok(Self { pages, regions: (0..count).map(region).collect::<Result<_, _>>()? })
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
        Ok(Self { pages, regions })
    }

    /// Returns the number of pages in use.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Returns the address of a page.
    pub(crate) fn gpa(&self, page: usize) -> Gpa {
        self.pages[page]
    }

    /// Returns the index of the page at `gpa`, if it is one that the workload uses.
    pub(crate) fn page_at(&self, gpa: Gpa) -> Option<usize> {
        self.pages.binary_search(&gpa).ok()
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
        (0..self.regions.len()).map(|region| self.pages_of(region).len()).max().unwrap_or(0)
    }
}

/// Returns how many tables it takes to map `regions`, which are disjoint, with 4 KiB pages: the root, and
/// below it one for every span of a table in which there is a region.
pub(crate) fn tables(mut regions: Vec<GpaRange>, levels: Levels) -> u64 {
    regions.sort_unstable_by_key(|region| region.start());
    let below_root = 1..levels.count();
    1 + below_root.map(|level| spans(&regions, level * INDEX_BITS)).sum::<u64>()
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
