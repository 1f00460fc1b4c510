//! What the caches of an MMU may still hold: the duty to invalidate.
//!
//! Whoever takes a right away, by unmapping or by protecting, is told which guest pages some
//! translation cache may still translate as before. A [`Flush`] is that duty, as a value: it cannot be
//! overlooked (`#[must_use]`), knows its table, and merges with others of the same table.

use core::{fmt, ptr};

use crate::{addr::GpaRange, epoch::Epoch};

/// Which pages a change covered: a hull, so it may name pages that did not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered(Option<GpaRange>);

impl Covered {
    #[inline]
    pub(crate) fn add(&mut self, range: GpaRange) {
        self.0 = Some(self.0.map_or(range, |hull| hull.hull(range)));
    }
}

/// The duty to invalidate translations that were cached before a change took effect.
///
/// It covers leaves: cached translations of the pages in [`range`](Self::range) have to be
/// invalidated, on every processor that may have walked the table, before the frames behind them are
/// used for anything else. Paging-structure caches need no invalidation on its account.
///
/// What does it: for EPT, INVEPT, which knows no single pages (Intel SDM vol. 3C, 29.4.3); for nPT, a
/// flush of the ASID by the VMCB's TLB_CONTROL (AMD APM vol. 2, 15.16); for long mode, INVLPG.
///
/// It outlives the pin under which the change was made, since the pin must not be held while caches
/// are invalidated.
#[must_use = "translation caches still hold what was taken away: invalidate `range()` before the pages are reused"]
pub struct Flush<'t> {
    /// Identifies the table.
    table: &'t Epoch,
    covered: Covered,
}

/// Two flushes belong to different tables.
///
/// Carries back the one that was not merged.
#[derive(Debug, thiserror::Error)]
#[error("the flush belongs to another table")]
pub struct ForeignFlush<'t>(pub Flush<'t>);

impl<'t> Flush<'t> {
    pub(crate) fn new(table: &'t Epoch, covered: Covered) -> Self {
        Self { table, covered }
    }

    /// Returns the pages to invalidate: the hull of all that changed, or `None` if nothing needs
    /// invalidation.
    #[must_use]
    pub fn range(&self) -> Option<GpaRange> {
        self.covered.0
    }

    /// Tells whether nothing needs invalidation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.covered.0.is_none()
    }

    /// Takes over the duty of `other`.
    ///
    /// # Errors
    /// [`ForeignFlush`] if it belongs to another table; both are as they were.
    pub fn merge(&mut self, other: Flush<'t>) -> Result<(), ForeignFlush<'t>> {
        if !ptr::eq(self.table, other.table) {
            return Err(ForeignFlush(other));
        }
        if let Some(range) = other.covered.0 {
            self.covered.add(range);
        }
        Ok(())
    }
}

impl fmt::Debug for Flush<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flush").field(&self.covered.0).finish()
    }
}
