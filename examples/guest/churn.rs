//! The workload `churn`: vCPUs that settle in a region, while managers take regions away.
//!
//! A vCPU *visits* one region after the other: it picks a few pages there and uses them again and again,
//! so that its translation cache knows them. Once it has settled it says so, and a
//! [manager](crate::manager) comes and takes just that region away. Regions are where they are wanted,
//! so a shoot-down that is forgotten does not pass unnoticed.

use std::ops::Range;

use crate::{
    layout::Layout,
    manager::{Flushing, Turnover},
    progress::Length,
    workload::{Act, Numbers, Op, Part, Share, Workload, access},
};

/// Into how many regions memory is divided, if there are as many pages.
const REGIONS: u64 = 16;
/// Pages that a visit is to: as many as a TLB holds.
const WINDOW: usize = 32;
/// Places in a region that a visit may be to: few, so that vCPUs meet.
const SPOTS: usize = 4;
/// Accesses after which a vCPU has settled, and those of a whole visit.
const SETTLED: u32 = 8 * WINDOW as u32;
const VISIT: u32 = 32 * SETTLED;

/// Memory that comes and goes.
pub(crate) struct Churn {
    layout: Layout,
    seed: u64,
    turnover: Turnover,
}

impl Churn {
    /// Makes the workload for `bytes` of memory from which regions are taken `rounds` times.
    pub(crate) fn new(
        bytes: u64,
        seed: u64,
        rounds: u64,
        flushing: Flushing,
    ) -> Result<Self, slat::RangeError> {
        let layout = Layout::split(bytes, REGIONS)?;
        Ok(Self { layout, seed, turnover: Turnover { rounds, flushing } })
    }
}

impl Workload for Churn {
    fn name(&self) -> &str {
        "churn"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, _vcpus: usize) -> Length {
        Length::Rounds(self.turnover.rounds)
    }

    fn touches_all(&self) -> bool {
        false
    }

    fn turnover(&self) -> Option<Turnover> {
        Some(self.turnover)
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let numbers = Numbers::new(self.seed, part.number);
        Box::new(Visitor { layout: &self.layout, part, numbers, visit: None })
    }
}

/// One vCPU, going about.
struct Visitor<'s> {
    layout: &'s Layout,
    part: Part<'s>,
    numbers: Numbers,
    visit: Option<Visit>,
}

/// A vCPU's stay in one region.
struct Visit {
    region: usize,
    window: Range<usize>,
    done: u32,
}

impl Visitor<'_> {
    /// Goes to a region, whether it is there or not.
    fn arrive(&mut self) -> Visit {
        let region = self.numbers.next() as usize % self.layout.regions().len();
        let pages = self.layout.pages_of(region);
        let width = pages.len().min(WINDOW);
        let spot = self.numbers.next() as usize % SPOTS;
        let start = pages.start + (pages.len() - width) * spot / SPOTS;
        Visit { region, window: start..start + width, done: 0 }
    }

    fn depart(&mut self) {
        if let Some(Visit { region, done: SETTLED.., .. }) = self.visit.take() {
            self.part.stage.places[region].depart();
        }
    }
}

impl Share for Visitor<'_> {
    /// Goes on with the visit, or begins the next if the managers are still at work.
    fn next(&mut self) -> Option<Op> {
        if self.visit.as_ref().is_none_or(|visit| visit.done == VISIT) {
            self.depart();
            if !self.part.stage.managers.any() {
                return None;
            }
            self.visit = Some(self.arrive());
        }
        let visit = self.visit.as_mut()?;
        visit.done += 1;
        if visit.done == SETTLED {
            self.part.stage.places[visit.region].arrive();
        }
        let random = self.numbers.next();
        let page = visit.window.start + (random >> 1) as usize % visit.window.len();
        if visit.done % SETTLED == 0 {
            // Processors are taken from guests at any moment, also while they are in the guest; where
            // threads are many, and processors few, it happens here.
            return Some(Op { page, word: 0, act: Act::Pause });
        }
        Some(access(random, page, self.part.number))
    }

    fn absent(&mut self) {
        self.depart();
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        self.depart();
    }
}

#[cfg(test)]
mod tests;
