//! The workloads `churn`, `migrate` and `resize`: vCPUs that settle in a region, while managers take regions
//! away, or move their pages to other frames, or split their large leaves and make them again.
//!
//! A vCPU *visits* one region after the other: it picks a few pages there and uses them again and again,
//! so that its translation cache knows them. Once it has settled it says so, and a
//! [manager](crate::manager) comes and changes just that region. Regions are where they are wanted, so a
//! vCPU that does not do what a shoot-down asks of it does not pass unnoticed.

use std::ops::Range;

use slat::{PageSize, RangeError};

use crate::{
    layout::Layout,
    manager::{Change, Turnover},
    progress::Length,
    workload::{Act, Numbers, Op, Part, Share, Workload, access},
};

/// Into how many regions memory is divided, if there are as many pages.
const REGIONS: u64 = 16;
/// How many more regions `resize` has, for small leaves.
const DECOYS: usize = 8;
/// Pages that a visit is to: as many as a TLB holds.
const WINDOW: usize = 32;
/// Places in a region that a visit may be to: few, so that vCPUs meet.
const SPOTS: usize = 4;
/// Accesses after which a vCPU has settled, and those of a whole visit.
const SETTLED: u32 = 8 * WINDOW as u32;
const VISIT: u32 = 64 * SETTLED;

/// Visits to memory that comes and goes, or moves, or is mapped by leaves of another size.
pub(crate) struct Visits {
    layout: Layout,
    seed: u64,
    turnover: Turnover,
}

impl Visits {
    /// Makes the workload for `bytes` of memory, mapped by such leaves.
    pub(crate) fn new(
        bytes: u64,
        granule: PageSize,
        seed: u64,
        turnover: Turnover,
    ) -> Result<Self, RangeError> {
        let layout = Layout::split(bytes, REGIONS)?.with_granule(granule)?;
        let decoys = if turnover.change == Change::Resize { DECOYS } else { 0 };
        let layout = layout.with_decoys(decoys)?;
        Ok(Self { layout, seed, turnover })
    }
}

impl Workload for Visits {
    fn name(&self) -> &str {
        match self.turnover.change {
            Change::Churn => "churn",
            Change::Migrate => "migrate",
            Change::Resize => "resize",
        }
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
    /// Accesses that were planned.
    planned: u32,
    has_settled: bool,
}

impl Visitor<'_> {
    /// Goes to a region, whether it is there or not.
    fn arrive(&mut self) -> Visit {
        let region = self.numbers.next() as usize % self.layout.regions().len();
        let pages = self.layout.pages_of(region);
        let width = pages.len().min(WINDOW);
        let spot = self.numbers.next() as usize % SPOTS;
        let start = pages.start + (pages.len() - width) * spot / SPOTS;
        Visit { region, window: start..start + width, planned: 0, has_settled: false }
    }

    fn depart(&mut self) {
        if let Some(Visit { region, has_settled: true, .. }) = self.visit.take() {
            self.part.stage.places[region].depart();
        }
    }
}

impl Share for Visitor<'_> {
    /// Goes on with the visit, or begins the next if the managers are still at work.
    fn next(&mut self) -> Option<Op> {
        if self.visit.as_ref().is_none_or(|visit| visit.planned == VISIT) {
            self.depart();
            if !self.part.stage.managers.any() {
                return None;
            }
            self.visit = Some(self.arrive());
        }
        let visit = self.visit.as_mut()?;
        visit.planned += 1;
        let random = self.numbers.next();
        let page = visit.window.start + (random >> 1) as usize % visit.window.len();
        if visit.planned % SETTLED == 0 {
            // Processors are taken from guests at any moment, also while they are in the guest; where
            // threads are many, and processors few, it happens here.
            return Some(Op { page, word: 0, act: Act::Pause });
        }
        Some(access(random, page, self.part.number))
    }

    fn absent(&mut self) {
        self.depart();
    }

    fn settled(&mut self) {
        if let Some(visit) = &mut self.visit
            && visit.planned >= SETTLED
            && !visit.has_settled
        {
            visit.has_settled = true;
            self.part.stage.places[visit.region].arrive();
        }
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        self.depart();
    }
}

#[cfg(test)]
mod tests;
