//! Two accounts of the same pages: what the vCPUs did, and what the entries say. The audit compares.
//!
//! A page that is taken away and comes back begins anew, with zeroes, and clean. So both accounts are kept
//! by [`Stay`], from when a page was faulted in until it was taken away.

use std::collections::HashMap;

use slat::{GpaRange, Mapping};

use crate::{frame::Word, memory::Stay};

/// What was done to a page during one stay; there are some only if it was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deeds {
    pub(crate) stay: Stay,
    pub(crate) written: bool,
    /// The sum of what was added to the page's words, modulo 2^24.
    pub(crate) sum: u64,
}

/// What one vCPU did.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The latest stay of each page.
    latest: Vec<Option<Deeds>>,
    /// The stays before, with their pages.
    earlier: Vec<(usize, Deeds)>,
}

impl Log {
    pub(crate) fn new(pages: usize) -> Self {
        Self { latest: vec![None; pages], earlier: Vec::new() }
    }

    /// Returns the latest stay of a page that this vCPU knows of.
    pub(crate) fn latest(&self, page: usize) -> Option<Stay> {
        self.latest[page].map(|deeds| deeds.stay)
    }

    /// Returns the deeds of a stay, to be added to: the latest of its page, or one that begins.
    pub(crate) fn at(&mut self, page: usize, stay: Stay) -> &mut Deeds {
        let latest = &mut self.latest[page];
        if let Some(ended) = latest.take_if(|deeds| deeds.stay != stay) {
            self.earlier.push((page, ended));
        }
        latest.get_or_insert(Deeds { stay, written: false, sum: 0 })
    }

    /// Returns all deeds, with their pages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Deeds)> {
        let latest = self.latest.iter().enumerate();
        let latest = latest.filter_map(|(page, deeds)| deeds.map(|deeds| (page, deeds)));
        self.earlier.iter().copied().chain(latest)
    }
}

/// Returns what all vCPUs together did during each stay, with its page.
pub(crate) fn merge<'l>(logs: impl Iterator<Item = &'l Log>) -> HashMap<Stay, (usize, Deeds)> {
    let mut all: HashMap<_, (_, Deeds)> = HashMap::new();
    for (page, one) in logs.flat_map(Log::iter) {
        all.entry(one.stay)
            .and_modify(|(_, all)| {
                all.written |= one.written;
                all.sum = (all.sum + one.sum) & Word::SUM;
            })
            .or_insert((page, one));
    }
    all
}

/// What the MMUs said of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) accessed: bool,
    pub(crate) dirty: bool,
}

impl Bits {
    /// Returns what two entries say together, of a page that both were of.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self { accessed: self.accessed | other.accessed, dirty: self.dirty | other.dirty }
    }
}

impl From<Mapping> for Bits {
    fn from(mapping: Mapping) -> Self {
        Self { accessed: mapping.accessed, dirty: mapping.dirty }
    }
}

/// What the entry and the frames of a leaf showed in the end of one stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) leaf: GpaRange,
    pub(crate) stay: Stay,
    pub(crate) bits: Bits,
    pub(crate) sum: u64,
}

impl Life {
    /// Takes in what is to be said of other pages of the same stay.
    pub(crate) fn take_in(&mut self, other: Self) {
        debug_assert_eq!(self.stay, other.stay);
        self.leaf = self.leaf.hull(other.leaf);
        self.bits = self.bits.or(other.bits);
        self.sum = (self.sum + other.sum) & Word::SUM;
    }
}

#[cfg(test)]
mod tests;
