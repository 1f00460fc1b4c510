//! A manager: changes regions of guest memory under the running vCPUs.
//!
//! This is the other half of what a hypervisor does with the library. In `churn` memory is hot-unplugged
//! or ballooned, and comes back. A region goes in steps, of which none waits for a lock that a fault takes:
//!
//! 1. *unmap* its pages; the entries are returned with their last accessed and dirty bits;
//! 2. *shoot down*: until every vCPU has been out, or is told, the frames are still in use;
//! 3. *give back* the frames, which the next fault anywhere may get;
//! 4. *vacate* the region, so that its tables go too. A vCPU may have faulted a page in again meanwhile:
//!    begin again.
//!
//! What `migrate` does is in [`mover`](crate::mover).

use std::{
    collections::{HashMap, VecDeque},
    thread,
};

use slat::{
    AnyFormat, Arena, CollapseError, Flush, Gpa, GpaRange, HarvestError, InsideGuest, MapError,
    Mapping, PopulateError, ProtectError, Reader, SplitRangeError, UnmapRangeError, VacateError,
};

use crate::{
    deeds::{Bits, Life},
    kvm::VmError,
    machine::Machine,
    memory::Stay,
    phase::Gone,
    progress::Progress,
    stage::{Leaving, Stage},
};

/// Managers of one run, if there is a region for each.
pub(crate) const MANAGERS: usize = 2;
/// How often a region is unmapped before fault handlers are asked to hold still.
const PATIENCE: u32 = 2;

/// What is to become of the memory of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turnover {
    pub(crate) change: Change,
    /// How many times a region is changed.
    pub(crate) rounds: u64,
    pub(crate) flushing: Flushing,
}

/// In which way a region is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is taken away; another is brought back.
    Churn,
    /// Its pages are moved to other frames.
    Migrate,
}

/// What is done with the duty to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    Served,
    /// It is dropped at once, and the frames are used again: wrong, and to be found out.
    Skipped,
}

