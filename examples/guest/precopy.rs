//! The copier: live migration of the guest's memory, to a second buffer of the same process, while vCPUs
//! write to it.
//!
//! From [`track_dirty`](slat::Space::track_dirty) on every write is reported. Then in rounds: the first copies all
//! that is mapped, each of the others what was written during the one before. A round is
//!
//! 1. [`dirty`](slat::Space::dirty): the pages that were written go into a bitmap. When it returns no vCPU
//!    writes to one of them unnoticed any more, through what it has cached of a page that was dirty;
//! 2. *copy* what was reported: after that, never before.
//!
//! When few pages are dirty, or after so many rounds, the vCPUs stand still; there is one last look, one
//! last copy, and the copy must be the memory, byte by byte. That would be the moment to go on elsewhere.
//! Here the vCPUs go on where they are, as after a migration that was cancelled.
//!
//! To track writes is to split large leaves, so that a write makes 4 KiB dirty and not 2 MiB; they are
//! [collapsed](slat::PageTable::collapse_range) in the end. All of it goes on under the running vCPUs.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use slat::{Bitmap, Collapsed, Gpa, GpaRange, Heat, HostPfn, PAGE_BYTES, PageSize, Tracking};

use crate::{
    frame::{Frame, WORDS},
    heat::PARTS,
    layout::Layout,
    machine::Machine,
    manager::{Flushing, Stuck},
    mapping,
    progress::Progress,
    stage::Stage,
};

/// After so many pages the copier looks whether it is ahead of its link.
const BURST: usize = 64;

/// How memory is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precopy {
    /// Rounds at most, without the last, for which the vCPUs stand still.
    pub(crate) most_rounds: u64,
    /// So few dirty pages are left for the last.
    pub(crate) few: u64,
    /// How long the link takes for all of memory.
    pub(crate) link: Duration,
    pub(crate) flushing: Flushing,
}

/// What one round did.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Pages that were reported.
    pub(crate) dirty: u64,
    /// Pages that were copied.
    pub(crate) copied: u64,
    pub(crate) time: Duration,
    /// Where the dirty pages were.
    pub(crate) row: Heat,
}

/// What a precopy did, and what came of it.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) rounds: Vec<Round>,
    /// For how long the vCPUs had to stand still: until the copy was complete.
    pub(crate) stopped: Duration,
    /// Large leaves that were split; that were made again; and what could not be made one.
    pub(crate) split: u64,
    pub(crate) collapsed: Collapsed,
    /// All pages that were ever reported, or dirty before that began.
    pub(crate) ever_dirty: Bitmap,
    /// Pages of which the copy is not what memory is, with how many bytes of each.
    pub(crate) wrong: Vec<(Gpa, u64)>,
    pub(crate) stuck: Option<Stuck>,
}

/// The thread that copies.
pub(crate) struct Copier<'m> {
    machine: &'m Machine<'m>,
    stage: &'m Stage,
    precopy: Precopy,
    progress: &'m Progress,
    /// What it copies: one region.
    region: GpaRange,
    /// Where it copies to, page by page.
    target: mapping::Mapping,
    copied: Copied,
}

impl<'m> Copier<'m> {
    /// Makes the memory that is copied to.
    pub(crate) fn buffer(layout: &Layout) -> io::Result<mapping::Mapping> {
        mapping::Mapping::anonymous((layout.regions()[0].pages() * PAGE_BYTES) as usize)
    }

    pub(crate) fn new(
        machine: &'m Machine<'m>,
        stage: &'m Stage,
        precopy: Precopy,
        progress: &'m Progress,
        target: mapping::Mapping,
    ) -> Self {
        let region = machine.layout.regions()[0];
        let copied = Copied {
            rounds: Vec::new(),
            stopped: Duration::ZERO,
            split: 0,
            collapsed: Collapsed::default(),
            ever_dirty: Bitmap::new(region),
            wrong: Vec::new(),
            stuck: None,
        };
        Self { machine, stage, precopy, progress, region, target, copied }
    }

    /// Copies memory, from when all vCPUs have touched theirs until the copy is complete.
    pub(crate) fn run(mut self) -> Copied {
        self.copied.stuck = self.migrate().err();
        self.copied
    }

    fn migrate(&mut self) -> Result<(), Stuck> {
        let Stage { phase, vcpus, .. } = self.stage;
        let count = vcpus.count();
        phase.await_touched(vcpus, count, 1)?;
        self.begin()?;
        self.round(Which::All)?;
        // So it does not depend on who is faster what there is in the end.
        phase.await_touched(vcpus, count, 2)?;
        while (self.copied.rounds.len() as u64) < self.precopy.most_rounds {
            let dirty = self.round(Which::Dirty)?;
            if dirty <= self.precopy.few {
                break;
            }
        }
        let begun = Instant::now();
        let stopped = phase.stop(vcpus);
        self.round(Which::Dirty)?;
        self.copied.stopped = begun.elapsed();
        self.copied.wrong = self.compare();
        phase.leave();
        drop(stopped);
        self.end()
    }

