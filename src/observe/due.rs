//! What an observer has to invalidate, and since when.

use core::{fmt, ops::Deref};

use super::log::CELLS;
use crate::addr::GpaRange;

/// A moment in the life of a table, by which observers know that they are behind: it grows with
/// whatever translation caches have to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The first one. Smaller numbers say other things in a [`Record`](super::record::Record).
    pub(super) const FIRST: Self = Self(2);

    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which kind of cached entry went stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Translations of pages.
    Leaves,
    /// Translations of pages, and the entries of paging-structure caches on the way to them: a table
    /// was unlinked.
    Structure,
}

/// Pages of which cached translations are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Stale {
    /// The pages.
    pub range: GpaRange,
    /// What is stale of them.
    pub scope: Scope,
}

impl Stale {
    pub(crate) const fn new(range: GpaRange, scope: Scope) -> Self {
        Self { range, scope }
    }

    /// Returns what covers both.
    #[inline]
    pub(super) fn hull(self, other: Self) -> Self {
        Self { range: self.range.hull(other.range), scope: self.scope.max(other.scope) }
    }

    /// Tells whether to invalidate this invalidates all of `other`.
    pub(super) fn covers(self, other: Self) -> bool {
        self.range.hull(other.range) == self.range && self.scope >= other.scope
    }
}

/// A few stale ranges, in the order in which they became so; it derefs to a slice of them.
#[derive(Clone, Copy)]
pub struct Ranges {
    /// The first `count` count.
    stale: [Stale; CELLS],
    count: usize,
}

impl Ranges {
    /// Collects as many as there can be; `None` if there is none, or more.
    pub(super) fn collect(stale: impl Iterator<Item = Stale>) -> Option<Self> {
        let mut stale = stale;
        let first = stale.next()?;
        let mut ranges = Self { stale: [first; CELLS], count: 1 };
        for next in stale {
            *ranges.stale.get_mut(ranges.count)? = next;
            ranges.count += 1;
        }
        Some(ranges)
    }
}

impl Deref for Ranges {
    type Target = [Stale];

    fn deref(&self) -> &[Stale] {
        &self.stale[..self.count]
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Ranges {}

/// What an observer has to invalidate in its translation cache before it walks the table (again).
///
/// An MMU that knows no ranges invalidates everything for anything but [`None`](Self::None): EPT by
/// INVEPT (Intel SDM vol. 3C, 29.4.3), nPT by a flush of the ASID (AMD APM vol. 2, 15.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    None,
    /// These pages.
    Ranges(Ranges),
    /// Everything.
    All,
}
