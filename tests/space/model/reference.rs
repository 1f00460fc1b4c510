//! What a space should be: maps of pages.

use std::collections::{BTreeMap, BTreeSet};

use slat::Prot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Wiped when it comes.
    Demand,
    /// Fixed memory: what is written stays.
    Fixed,
    /// A private copy of fixed memory.
    Copy,
}

#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) pages: u64,
    pub(super) backing_pages: u64,
    pub(super) kind: Kind,
    pub(super) prot: Prot,
}

/// What a space should be.
#[derive(Debug, Default)]
pub(super) struct Reference {
    /// By the first page.
    pub(super) regions: BTreeMap<u64, Region>,
    /// What was written since a page became resident, where that goes with the page.
    pub(super) contents: BTreeMap<u64, u64>,
    /// What was written to fixed memory, by the page of the backing.
    pub(super) fixed: BTreeMap<u64, u64>,
    pub(super) resident: BTreeSet<u64>,
    /// While writes are tracked: what is to be reported.
    pub(super) dirty: Option<BTreeSet<u64>>,
}

impl Reference {
    pub(super) fn find(&self, page: u64) -> Option<(u64, &Region)> {
        let (&first, region) = self.regions.range(..=page).next_back()?;
        (page < first + region.pages).then_some((first, region))
    }

    pub(super) fn overlaps(&self, first: u64, pages: u64) -> bool {
        (first..first + pages).any(|page| self.find(page).is_some())
    }

    pub(super) fn exactly(&self, first: u64, pages: u64) -> bool {
        self.regions.get(&first).is_some_and(|region| region.pages == pages)
    }

    pub(super) fn read(&self, page: u64) -> u64 {
        let (first, region) = self.find(page).unwrap();
        let below = || self.fixed.get(&(page - first)).copied().unwrap_or(0);
        match region.kind {
            Kind::Fixed => below(),
            Kind::Demand => self.contents.get(&page).copied().unwrap_or(0),
            Kind::Copy => self.contents.get(&page).copied().unwrap_or_else(below),
        }
    }

    pub(super) fn write(&mut self, page: u64, word: u64) {
        let (first, region) = self.find(page).unwrap();
        match region.kind {
            Kind::Fixed => self.fixed.insert(page - first, word),
            _ => self.contents.insert(page, word),
        };
        self.mark(page);
    }

    pub(super) fn mark(&mut self, page: u64) {
        if let Some(dirty) = &mut self.dirty {
            dirty.insert(page);
        }
    }

    /// Takes out what is to be reported of a range: what is in no region waits for one.
    pub(super) fn take_due(&mut self, first: u64, pages: u64) -> Option<BTreeSet<u64>> {
        let dirty = self.dirty.take()?;
        let is_due =
            |page: &u64| (first..first + pages).contains(page) && self.find(*page).is_some();
        let (due, rest) = dirty.into_iter().partition(is_due);
        self.dirty = Some(rest);
        Some(due)
    }

    /// Takes pages away; returns how many were resident.
    pub(super) fn drop_pages(&mut self, first: u64, pages: u64) -> u64 {
        let mut gone = 0;
        for page in first..first + pages {
            self.contents.remove(&page);
            gone += u64::from(self.resident.remove(&page));
        }
        gone
    }
}