/// Why a flush could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("a shoot-down would wait for ever: {0}")]
    InsideGuest(#[from] InsideGuest),
    #[error("KVM cannot be made to forget pages: {0}")]
    Vm(#[from] VmError),
}

/// Something that must not happen to a manager; it stops there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stuck {
    #[error("unmapping failed: {0}")]
    Unmap(#[from] UnmapRangeError),
    #[error("vacating failed: {0}")]
    Vacate(#[from] VacateError),
    #[error("populating failed: {0}")]
    Populate(#[from] PopulateError),
    #[error(transparent)]
    Unserved(#[from] Unserved),
    #[error("{} was mapped to frame {}, which is not the guest's", .0.gpa, .0.pfn)]
    Stray(Mapping),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("splitting failed: {0}: {why}", why = .0.source)]
    Split(#[from] SplitRangeError),
    #[error("collapsing failed: {0}")]
    Collapse(#[from] CollapseError),
    #[error("harvesting failed: {0}")]
    Harvest(#[from] HarvestError),
    #[error("protecting failed: {0}")]
    Protect(#[from] ProtectError),
    #[error("mapping a page to its new frame failed: {0}")]
    Map(#[from] MapError),
    #[error("there is no frame for {gpa} to move to")]
    OutOfFrames { gpa: Gpa },
    #[error("pages of {range} were mapped or unmapped while they were moved")]
    Disturbed { range: GpaRange },
}

/// What a manager did.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Regions that were changed.
    pub(crate) rounds: u64,
    pub(crate) shootdowns: u64,
    /// Pages that were moved and stayed readable meanwhile, and such that were unmapped first.
    pub(crate) copied: u64,
    pub(crate) unmapped_first: u64,
    /// What the entries said of pages that were moved.
    pub(crate) moved: Vec<(Stay, Bits)>,
    /// Attempts to vacate a region in which a page was mapped again.
    pub(crate) still_mapped: u64,
    /// Attempts to vacate a region in which pages were just being mapped.
    pub(crate) busy: u64,
    /// Attempts to populate a region when too many tables waited for vCPUs to come out.
    pub(crate) short: u64,
    /// The stays of pages that it ended.
    pub(crate) lives: Vec<Life>,
    /// Regions that it has not brought back.
    pub(crate) away: VecDeque<usize>,
    pub(crate) stuck: Option<Stuck>,
}

/// Where managers work.
#[derive(Clone, Copy)]
pub(crate) struct Site<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    pub(crate) flushing: Flushing,
}

impl<'m> Site<'m> {
    /// Sees to it that nobody uses the translations of `flush` any more, which were those of `leaves`, or
    /// omits that; returns how many shoot-downs it took.
    pub(crate) fn serve(self, flush: Flush<'_>, leaves: &[Mapping]) -> Result<u64, Unserved> {
        if flush.is_empty() || self.flushing == Flushing::Skipped {
            return Ok(0);
        }
        self.machine.forget(leaves)?;
        flush.shootdown().wait(&self.stage.kicks)?;
        Ok(1)
    }
}

/// One thread that changes memory.
pub(crate) struct Manager<'m> {
    pub(crate) site: Site<'m>,
    pub(crate) reader: Reader<AnyFormat, Arena>,
    /// The regions that are its own, and there.
    present: Vec<usize>,
    /// What was known of the use of each region when this looked last.
    uses: HashMap<usize, Option<u64>>,
    pub(crate) account: Account,
}

impl<'m> Manager<'m> {
    /// Makes the manager of `regions`, all of which are populated.
    pub(crate) fn new(site: Site<'m>, regions: impl Iterator<Item = usize>) -> Self {
        let (reader, present) = (site.machine.table.reader(), regions.collect());
        Self { site, reader, present, uses: HashMap::new(), account: Account::default() }
    }

    /// Changes regions, until all rounds are done or all vCPUs gone.
    pub(crate) fn run(mut self, change: Change, progress: &Progress) -> Account {
        // Up to half of them may be away.
        let most_away = self.present.len() / 2;
        while self.site.stage.take_round() {
            let Some(region) = self.pick() else { break };
            let changed = match change {
                Change::Churn => self.exchange(region, most_away),
                Change::Migrate => self.move_region(region),
            };
            if let Err(stuck) = changed {
                self.account.stuck = Some(stuck);
                break;
            }
            progress.round();
        }
        self.account
    }

    /// Takes all regions away, for good.
    pub(crate) fn clear(mut self) -> Account {
        let present = self.present.clone();
        let cleared = present.into_iter().try_for_each(|region| self.take_away(region));
        self.account.stuck = cleared.err();
        self.account
    }

    /// Waits until vCPUs that have settled in a region pause there, and returns it; `None` if there are no
    /// vCPUs.
    ///
    /// They have settled while they were out, and pause while they are in the guest, on a processor that
    /// knows the region: that is the moment to come.
    fn pick(&mut self) -> Option<usize> {
        while self.site.stage.vcpus.any() {
            for &region in &self.present {
                let uses = self.site.stage.places[region].uses();
                let before = self.uses.insert(region, uses).flatten();
                if before.is_some() && uses.is_some() && before != uses {
                    return Some(region);
                }
            }
            thread::yield_now();
        }
        None
    }

    /// Takes a region away, and brings another back if many are.
    fn exchange(&mut self, region: usize, most_away: usize) -> Result<(), Stuck> {
        self.take_away(region)?;
        self.present.retain(|&present| present != region);
        self.account.away.push_back(region);
        if self.account.away.len() > most_away {
            let back = self.account.away.pop_front().expect("one has just been taken away");
            self.bring_back(back)?;
            self.present.push(back);
        }
        Ok(())
    }

    fn take_away(&mut self, region: usize) -> Result<(), Stuck> {
        let Site { machine, stage, .. } = self.site;
        let Machine { table, layout, .. } = machine;
        let (range, place) = (layout.regions()[region], &stage.places[region]);
        for attempt in 0.. {
            if attempt == PATIENCE {
                place.set_leaving(Leaving::Yes);
            }
            let mut unmapped = Vec::new();
            let collect = |mapping| unmapped.push(mapping);
            let (_, flush) = self.reader.pin().unmap_range(range, collect)?;
            // Tables may go before the shoot-down as well; that leaves the vCPUs less time.
            let early = (attempt > 0).then(|| table.vacate(range));
            self.account.shootdowns += self.site.serve(flush, &unmapped)?;
            self.give_back(&unmapped)?;
            let vacated = early.unwrap_or_else(|| table.vacate(range));
            match vacated {
                Ok(()) => break,
                Err(VacateError::StillMapped { .. }) => self.account.still_mapped += 1,
                Err(VacateError::Busy) => self.account.busy += 1,
                Err(other) => return Err(other.into()),
            }
        }
        place.set_leaving(Leaving::No);
        self.account.rounds += 1;
        Ok(())
    }

    /// Gives back the frames of pages that were unmapped, when nobody can reach them any more.
    fn give_back(&mut self, unmapped: &[Mapping]) -> Result<(), Stuck> {
        let memory = &self.site.machine.memory;
        for &mapping in unmapped {
            let life = memory.give_back(mapping);
            self.account.lives.push(life.ok_or(Stuck::Stray(mapping))?);
        }
        Ok(())
    }

    fn bring_back(&mut self, region: usize) -> Result<(), Stuck> {
        let Machine { table, layout, .. } = self.site.machine;
        loop {
            match table.populate(layout.regions()[region], layout.granule()) {
                Err(PopulateError::OutOfFrames(short)) if short.waiting > 0 => {
                    self.account.short += 1;
                    table.reclaim(&self.site.stage.kicks);
                    thread::yield_now();
                }
                populated => return Ok(populated?),
            }
        }
    }
}

#[cfg(test)]
mod tests;
