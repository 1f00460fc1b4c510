//! How large leaves are split and made again while vCPUs use them, as when dirty tracking comes and goes, or memory
//! is handed out by small pages for a while.
//!
//! No page changes its frame for that; what changes is tables. So these are kept scarce: there are none for a
//! split but those that a *decoy* has just given up, a region of small pages elsewhere, and none for the next decoy
//! but those that the leaves have given up when they were made again. A round is
//!
//! 1. *lay a decoy aside*: its frames have other tenants by the next;
//! 2. *split* the leaves of a region, into the decoy's tables;
//! 3. wait until a vCPU has used the region, through these;
//! 4. *collapse* them: the tables are free;
//! 5. *bring a decoy back*, and make all of its pages resident, by these tables.
//!
//! Who still goes through a table in the way of its last life comes to a frame that is not meant for it, and its
//! words say so.
//!
//! The dirty bits go along, from one leaf to many and from many to one. In each round what was written is
//! [harvested](slat::Pinned::harvest), and copied: by turns after the split, before the collapse, and after it. A
//! bit that is lost on the way shows at once: a page that is no longer what was copied of it is dirty, at any
//! moment, for it was marked before it was written. And in the end the copy must be the memory.

use std::{io, ops::ControlFlow, thread};

use slat::{
    Bitmap, Gpa, GpaRange, HostPfn, Levels, Mark, PAGE_BYTES, PageSize, SplitError, SplitRangeError,
};

use crate::{
    deeds::Bits,
    frame::{Frame, WORDS},
    layout::Layout,
    machine::{Machine, is_there_at_first},
    manager::{Change, LOOK, MANAGERS, MOST_LOOKS, Manager, Stuck},
    mapping::Mapping,
    precopy::frames,
    workload::Workload,
};

/// What one manager did to large leaves.
#[derive(Debug)]
pub(crate) struct Resized {
    /// Leaves that were split, and each of them made again.
    pub(crate) split: u64,
    /// Pages that were reported as dirty.
    pub(crate) dirty: u64,
    /// Splits that found no table, since those of the decoy could still be walked.
    pub(crate) waited: u64,
    /// Pages that were not what was copied of them, and were not dirty.
    pub(crate) unmarked: u64,
    /// What was written, as far as it was reported; page by page, as they lie in the guest.
    copy: Mapping,
}

impl Resized {
    fn new(layout: &Layout) -> io::Result<Self> {
        let large = (0..layout.regions().len()).filter(|&region| layout.decoy(region).is_none());
        let end = large.map(|region| layout.regions()[region].last().get()).max().unwrap_or(0);
        let copy = Mapping::anonymous(end as usize + 1)?;
        Ok(Self { split: 0, dirty: 0, waited: 0, unmarked: 0, copy })
    }

    /// Copies what was written in a range since it was here before; returns how many pages that are.
    pub(crate) fn copy_dirty(&self, machine: &Machine<'_>, range: GpaRange) -> Result<u64, Stuck> {
        let mut pages = Bitmap::new(range);
        let (dirty, flush) = machine.table().pin().harvest(range, Mark::Dirty, &mut pages)?;
        // What is written until the end of this is copied now, and what is written later is reported again.
        flush.shootdown().wait(&*machine.kicks)?;
        let mut last = None;
        for (gpa, pfn) in frames(machine, &pages) {
            let frame = machine.memory.frame(pfn).expect("only the guest's frames were mapped");
            self.copy_of(gpa.get()).copy_from(frame);
            // The audit is to know that the entry said so.
            let stay = frame.stay();
            if let Some(stay) = stay.filter(|_| stay != last) {
                machine.memory.journal().moved.push((stay, Bits { accessed: false, dirty: true }));
            }
            last = stay;
        }
        Ok(dirty)
    }

    /// Returns how many pages of a range are not what was copied of them, and not dirty.
    ///
    /// To be called by whoever harvests there: so no mark goes meanwhile. It comes before what is written, and
    /// here it is looked for after that.
    fn unmarked(&self, machine: &Machine<'_>, range: GpaRange) -> u64 {
        let reader = machine.table().reader();
        let pin = reader.pin();
        let is_marked = |gpa| pin.lookup(gpa).is_some_and(|leaf| leaf.dirty);
        let changed = self.differing(machine, range).filter(|&(_, words)| words > 0);
        changed.filter(|&(gpa, _)| !is_marked(gpa)).count() as u64
    }

    /// Returns the pages of a range that are mapped, with how many words of each differ from the copy.
    pub(crate) fn differing(
        &self,
        machine: &Machine<'_>,
        range: GpaRange,
    ) -> impl Iterator<Item = (Gpa, u64)> {
        let mut all = Bitmap::new(range);
        all.set_range(range).expect("it is the bitmap's");
        let pages: Vec<(Gpa, HostPfn)> = frames(machine, &all).collect();
        pages.into_iter().map(|(gpa, pfn)| {
            let frame = machine.memory.frame(pfn).expect("only the guest's frames were mapped");
            let copy = self.copy_of(gpa.get());
            // What the host filled in was written by no MMU: it is not in the copy.
            let differs = |&word: &usize| frame.load(word).sum != copy.load(word).sum;
            (gpa, (0..WORDS).filter(differs).count() as u64)
        })
    }

