//! Rounds of clearing dirty bits, as a migration does; and whether each write was told of.
//!
//! What is written until the end of the shoot-down of round k belongs to round k. So whatever was written
//! between two of these is told of by the round, or by the next one; or by an unmap meanwhile.

use std::sync::atomic::Ordering;

use slat::{Format, Mapping};

use super::{
    granule::{PAGES, SIZE, World},
    hand::Told,
};

/// A write that no round told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    granule: usize,
    page: usize,
    written: u64,
    /// When the bit was found clear.
    missed: u64,
}

impl Pending {
    pub(super) fn is_told(&self, told: &Told) -> bool {
        let here = told.granule == self.granule
            && (told.first..told.first + told.pages).contains(&self.page);
        here && told.from < self.missed && self.written < told.until
    }
}

type Pages<T> = Vec<[T; PAGES]>;

pub(super) struct Rounds<'w, F: Format> {
    world: &'w World<F>,
    /// What the last round told of.
    told: Pages<bool>,
    /// When each page had been written last, at the end of the last round, and of the one before.
    written: Pages<u64>,
    ended: [u64; 2],
    pub(super) pending: Vec<Pending>,
    pub(super) count: u64,
}

impl<'w, F: Format> Rounds<'w, F> {
    pub(super) fn new(world: &'w World<F>) -> Self {
        let granules = world.granules.len();
        let (told, written) = (vec![[true; PAGES]; granules], vec![[0; PAGES]; granules]);
        Self { world, told, written, ended: [0; 2], pending: Vec::new(), count: 0 }
    }

    pub(super) fn round(&mut self) {
        let told = self.clear();
        let missed = self.world.now();
        for (granule, told) in told.iter().enumerate() {
            for (page, told) in told.iter().enumerate() {
                let written = self.written[granule][page];
                if written > self.ended[0] && !told && !self.told[granule][page] {
                    self.pending.push(Pending { granule, page, written, missed });
                }
            }
        }
        self.told = told;
        let duty = self.world.table.flush_all();
        self.world.wait(&mut duty.shootdown());
        self.ended = [self.ended[1], self.world.now()];
        for (granule, written) in self.world.granules.iter().zip(&mut self.written) {
            let now = granule.written.iter().map(|written| written.load(Ordering::Relaxed));
            written.iter_mut().zip(now).for_each(|(written, now)| *written = now);
        }
        self.count += 1;
    }

    /// Clears the dirty bits; returns of which pages they were set.
    fn clear(&self) -> Pages<bool> {
        let mut all = Vec::new();
        for granule in &self.world.granules {
            let mut told = [false; PAGES];
            let pin = self.world.table.pin();
            for page in 0..PAGES {
                let slot = pin.slot(granule.gpa(page)).unwrap();
                let before = slot.mapping();
                if !slot.clear_dirty() {
                    continue;
                }
                // Under a pin a large leaf may become small ones, but not the other way round.
                let is_large = |leaf: Option<Mapping>| leaf.is_some_and(|leaf| leaf.size == SIZE);
                if is_large(before) || is_large(slot.mapping()) {
                    told.fill(true);
                } else {
                    told[page] = true;
                }
            }
            all.push(told);
        }
        all
    }
}
