//! Which guest pages a workload uses, and the regions of guest memory that hold them.

use std::iter;

use slat::{Gpa, GpaRange, Levels, PAGE_BYTES, PageSize, RangeError};

/// Slots of a table, as a shift.
const INDEX_BITS: u32 = 9;

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
        let region = GpaRange::new(Gpa::new(0), bytes)?;
        let pages = (0..region.pages()).map(|page| Gpa::new(page * PAGE_BYTES)).collect();
        Ok(Self { pages, regions: vec![region] })
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

    /// Returns how many tables it takes to map the regions with 4 KiB pages: the root, and below it
    /// one for every span of a table in which there is a region.
    pub(crate) fn tables(&self, levels: Levels) -> u64 {
        let below_root = 1..levels.count();
        1 + below_root.map(|level| self.spans(level * INDEX_BITS)).sum::<u64>()
    }

    /// Returns how many aligned spans of `2^shift` pages the regions reach into.
    fn spans(&self, shift: u32) -> u64 {
        let span = |gpa: Gpa| gpa.get() / PAGE_BYTES >> shift;
        let before = iter::once(None).chain(self.regions.iter().map(|r| Some(span(r.last()))));
        iter::zip(&self.regions, before)
            .map(|(region, before)| {
                let shared = before == Some(span(region.start()));
                span(region.last()) - span(region.start()) + u64::from(!shared)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests;
