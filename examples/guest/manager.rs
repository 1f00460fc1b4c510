//! A manager: takes regions of guest memory away under the running vCPUs, and brings others back.
//!
//! This is the other half of what a hypervisor does with the library, for memory that is hot-unplugged,
//! ballooned or migrated. A region goes in steps, of which none waits for a lock that a fault takes:
//!
//! 1. *unmap* its pages; the entries are returned with their last accessed and dirty bits;
//! 2. *shoot down*: until every vCPU has been out, or is told, the frames are still in use;
//! 3. *give back* the frames, which the next fault anywhere may get;
//! 4. *vacate* the region, so that its tables go too. A vCPU may have faulted a page in again meanwhile:
//!    begin again.

use std::{collections::VecDeque, thread};

use slat::{
    AnyFormat, Arena, Flush, InsideGuest, Mapping, PageSize, PopulateError, Reader,
    UnmapRangeError, VacateError,
};

use crate::{
    deeds::Life,
    machine::Machine,
    progress::Progress,
    stage::{Kicks, Leaving, Stage},
};

/// Managers of one run, if there is a region for each.
pub(crate) const MANAGERS: usize = 2;
/// How often a region is unmapped before fault handlers are asked to hold still.
const PATIENCE: u32 = 2;

/// What is to become of the memory of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turnover {
    /// How many times a region is taken away.
    pub(crate) rounds: u64,
    pub(crate) flushing: Flushing,
}

/// What is done with the duty to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    Served,
    /// It is dropped at once, and the frames are used again: wrong, and to be found out.
    Skipped,
}

impl Flushing {
    /// Sees to it that nobody uses the pages of `flush` any more, or omits that; returns how many
    /// shoot-downs it took.
    pub(crate) fn serve(self, flush: Flush<'_>, kicks: &Kicks) -> Result<u64, InsideGuest> {
        if flush.is_empty() || self == Self::Skipped {
            return Ok(0);
        }
        flush.shootdown().wait(kicks)?;
        Ok(1)
    }
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
    #[error("a shoot-down would wait for ever: {0}")]
    InsideGuest(#[from] InsideGuest),
    #[error("{} was mapped to frame {}, which is not the guest's", .0.gpa, .0.pfn)]
    Stray(Mapping),
}

/// What a manager did.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Regions that were taken away.
    pub(crate) rounds: u64,
    pub(crate) shootdowns: u64,
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

impl Account {
    /// Gives back the frames of pages that were unmapped, when nobody can reach them any more.
    fn settle(
        &mut self,
        site: Site<'_>,
        flush: Flush<'_>,
        unmapped: Vec<Mapping>,
    ) -> Result<(), Stuck> {
        let Machine { layout, memory, .. } = site.machine;
        self.shootdowns += site.flushing.serve(flush, &site.stage.kicks)?;
        for mapping in unmapped {
            let page = layout.page_at(mapping.gpa);
            let life = page.and_then(|page| memory.give_back(page, mapping.pfn, mapping.into()));
            self.lives.push(life.ok_or(Stuck::Stray(mapping))?);
        }
        Ok(())
    }
}

/// Where managers work.
#[derive(Clone, Copy)]
pub(crate) struct Site<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    pub(crate) flushing: Flushing,
}

/// One thread that moves memory.
pub(crate) struct Manager<'m> {
    site: Site<'m>,
    reader: Reader<AnyFormat, Arena>,
    /// The regions that are its own, and there.
    present: Vec<usize>,
    account: Account,
}

impl<'m> Manager<'m> {
    /// Makes the manager of `regions`, all of which are populated.
    pub(crate) fn new(site: Site<'m>, regions: impl Iterator<Item = usize>) -> Self {
        let (present, account) = (regions.collect(), Account::default());
        Self { site, reader: site.machine.table.reader(), present, account }
    }

    /// Takes regions away and brings them back, until all rounds are done or all vCPUs gone.
    pub(crate) fn run(mut self, progress: &Progress) -> Account {
        // Up to half of them may be away.
        let most_away = self.present.len() / 2;
        while self.site.stage.take_round() {
            let Some(region) = self.pick() else { break };
            if let Err(stuck) = self.move_memory(region, most_away) {
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

    /// Waits until vCPUs have settled in a region, and returns it; `None` if there are no vCPUs.
    fn pick(&mut self) -> Option<usize> {
        while self.site.stage.vcpus.any() {
            let in_use = |&region: &usize| self.site.stage.places[region].is_in_use();
            if let Some(at) = self.present.iter().position(in_use) {
                return Some(self.present.swap_remove(at));
            }
            thread::yield_now();
        }
        None
    }

    fn move_memory(&mut self, region: usize, most_away: usize) -> Result<(), Stuck> {
        self.take_away(region)?;
        self.account.away.push_back(region);
        if self.account.away.len() > most_away {
            let back = self.account.away.pop_front().expect("one has just been taken away");
            self.bring_back(back)?;
            self.present.push(back);
        }
        Ok(())
    }

    fn take_away(&mut self, region: usize) -> Result<(), Stuck> {
        let Self { site, reader, account, .. } = self;
        let Machine { table, layout, .. } = site.machine;
        let (range, place) = (layout.regions()[region], &site.stage.places[region]);
        for attempt in 0.. {
            if attempt == PATIENCE {
                place.set_leaving(Leaving::Yes);
            }
            let mut unmapped = Vec::new();
            let (_, flush) = reader.pin().unmap_range(range, |mapping| unmapped.push(mapping))?;
            let vacated = if attempt == 0 {
                account.settle(*site, flush, unmapped)?;
                table.vacate(range)
            } else {
                // Tables may go before the shoot-down as well; that leaves the vCPUs less time.
                let vacated = table.vacate(range);
                account.settle(*site, flush, unmapped)?;
                vacated
            };
            match vacated {
                Ok(()) => break,
                Err(VacateError::StillMapped { .. }) => account.still_mapped += 1,
                Err(VacateError::Busy) => account.busy += 1,
                Err(other) => return Err(other.into()),
            }
        }
        place.set_leaving(Leaving::No);
        account.rounds += 1;
        Ok(())
    }

    fn bring_back(&mut self, region: usize) -> Result<(), Stuck> {
        let Machine { table, layout, .. } = self.site.machine;
        loop {
            match table.populate(layout.regions()[region], PageSize::Size4K) {
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