    /// Begins to track writes, page by page.
    fn begin(&mut self) -> Result<(), Stuck> {
        // What was written before is reported by nobody; who is to account for all of it looks now. No page
        // becomes dirty for the first time until it is tracked: the vCPUs have written all that they write.
        for leaf in self.machine.table().pin().mappings(self.region).expect("it is a region") {
            self.copied.split += u64::from(leaf.size > PageSize::Size4K);
            if leaf.dirty {
                self.copied.ever_dirty.set_range(leaf.range()).expect("it is the bitmap's");
            }
        }
        self.machine.space.track_dirty(Tracking::On)?;
        self.stage.phase.track();
        Ok(())
    }

    /// Stops to track writes; the vCPUs are running.
    fn end(&mut self) -> Result<(), Stuck> {
        let Machine { space, layout, kicks, .. } = self.machine;
        space.track_dirty(Tracking::Off)?;
        let granule = layout.granule();
        if granule > PageSize::Size4K {
            let step = self.progress.step("collapsing", self.region.pages());
            let collapsed = space.table().collapse_range(self.region, granule, &**kicks, step);
            self.copied.collapsed = collapsed?;
        }
        Ok(())
    }

    /// Does one round; returns how many pages were dirty.
    fn round(&mut self, which: Which) -> Result<u64, Stuck> {
        let begun = Instant::now();
        let mut pages = Bitmap::new(self.region);
        let dirty = self.machine.space.dirty(self.region, &mut pages)?;
        let row = Heat::new(&pages, PARTS);
        self.copied.ever_dirty.merge(&pages).expect("both are of the region");
        if which == Which::All {
            pages.set_range(self.region).expect("it is the bitmap's");
        }
        let copied = self.copy(&pages);
        self.copied.rounds.push(Round { dirty, copied, time: begun.elapsed(), row });
        self.progress.round();
        Ok(dirty)
    }

    /// Copies those of the pages that are mapped, no faster than the link is; returns how many.
    fn copy(&self, pages: &Bitmap) -> u64 {
        let begun = Instant::now();
        let each = self.precopy.link / u32::try_from(self.machine.layout.len()).unwrap_or(u32::MAX);
        let all: Vec<_> = self.frames(pages).collect();
        let mut copied = 0;
        for burst in all.chunks(BURST) {
            for &(page, pfn) in burst {
                self.target(page).copy_from(self.source(pfn));
            }
            copied += burst.len() as u32;
            thread::sleep((each * copied).saturating_sub(begun.elapsed()));
        }
        u64::from(copied)
    }

    /// Returns the frames of those of the pages that are mapped, with the pages' numbers in the region.
    fn frames(&self, pages: &Bitmap) -> impl Iterator<Item = (u64, HostPfn)> {
        let number = |gpa: Gpa| (gpa.get() - self.region.start().get()) / PAGE_BYTES;
        frames(self.machine, pages).map(move |(gpa, pfn)| (number(gpa), pfn))
    }

    fn source(&self, pfn: HostPfn) -> Frame<'_> {
        self.machine.memory.frame(pfn).expect("only the guest's frames were mapped")
    }

    fn target(&self, page: u64) -> Frame<'_> {
        Frame::of(&self.target, page)
    }

    /// Compares memory with the copy, byte by byte; nobody writes meanwhile.
    fn compare(&self) -> Vec<(Gpa, u64)> {
        let mut all = Bitmap::new(self.region);
        all.set_range(self.region).expect("it is the bitmap's");
        let differ = |(page, pfn)| {
            let (source, target) = (self.source(pfn), self.target(page));
            let wrong = (0..WORDS).map(|word| u64::from(differing(source, target, word))).sum();
            (Gpa::new(self.region.start().get() + page * PAGE_BYTES), wrong)
        };
        self.frames(&all).map(differ).filter(|&(_, wrong)| wrong > 0).collect()
    }
}

/// Returns the frames of those of the pages that are mapped, with the pages.
pub(crate) fn frames(
    machine: &Machine<'_>,
    pages: &Bitmap,
) -> impl Iterator<Item = (Gpa, HostPfn)> {
    let reader = machine.table().reader();
    pages.runs().flat_map(move |run| {
        let pin = reader.pin();
        let mut frames = Vec::new();
        for leaf in pin.mappings(run).expect("it is populated, so it is input") {
            let first = leaf.gpa.get().max(run.start().get());
            let last = leaf.range().last().get().min(run.last().get());
            frames.extend((first..=last).step_by(PAGE_BYTES as usize).map(|gpa| {
                let gpa = Gpa::new(gpa);
                (gpa, leaf.frame_of(gpa).expect("the leaf maps it"))
            }));
        }
        frames
    })
}

/// Which pages a round copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    Dirty,
}

/// Returns how many bytes of a word differ.
fn differing(one: Frame<'_>, other: Frame<'_>, word: usize) -> u32 {
    let [one, other] = [one, other].map(|frame| frame.load(word).raw());
    let differing = (one ^ other).to_le_bytes();
    differing.iter().filter(|&&byte| byte != 0).count() as u32
}

#[cfg(test)]
mod tests;
