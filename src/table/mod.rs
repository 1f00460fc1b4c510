//! Tables and slots: the memory that the MMU walks, and the only orderings on it; in [`tree`], the
//! tree that they form and who may reach it.
//!
//! A [`Table`] is one page of 512 slots. It is only ever reached by shared reference, since the MMU
//! may write to it at any time: accessed bits in present entries of every level, dirty bits in
//! present leaves. A [`Slot`] is one of its words. It is touched in four ways:
//!
//! - [`Slot::load`], by walkers, and the wide loads of [`scan`], by who looks for bits;
//! - [`Slot::publish`], a compare-exchange, by everything that changes a slot others can reach. A
//!   plain store would lose an accessed or dirty bit that the MMU sets meanwhile;
//! - [`Slot::take`], which clears such a bit in a leaf table and says whether it was set;
//! - [`Table::fill`], [`Table::zero`] and [`Table::plant`], plain stores, by whoever owns the table
//!   alone.
//!
//! The edges named here have a row each in docs/ORDERING.md.

#![expect(
    unsafe_code,
    reason = "prefetch is a raw-pointer intrinsic; planting entries is the caller's risk"
)]

mod claim;
mod scan;
mod tree;

use core::array;

pub use self::tree::CreateError;
pub(crate) use self::{
    claim::{Shape, Verdict},
    scan::{hits, take_hits},
    tree::{Claim, Dead, Need, NewTable, Next, Supply, Tree, Walker, Writer},
};
use crate::{
    entry::Entry,
    format::Take,
    level::SLOTS,
    sync::{AtomicU64, Ordering, Witness},
};

/// One table: 512 slots of 64 bits, in a frame of its own that the MMU walks.
///
/// A [`FrameSource`](crate::FrameSource) makes them out of zeroed, page-aligned memory; all zero is
/// a table of EMPTY slots.
#[derive(Debug)]
#[cfg_attr(not(any(loom, shuttle)), repr(C, align(4096)))]
pub struct Table {
    slots: [Slot; SLOTS],
    initialised: Witness,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = {
    assert!(size_of::<Table>() == 4096 && align_of::<Table>() == 4096);
    assert!(size_of::<Slot>() == 8);
};

impl Table {
    /// Makes a table of EMPTY slots.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: array::from_fn(|_| Slot(AtomicU64::new(0))), initialised: Witness::new() }
    }

    /// Sets every slot to EMPTY. The table must not be linked anywhere: meant for frame sources that
    /// clean what they got back.
    pub fn zero(&self) {
        self.fill(|_| Entry::EMPTY);
    }

    /// Returns the entry at `index`, or `None` beyond the last slot.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry> {
        self.slots.get(index).map(Slot::load)
    }

    /// Writes an entry with a plain store, as a test of an MMU would. An index beyond the last slot
    /// is ignored.
    ///
    /// # Safety
    /// No [`PageTable`](crate::PageTable) owns the table, and the entry, if some walker takes it for
    /// a table's, names a frame that it may walk.
    pub unsafe fn plant(&self, index: usize, entry: Entry) {
        if let Some(slot) = self.slots.get(index) {
            slot.init(entry);
        }
    }

    /// Sets every slot of a table that the caller alone can reach.
    pub(crate) fn fill(&self, mut entry: impl FnMut(usize) -> Entry) {
        self.initialised.write();
        for (index, slot) in self.slots.iter().enumerate() {
            slot.init(entry(index));
        }
    }

    /// Asks for all its cache lines, ahead of a look at every slot.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.slots.iter().step_by(scan::LINE).for_each(Slot::prefetch);
    }

    /// Returns the slot at `index`.
    #[inline]
    pub(crate) fn slot(&self, index: usize) -> &Slot {
        self.initialised.read();
        &self.slots[index]
    }

    /// Returns the slots `first..end`.
    #[inline]
    pub(crate) fn slots(&self, first: usize, end: usize) -> &[Slot] {
        self.initialised.read();
        &self.slots[first..end]
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// A commit lost: the slot held something else by then, and the caller has to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Race;

/// One word of a table.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Slot(AtomicU64);

impl Slot {
    /// Reads the slot.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn load(&self) -> Entry {
        // Acquire: the words of the child, or of the page, come before what the caller does with
        //   its frame number; pairs with `publish` [edge: child-init, page-init].
        Entry::from_raw(self.0.load(Ordering::Acquire))
    }

    /// Writes a slot that nobody else can reach yet.
    #[inline]
    fn init(&self, entry: Entry) {
        // Relaxed: the table is published later, as a whole [edge: child-init].
        self.0.store(entry.raw(), Ordering::Relaxed);
    }

    /// Replaces `seen` by `next`, if `seen` still stands.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn publish(&self, seen: Entry, next: Entry) -> Result<(), Race> {
        // Release on success: the words of the child, or of the page, come before its frame number;
        //   pairs with `load` [edge: child-init, page-init].
        // Acquire on success: who takes a mapping out sees what its mapper wrote to the page. The
        //   `load` of `seen` is not enough: the page may have been unmapped, written and mapped again
        //   since, and the entry be the same; pairs with itself [edge: page-return].
        // Relaxed on failure: the caller looks again with a `load`.
        self.0
            .compare_exchange(seen.raw(), next.raw(), Ordering::AcqRel, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Race)
    }

    /// Takes an accessed or dirty bit from a slot of a leaf table; returns the entry as it was.
    ///
    /// Only a present leaf has such a bit: in all other entries of a leaf table nothing changes, not even the
    /// mark of a claim. Above, the slot may have become a table's, whose accessed bit is not for the taking.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    fn take(&self, take: Take) -> Entry {
        // Relaxed, here and below: none of these bits publishes anything, and an exchange goes on with the
        //   release sequence of the map. Who reads or shoots down pages on account of what was taken does
        //   it behind the fence of `Hub::after_change` [pair: change-enter].
        if take.is_plain() {
            return Entry::from_raw(self.0.fetch_and(!take.bit(), Ordering::Relaxed));
        }
        // A compare-exchange, since what goes depends on whether the leaf is watched, and others change
        //   that meanwhile: a right that stayed would let writes through unnoticed, and one that went from
        //   a leaf that is not watched would be lost.
        let mut seen = Entry::from_raw(self.0.load(Ordering::Relaxed));
        while seen.has(take.bit()) {
            let next = take.from(seen).raw();
            match self.0.compare_exchange(seen.raw(), next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                // Lost to the MMU setting a bit, or to another change.
                Err(now) => seen = Entry::from_raw(now),
            }
        }
        seen
    }

    /// Asks for the slot's cache line, ahead of a `load`.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *self).cast()) };
        }
    }
}
