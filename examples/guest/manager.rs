//! A manager: changes regions of guest memory under the running vCPUs.
//!
//! This is the other half of what a VMM does with a [`Space`](slat::Space). In `churn` memory is hot-unplugged,
//! and comes back: [`unmap_region`](slat::Space::unmap_region) takes a region away. When it returns nobody reaches
//! its frames, its [backing](crate::backing) has them back, for the next fault anywhere, and its tables are gone,
//! too. Faults take no lock meanwhile; they find no region from one moment on.
//! [`map_region`](slat::Space::map_region) brings it back, empty.
//!
//! What `migrate` does is in [`mover`](crate::mover), what `resize` does in [`resizer`](crate::resizer).

use std::{
    collections::{HashMap, VecDeque},
    io, thread,
    time::Duration,
};

use slat::{
    CollapseError, DirtyError, DiscardError, HarvestError, InsideGuest, MapRegionError,
    PrefaultError, ProtectRegionError, SplitRangeError, TrackError, UnmapRegionError,
};

use crate::{
    backing::OutOfFrames, machine::Machine, phase::Gone, progress::Progress, resizer::Resized,
    stage::Stage,
};

/// Managers of one run, if there is a region for each.
pub(crate) const MANAGERS: usize = 2;

/// How often a manager looks for what it waits for.
pub(crate) const LOOK: Duration = Duration::from_micros(50);
/// How often it looks whether there are tables: for some seconds.
pub(crate) const MOST_LOOKS: u64 = 1 << 17;

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
    /// Its large leaves are split, and made again; the tables are those of decoys, which are taken away
    /// meanwhile.
    Resize,
}

impl Change {
    /// Tells whether regions go, and come back empty.
    pub(crate) const fn takes_away(self) -> bool {
        matches!(self, Self::Churn | Self::Resize)
    }
}

/// What a vCPU does with what is due when it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    /// It invalidates that.
    Served,
    /// Nothing, and goes on with what it has cached: wrong, and to be found out.
    Skipped,
}

/// Something that must not happen to who changes memory; it stops there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stuck {
    #[error("taking a region away failed: {0}")]
    Unmap(#[from] UnmapRegionError),
    #[error("making a region failed: {0}")]
    Map(#[from] MapRegionError),
    #[error("changing the rights of a region failed: {0}")]
    Protect(#[from] ProtectRegionError),
    #[error("unmapping pages failed: {0}")]
    Discard(#[from] DiscardError),
    #[error("mapping pages again failed: {0}")]
    Prefault(#[from] PrefaultError),
    #[error("tracking writes failed: {0}")]
    Track(#[from] TrackError),
    #[error("looking for dirty pages failed: {0}")]
    Dirty(#[from] DirtyError),
    #[error("collapsing failed: {0}")]
    Collapse(#[from] CollapseError),
    #[error("splitting failed: {0}: {source}", source = .0.source)]
    Split(#[from] SplitRangeError),
    #[error("harvesting failed: {0}")]
    Harvest(#[from] HarvestError),
    #[error("a shoot-down failed: {0}")]
    Shootdown(#[from] InsideGuest),
    #[error("no memory for a copy: {0}")]
    Memory(#[from] io::Error),
    #[error(transparent)]
    OutOfFrames(#[from] OutOfFrames),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What a manager did.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Regions that were changed.
    pub(crate) rounds: u64,
    /// Regions that it has not brought back.
    pub(crate) away: VecDeque<usize>,
    /// What it did to large leaves.
    pub(crate) resized: Option<Resized>,
    pub(crate) stuck: Option<Stuck>,
}

/// One thread that changes memory.
pub(crate) struct Manager<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    /// The regions that are its own, and there.
    pub(crate) present: Vec<usize>,
    /// What was known of the use of each region when this looked last.
    uses: HashMap<usize, Option<u64>>,
    pub(crate) account: Account,
}

impl<'m> Manager<'m> {
    /// Makes the manager of `regions`, all of which are there.
    pub(crate) fn new(
        machine: &'m Machine<'m>,
        stage: &'m Stage,
        regions: impl Iterator<Item = usize>,
    ) -> Self {
        let present = regions.collect();
        Self { machine, stage, present, uses: HashMap::new(), account: Account::default() }
    }

    /// Changes regions, until all rounds are done or all vCPUs gone.
    pub(crate) fn run(mut self, change: Change, progress: &Progress) -> Account {
        // Up to half of them may be away.
        let most_away = self.present.len() / 2;
        self.leave_decoys_away();
        while self.stage.take_round() {
            let Some(region) = self.pick() else { break };
            let changed = match change {
                Change::Churn => self.exchange(region, most_away),
                Change::Migrate => self.move_region(region),
                Change::Resize => self.resize_region(region),
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
    /// vCPUs. It is no decoy: these only make room.
    ///
    /// They have settled while they were out, and pause while they are in the guest, on a processor that
    /// knows the region: that is the moment to come.
    fn pick(&mut self) -> Option<usize> {
        while self.stage.vcpus.any() {
            let is_decoy = |region: &usize| self.machine.layout.decoy(*region).is_some();
            for &region in self.present.iter().filter(|&region| !is_decoy(region)) {
                let uses = self.stage.places[region].uses();
                let before = self.uses.insert(region, uses).flatten();
                if before.is_some() && uses.is_some() && before != uses {
                    return Some(region);
                }
            }
            // A thread that only ever yields has had its time when there is something to see.
            thread::sleep(LOOK);
        }
        None
    }

    /// Takes a region away, and brings another back if many are.
    fn exchange(&mut self, region: usize, most_away: usize) -> Result<(), Stuck> {
        self.lay_aside(region)?;
        if self.account.away.len() > most_away {
            self.bring_back()?;
        }
        Ok(())
    }

    /// Takes a region away, to bring it back after the others that are away.
    pub(crate) fn lay_aside(&mut self, region: usize) -> Result<(), Stuck> {
        self.take_away(region)?;
        self.present.retain(|&present| present != region);
        self.account.away.push_back(region);
        Ok(())
    }

    /// Brings back the region that is away for longest, and returns it.
    pub(crate) fn bring_back(&mut self) -> Result<usize, Stuck> {
        let back = self.account.away.pop_front().expect("one was laid aside before");
        self.machine.map_region(back)?;
        self.present.push(back);
        Ok(back)
    }

    fn take_away(&mut self, region: usize) -> Result<(), Stuck> {
        let Machine { space, layout, .. } = self.machine;
        space.unmap_region(layout.regions()[region])?;
        self.account.rounds += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
