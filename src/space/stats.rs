//! Counters: a stripe of them for each vCPU, so that counting writes nothing shared.

use alloc::{sync::Arc, vec::Vec};

use crate::{
    observe::Stats,
    sync::{Counter, Mutex},
};

/// What one handle did. Written by its owner alone.
// On lines of its own: stripes lie beside each other in the heap.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Stripe {
    /// Pages.
    pub(super) mapped: Counter,
    /// Pages, which another may have mapped.
    pub(super) unmapped: Counter,
    pub(super) faults: Counter,
    pub(super) spurious: Counter,
    pub(super) lost: Counter,
    pub(super) retries: Counter,
    pub(super) fetches: Counter,
    pub(super) refused: Counter,
}

impl Stripe {
    /// Returns what was counted up to now: by all of its owners, one after the other.
    pub(super) fn look(&self) -> VcpuStats {
        VcpuStats {
            faults: self.faults.get(),
            mapped: self.mapped.get(),
            spurious: self.spurious.get(),
            lost: self.lost.get(),
            retries: self.retries.get(),
            fetches: self.fetches.get(),
            refused: self.refused.get(),
        }
    }
}

/// All stripes of a space. One that nobody owns any more keeps its counts, for the next owner to go on with.
#[derive(Debug, Default)]
pub(super) struct Stripes(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    all: Vec<Arc<Stripe>>,
    unowned: Vec<Arc<Stripe>>,
}

impl Stripes {
    /// Hands out a stripe that nobody else has.
    pub(super) fn take(&self) -> Arc<Stripe> {
        let mut list = self.0.lock();
        if let Some(stripe) = list.unowned.pop() {
            return stripe;
        }
        let stripe = Arc::new(Stripe::default());
        list.all.push(Arc::clone(&stripe));
        stripe
    }

    /// Takes one back from its owner.
    pub(super) fn give_back(&self, stripe: Arc<Stripe>) {
        self.0.lock().unowned.push(stripe);
    }

    /// Adds up one counter.
    pub(super) fn sum(&self, counter: impl Fn(&Stripe) -> &Counter) -> u64 {
        let list = self.0.lock();
        list.all.iter().fold(0, |sum, stripe| sum.wrapping_add(counter(stripe).get()))
    }

    /// Returns how many pages are mapped: exact while nobody maps or unmaps.
    pub(super) fn resident(&self) -> u64 {
        // What was unmapped was mapped before: in this order the difference is never negative.
        let unmapped = self.sum(|stripe| &stripe.unmapped);
        self.sum(|stripe| &stripe.mapped).saturating_sub(unmapped)
    }
}

/// How a [`Space`](crate::Space) stands, and what was done in it up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// How many regions there are.
    pub regions: u64,
    /// How many 4 KiB pages are in them.
    pub pages: u64,
    /// How many of those are mapped: exact while nobody maps or unmaps.
    pub resident: u64,
    /// How many frames somebody [holds](crate::Vcpu::hold) in regions that are there.
    pub held: u64,
    /// Calls of [`fault`](crate::Vcpu::fault) and its like, whatever came of them.
    pub faults: u64,
    /// Those of them that found the page mapped and allowing the access.
    pub spurious: u64,
    /// Those that gave a frame back, because another mapped the page first.
    pub lost: u64,
    /// Those that were to be tried again.
    pub retries: u64,
    /// Those that fetched a page.
    pub fetches: u64,
    /// Those that failed: no region, no right, or no frame.
    pub refused: u64,
    /// The table's own.
    pub table: Stats,
}

/// What was done through one [`Vcpu`](crate::Vcpu) since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuStats {
    /// Calls of [`fault`](crate::Vcpu::fault) and its like, whatever came of them.
    pub faults: u64,
    /// How many 4 KiB pages they mapped.
    pub mapped: u64,
    /// Those of them that found the page mapped and allowing the access.
    pub spurious: u64,
    /// Those that gave a frame back, because another mapped the page first. They are spurious, too, once they
    /// have looked again.
    pub lost: u64,
    /// Those that were to be tried again.
    pub retries: u64,
    /// Those that fetched a page.
    pub fetches: u64,
    /// Those that failed: no region, no right, or no frame.
    pub refused: u64,
}

impl VcpuStats {
    /// Returns what was counted after `before`.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            faults: self.faults.wrapping_sub(before.faults),
            mapped: self.mapped.wrapping_sub(before.mapped),
            spurious: self.spurious.wrapping_sub(before.spurious),
            lost: self.lost.wrapping_sub(before.lost),
            retries: self.retries.wrapping_sub(before.retries),
            fetches: self.fetches.wrapping_sub(before.fetches),
            refused: self.refused.wrapping_sub(before.refused),
        }
    }
}
