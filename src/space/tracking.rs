//! Which pages were written.
//!
//! Where the MMU keeps dirty bits they are what is reported. Elsewhere every leaf is watched: those that are
//! there when tracking is switched on, and each one that a fault maps, or gives the right to write, from then
//! on. Whether writes are tracked is part of the layout, so a fault that has not seen it switched on is over
//! when the leaves are looked through.
//!
//! A page that is taken away, and comes back with other contents, is reported as written, too: at once, or
//! when a region has it again.

use alloc::vec::Vec;

use super::{
    errors::{DirtyError, TrackError},
    region::Layout,
    shared::{Changes, Shared},
    unfinished::Unfinished,
};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    bitmap::Bitmap,
    format::{Format, Tracking},
    level::PageSize,
    ops::{Mark, WatchError},
};

impl Changes {
    /// Notes, if writes are tracked, that the contents of `range` are others, or will be when there is a region
    /// again.
    pub(super) fn alter(&mut self, layout: &Layout, range: GpaRange) {
        if layout.tracking == Tracking::On {
            // Once: who never looks fills no memory.
            self.forget(range);
            self.altered.push(range);
        }
    }

    /// Puts what was altered in `range` into `found`, which covers it, and forgets it. Returns how many pages
    /// were not in it before.
    fn report(&mut self, range: GpaRange, found: &mut Bitmap) -> u64 {
        let parts = self.forget(range);
        if parts.is_empty() {
            return 0;
        }
        let before = found.count();
        for part in parts {
            found.set_range(part).expect("the bitmap covers the range");
        }
        found.count() - before
    }

    /// Forgets what was altered in `range`, and returns it.
    fn forget(&mut self, range: GpaRange) -> Vec<GpaRange> {
        let (mut parts, mut rest) = (Vec::new(), Vec::new());
        for altered in self.altered.drain(..) {
            let Some(part) = altered.overlap(range) else {
                rest.push(altered);
                continue;
            };
            parts.push(part);
            if altered.first_page() < part.first_page() {
                rest.push(GpaRange::between(altered.first_page(), part.first_page()));
            }
            if part.end_page() < altered.end_page() {
                rest.push(GpaRange::between(part.end_page(), altered.end_page()));
            }
        }
        self.altered = rest;
        parts
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
        changes.altered.clear();
        let now = Layout { tracking, ..layout.clone() };
        if tracking == Tracking::Off {
            self.publish(now);
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
        let pages = self.harvest(range, found)?;
        let there = layout.within(range).iter().filter_map(|region| region.range.overlap(range));
        Ok(there.fold(pages, |pages, part| pages + changes.report(part, found)))
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
