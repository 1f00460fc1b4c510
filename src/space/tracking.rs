//! Which pages were written.
//!
//! Where the MMU keeps dirty bits they are what is reported. Elsewhere every leaf is watched: those that are
//! there when tracking is switched on, and each one that a fault maps, or gives the right to write, from then
//! on. Whether writes are tracked is part of the layout, so a fault that has not seen it switched on is over
//! when the leaves are looked through.
//!
//! A page that is taken away, and comes back with other contents, is reported as written, too: at once, or
//! when a region has it again.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    errors::{DirtyError, TrackError},
    region::Layout,
    shared::{Changes, Shared},
    unfinished::Unfinished,
};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    bitmap::{Bitmap, NotCovered},
    format::{Format, Tracking},
    level::PageSize,
    ops::{HarvestError, Mark, WatchError},
};

/// Pages whose contents have changed, in runs that do not touch: as many as there are gaps, however often pages
/// change.
#[derive(Debug, Default)]
pub(super) struct Altered {
    /// The end of each run, by its first page.
    runs: BTreeMap<u64, u64>,
}

impl Altered {
    fn add(&mut self, range: GpaRange) {
        let (mut first, mut end) = (range.first_page(), range.end_page());
        while let Some((&other, &other_end)) = self.runs.range(..=end).next_back() {
            if other_end < first {
                break;
            }
            self.runs.remove(&other);
            (first, end) = (first.min(other), end.max(other_end));
        }
        self.runs.insert(first, end);
    }

    /// Tells whether there is something in `range`.
    fn meets(&self, range: GpaRange) -> bool {
        let last = self.runs.range(..range.end_page()).next_back();
        last.is_some_and(|(_, &end)| end > range.first_page())
    }

    /// Takes out what is in `range`.
    fn take(&mut self, range: GpaRange) -> Vec<GpaRange> {
        let (first, end) = (range.first_page(), range.end_page());
        let mut taken = Vec::new();
        while let Some((&other, &other_end)) = self.runs.range(..end).next_back() {
            if other_end <= first {
                break;
            }
            self.runs.remove(&other);
            taken.push(GpaRange::between(other.max(first), other_end.min(end)));
            if end < other_end {
                self.runs.insert(end, other_end);
            }
            if other < first {
                self.runs.insert(other, first);
            }
        }
        taken
    }
}

/// What was found, which gets into the caller's bitmap also if a kick panics.
struct Report<'f> {
    pages: Bitmap,
    /// Covers them.
    found: &'f mut Bitmap,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        for run in self.pages.runs() {
            let _ = self.found.set_range(run);
        }
    }
}

impl Changes {
    /// Notes, if writes are tracked, that the contents of `range` are others, or will be when there is a region
    /// again.
    pub(super) fn alter(&mut self, layout: &Layout, range: GpaRange) {
        if layout.tracking == Tracking::On {
            self.altered.add(range);
        }
    }
}

impl<F: Format, S: FrameSource> Shared<F, S> {
    pub(super) fn track(&self, tracking: Tracking) -> Result<(), TrackError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        let layout = self.layout();
        if layout.tracking == tracking {
            return Ok(());
        }
        // What a device wrote before is not of what is reported from now on.
        self.note_deferred();
        changes.altered = Altered::default();
        let now = Layout { tracking, ..layout.clone() };
        if tracking == Tracking::Off {
            self.publish(now);
            self.moved.lock().clear();
            self.unwatch(&layout);
            return Ok(());
        }
        // On only if it is on for all leaves and vCPUs: a kick may panic.
        let switching = Unfinished::begin(self, &layout, now);
        self.split_all(&layout)?;
        self.begin_tracking(&layout);
        switching.finish();
        Ok(())
    }

    /// Splits all large leaves; faults map no more of them.
    fn split_all(&self, layout: &Layout) -> Result<(), TrackError> {
        for region in &layout.regions {
            let split = self.table.split_range(region.range, PageSize::Size4K, self.kick(), |_| ());
            split.map_err(|stopped| TrackError::Split(stopped.source))?;
        }
        Ok(())
    }

    /// Sees to it that each write from now on is noted, and that none before is.
    fn begin_tracking(&self, layout: &Layout) {
        self.with_agent(|agent| {
            let watched = |range| self.retry(range, || agent.reader.pin().watch(range)).1;
            let ranges = layout.regions.iter().map(|region| region.range);
            let flushes = ranges.filter(|_| !self.table.format().keeps_bits()).map(watched);
            // Also who runs without bits that the MMU could keep comes out, and enters with them.
            self.serve_with(GpaRange::ALL, flushes);
        });
        for region in &layout.regions {
            let mut before = Bitmap::new(region.range);
            self.harvest(region.range, &mut before).expect("the bitmap is of the range");
        }
    }

    fn unwatch(&self, layout: &Layout) {
        if self.table.format().keeps_bits() {
            return;
        }
        self.with_agent(|agent| {
            for range in layout.regions.iter().map(|region| region.range) {
                self.retry(range, || agent.reader.pin().unwatch(range));
            }
        });
    }

    /// Does `work` on a region, again where somebody has collapsed leaves across its end.
    fn retry<T>(&self, range: GpaRange, work: impl Fn() -> Result<T, WatchError>) -> T {
        loop {
            if let Ok(done) = work() {
                return done;
            }
            let _ = self.split_edges(range);
        }
    }

    pub(super) fn dirty(&self, range: GpaRange, found: &mut Bitmap) -> Result<u64, DirtyError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        self.note_deferred();
        let layout = self.layout();
        if layout.tracking == Tracking::Off {
            return Err(DirtyError::NotTracked);
        }
        let moved = core::mem::take(&mut *self.moved.lock());
        moved.into_iter().for_each(|range| changes.altered.add(range));
        let regions = layout.within(range).iter();
        let there: Vec<_> = regions.filter_map(|region| region.range.overlap(range)).collect();
        if !there.iter().any(|&part| changes.altered.meets(part)) {
            return self.harvest(range, found);
        }
        let wanted = NotCovered { wanted: range, bitmap: found.range() };
        if !found.range().covers(range) {
            return Err(HarvestError::NotCovered(wanted).into());
        }
        // Apart, so that each page counts once, whatever is in the caller's.
        let mut report = Report { pages: Bitmap::new(range), found };
        self.harvest(range, &mut report.pages)?;
        for run in there.into_iter().flat_map(|part| changes.altered.take(part)) {
            report.pages.set_range(run).expect("the bitmap covers the range");
        }
        Ok(report.pages.count())
    }

    /// Takes the dirty marks of a range, and shoots them down.
    fn harvest(&self, range: GpaRange, found: &mut Bitmap) -> Result<u64, DirtyError> {
        self.with_agent(|agent| {
            let pin = agent.reader.pin();
            let (pages, flush) = pin.harvest(range, Mark::Dirty, found)?;
            drop(pin);
            self.serve(flush)?;
            Ok(pages)
        })
    }
}