    fn copy_of(&self, gpa: u64) -> Frame<'_> {
        Frame::of(&self.copy, gpa / PAGE_BYTES)
    }
}

/// Returns how many tables the splits of a workload need besides those of decoys, one of each level below the
/// root, that is where a region has more leaves.
pub(crate) fn tables(workload: &dyn Workload, levels: Levels) -> u64 {
    let resizes = workload.turnover().is_some_and(|turnover| turnover.change == Change::Resize);
    let leaves = workload.layout().largest() as u64 / PageSize::Size2M.pages();
    let of_decoy = u64::from(levels.count()) - 1;
    if resizes { MANAGERS as u64 * leaves.saturating_sub(of_decoy) } else { 0 }
}

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Split,
    Used,
    Collapsed,
}

impl Step {
    /// Returns the one at which a round harvests.
    fn of_harvest(round: u64) -> Self {
        [Self::Split, Self::Used, Self::Collapsed][round as usize % 3]
    }
}

impl Manager<'_> {
    /// Begins with one decoy that is there; the others come when it is their turn.
    pub(crate) fn leave_decoys_away(&mut self) {
        let layout = self.machine.layout;
        let (present, away) = self
            .present
            .iter()
            .partition::<Vec<_>, _>(|&&region| is_there_at_first(layout, region));
        (self.present, self.account.away) = (present, away.into());
    }

    /// Splits the leaves of a region, and makes them again.
    pub(crate) fn resize_region(&mut self, region: usize) -> Result<(), Stuck> {
        let mut resized = match self.account.resized.take() {
            Some(resized) => resized,
            None => Resized::new(self.machine.layout)?,
        };
        let done = self.resize(region, &mut resized);
        self.account.resized = Some(resized);
        done
    }

    fn resize(&mut self, region: usize, resized: &mut Resized) -> Result<(), Stuck> {
        let Machine { space, layout, .. } = self.machine;
        let range = layout.regions()[region];
        let decoy = self.present.iter().copied().find(|&region| layout.decoy(region).is_some());
        self.lay_aside(decoy.expect("one is there between rounds"))?;
        let split = self.split(range, resized)?;
        resized.split += split;
        self.look(range, Step::Split, resized)?;
        self.await_use(region);
        self.look(range, Step::Used, resized)?;
        self.collapse(range, split)?;
        self.look(range, Step::Collapsed, resized)?;
        let back = layout.regions()[self.bring_back()?];
        space.prefault(back, |_| ControlFlow::Continue(()))?;
        Ok(())
    }

    /// Copies what was written, if it is the time for it, and looks for writes that are marked nowhere.
    fn look(&self, range: GpaRange, step: Step, resized: &mut Resized) -> Result<(), Stuck> {
        if step == Step::of_harvest(self.account.rounds) {
            resized.dirty += resized.copy_dirty(self.machine, range)?;
        }
        resized.unmarked += resized.unmarked(self.machine, range);
        Ok(())
    }

    /// Splits all leaves of a range; returns how many there were.
    fn split(&self, range: GpaRange, resized: &mut Resized) -> Result<u64, Stuck> {
        let (table, kicks) = (self.machine.table(), &*self.machine.kicks);
        let mut split = 0;
        for look in 0..=MOST_LOOKS {
            let error = match table.split_range(range, PageSize::Size4K, kicks, |_| ()) {
                Ok(leaves) => return Ok(split + leaves),
                Err(error) => error,
            };
            let SplitRangeError { leaves, source, .. } = error;
            let is_short = matches!(source, SplitError::OutOfFrames(_));
            if !is_short || look == MOST_LOOKS {
                return Err(error.into());
            }
            split += leaves;
            if look == 0 {
                // The decoy's tables come back when each vCPU that could walk them has been out, once.
                table.reclaim(kicks);
                resized.waited += 1;
            }
            // It may be in KVM, which makes it wait for other processors: one that yields all the time keeps it.
            thread::sleep(LOOK);
        }
        unreachable!("the last is an error")
    }

    /// Waits until a vCPU pauses in a region, where one was; or is there no more.
    fn await_use(&self, region: usize) {
        let place = &self.stage.places[region];
        let before = place.uses();
        while self.stage.vcpus.any() && before.is_some() && place.uses() == before {
            thread::sleep(LOOK);
        }
    }

    /// Makes so many large leaves again.
    fn collapse(&self, range: GpaRange, leaves: u64) -> Result<(), Stuck> {
        let Machine { layout, kicks, .. } = self.machine;
        let (table, granule) = (self.machine.table(), layout.granule());
        let mut made = 0;
        while made < leaves {
            // Some may be busy: a fault holds a pin, whose thread does not run.
            made += table.collapse_range(range, granule, &**kicks, |_| ())?.leaves;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
