//! Changing regions, beside faults.
//!
//! One change at a time, under a lock that faults do not take. All of them are made of the same steps:
//!
//! 1. *Check*, and make what may fail: nothing has changed yet that anybody sees.
//! 2. *Publish* the new layout, and wait for the pins that may have seen the old one. A fault decides and
//!    maps under one pin; so by then no fault maps anything more on account of the old layout.
//! 3. *Carry out*: unmap what is to go, shoot it down, give the frames back; or take rights away.
//!
//! Where the same range goes on with something else (another backing, or fresh pages) it is *closed* in
//! between: faults are told to try again. Otherwise what the new layout lets in could not be told from what
//! has to go. A thread that stops under a pin holds up changes, and no faults; one that stops in a change
//! holds up changes, and faults in what it has closed.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{
    backing::Backing,
    errors::{
        DiscardError, MapRegionError, ProtectRegionError, ReplaceBackingError, ResizeRegionError,
        UnmapRegionError,
    },
    region::{Ground, Layout, Region},
    shared::Shared,
    unfinished::Unfinished,
};
use crate::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_BYTES},
    arena::FrameSource,
    attr::{Attr, Prot},
    format::{EncodeError, Format, Tracking},
    level::PageSize,
    ops::{PopulateError, RefineError, VacateError},
};

/// What is wrong with a backing for a region.
enum Unfit {
    Misaligned { offset: u64 },
    BackingTooSmall { have: u64, needed: u64 },
    Unencodable(EncodeError),
}

macro_rules! from_unfit {
    ($($error:ident),*) => {
        $(impl From<Unfit> for $error {
            fn from(unfit: Unfit) -> Self {
                match unfit {
                    Unfit::Misaligned { offset } => Self::Misaligned { offset },
                    Unfit::BackingTooSmall { have, needed } => {
                        Self::BackingTooSmall { have, needed }
                    }
                    Unfit::Unencodable(error) => Self::Unencodable(error),
                }
            }
        })*
    };
}
from_unfit!(MapRegionError, ReplaceBackingError);

impl<F: Format, S: FrameSource> Shared<F, S> {
    pub(super) fn map_region(
        &self,
        range: GpaRange,
        backing: Arc<dyn Backing>,
        offset: u64,
        attr: Attr,
    ) -> Result<(), MapRegionError> {
        // Who changes regions may be waiting for the caller's own observer.
        self.check_outside()?;
        let region = self.region(range, backing, offset, attr)?;
        let _changes = self.changes.lock();
        let layout = self.layout();
        if let Some(other) = layout.overlapping(range) {
            return Err(MapRegionError::Overlap { region: other.range });
        }
        self.make_room(&layout, &region, range)?;
        self.publish(layout.with(region));
        Ok(())
    }

    pub(super) fn unmap_region(&self, range: GpaRange) -> Result<(), UnmapRegionError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        let layout = self.layout();
        let not_found = UnmapRegionError::NotFound { range };
        let index = layout.exactly(range).ok_or(not_found)?;
        self.split_edges(range).map_err(UnmapRegionError::CutsLarge)?;
        let region = layout.regions[index].clone();
        changes.alter(&layout, range);
        let unmapping = Unfinished::begin(self, &layout, layout.clone().changed(index, None));
        self.empty(&region, range);
        region.ground.holds.set_gone();
        let vacated = self.vacate(&region, range);
        unmapping.finish();
        Ok(vacated?)
    }

    pub(super) fn protect_region(
        &self,
        range: GpaRange,
        prot: Prot,
    ) -> Result<(), ProtectRegionError> {
        self.check_outside()?;
        let _changes = self.changes.lock();
        let layout = self.layout();
        let not_found = ProtectRegionError::NotFound { range };
        let index = layout.exactly(range).ok_or(not_found)?;
        let mut region = layout.regions[index].clone();
        let had = region.attr.prot();
        region.asked = region.asked.with_prot(prot);
        region.attr = region.ground.backing.attr(region.asked);
        self.check_attr(region.attr)?;
        self.split_edges(range).map_err(ProtectRegionError::CutsLarge)?;
        self.publish(layout.changed(index, Some(region.clone())));
        // No leaf has more than its region had: where nothing is taken away nobody need be told.
        if !region.attr.prot().contains(had) {
            self.restrict(&region);
        }
        Ok(())
    }

    pub(super) fn replace_backing(
        &self,
        range: GpaRange,
        backing: Arc<dyn Backing>,
        offset: u64,
    ) -> Result<(), ReplaceBackingError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        let layout = self.layout();
        let not_found = ReplaceBackingError::NotFound { range };
        let index = layout.exactly(range).ok_or(not_found)?;
        let old = layout.regions[index].clone();
        let region = self.region(range, backing, offset, old.asked)?;
        self.split_edges(range).map_err(ReplaceBackingError::CutsLarge)?;
        let closed = self.close(&layout, range);
        changes.alter(&layout, range);
        self.empty(&old, range);
        old.ground.holds.set_gone();
        closed.finish_with(layout.changed(index, Some(region)));
        Ok(())
    }

    pub(super) fn resize_region(
        &self,
        range: GpaRange,
        new: GpaRange,
    ) -> Result<(), ResizeRegionError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        let layout = self.layout();
        let not_found = ResizeRegionError::NotFound { range };
        let index = layout.exactly(range).ok_or(not_found)?;
        if new.start() != range.start() {
            return Err(ResizeRegionError::OtherStart { start: range.start() });
        }
        let old = layout.regions[index].clone();
        let region = Region { range: new, ..old.clone() };
        if new.pages() > range.pages() {
            let more = GpaRange::between(range.end_page(), new.end_page());
            if let Some(other) = layout.overlapping(more) {
                return Err(ResizeRegionError::Overlap { region: other.range });
            }
            let (have, needed) =
                (old.ground.backing.pages(), old.offset.saturating_add(new.pages()));
            if have < needed {
                return Err(ResizeRegionError::BackingTooSmall { have, needed });
            }
            self.make_room(&layout, &region, more)?;
            self.publish(layout.changed(index, Some(region)));
        } else if new.pages() < range.pages() {
            let less = GpaRange::between(new.end_page(), range.end_page());
            self.cut_room(less)?;
            changes.alter(&layout, less);
            let shorter = layout.clone().changed(index, Some(region));
            let shrinking = Unfinished::begin(self, &layout, shorter);
            self.empty(&old, less);
            let vacated = self.vacate(&old, less);
            shrinking.finish();
            vacated?;
        }
        Ok(())
    }

    pub(super) fn discard(&self, range: GpaRange) -> Result<u64, DiscardError> {
        self.check_outside()?;
        let mut changes = self.changes.lock();
        let layout = self.layout();
        let mut next = range.first_page();
        for region in layout.within(range) {
            if region.range.first_page() > next {
                break;
            }
            next = region.range.end_page();
        }
        if next < range.end_page() {
            return Err(DiscardError::NoRegion { gpa: Gpa::of_page(next) });
        }
        self.split_edges(range).map_err(DiscardError::CutsLarge)?;
        let closed = self.close(&layout, range);
        // Those that faults have mapped meanwhile; from now on none maps more of them.
        self.split_edges(range).map_err(DiscardError::CutsLarge)?;
        changes.alter(&layout, range);
        let mut pages = 0;
        for region in layout.within(range) {
            let part = region.range.overlap(range).expect("it is within the range");
            pages += self.empty(region, part);
        }
        closed.finish_with(layout);
        Ok(pages)
    }

    /// Closes a part of the layout, for as long as what is there is taken away.
    fn close(&self, layout: &Layout, part: GpaRange) -> Unfinished<'_, F, S> {
        Unfinished::begin(self, layout, layout.clone().closing(Some(part)))
    }

    /// Makes the value of a region, if the backing suits it.
    fn region(
        &self,
        range: GpaRange,
        backing: Arc<dyn Backing>,
        offset: u64,
        asked: Attr,
    ) -> Result<Region, Unfit> {
        if !offset.is_multiple_of(PAGE_BYTES) {
            return Err(Unfit::Misaligned { offset });
        }
        let offset = offset / PAGE_BYTES;
        let (have, needed) = (backing.pages(), offset.saturating_add(range.pages()));
        if have < needed {
            return Err(Unfit::BackingTooSmall { have, needed });
        }
        let attr = backing.attr(asked);
        self.check_attr(attr).map_err(Unfit::Unencodable)?;
        Ok(Region { range, asked, attr, offset, ground: Arc::new(Ground::new(backing)) })
    }

    fn check_attr(&self, attr: Attr) -> Result<(), EncodeError> {
        self.table.format().leaf(PageSize::Size4K, HostPfn::new(0), attr).map(drop)
    }

    /// Populates `part` of a region, for leaves as large as can be there.
    fn make_room(
        &self,
        layout: &Layout,
        region: &Region,
        part: GpaRange,
    ) -> Result<(), PopulateError> {
        let most = match layout.tracking {
            // As faults will map it.
            Tracking::On => PageSize::Size4K,
            Tracking::Off => region.ground.backing.largest(region.offset, region.range.start()),
        };
        // Up to the first that is not there: one larger could not give way for smaller ones.
        let fits = |&size: &PageSize| size <= most && self.table.format().supports(size);
        let granule = PageSize::ALL.into_iter().take_while(fits).last();
        let granule = granule.expect("every format has 4 KiB leaves");
        let mut done = Vec::new();
        for (piece, granule) in pieces(part, granule) {
            if let Err(error) = self.populate(piece, granule) {
                // Nobody has seen them: the layout does not have them.
                for piece in done {
                    let _ = self.table.vacate(piece);
                }
                return Err(error);
            }
            done.push(piece);
        }
        Ok(())
    }

    fn populate(&self, piece: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        match self.table.populate(piece, granule) {
            Err(PopulateError::OutOfFrames(short)) if short.waiting > 0 => {
                // Tables of regions that went wait for pins, and for vCPUs to come out.
                self.serve_with(piece, []);
                self.wait_for_pins();
                self.table.populate(piece, granule)
            }
            populated => populated,
        }
    }

    /// Vacates `part` of a region, which nobody maps any more.
    fn vacate(&self, region: &Region, part: GpaRange) -> Result<(), VacateError> {
        loop {
            match self.table.vacate(part) {
                // Somebody else's mapping.
                Err(VacateError::StillMapped { .. } | VacateError::Busy) => {
                    self.empty(region, part);
                }
                done => return done,
            }
        }
    }

    /// Sees to it that no leaf, and no room for one, lies across the beginning of `part`.
    fn cut_room(&self, part: GpaRange) -> Result<(), ResizeRegionError> {
        let first = part.first_page();
        let is_edge = |size: PageSize| size.begins_at(first);
        let of_2m = self.table.format().supports(PageSize::Size2M);
        let size = match () {
            () if is_edge(PageSize::Size1G) => return Ok(()),
            () if is_edge(PageSize::Size2M) && of_2m => PageSize::Size2M,
            () => PageSize::Size4K,
        };
        loop {
            self.split_edges(part).map_err(ResizeRegionError::CutsLarge)?;
            match self.table.refine(GpaRange::between(first, first + 1), size) {
                Ok(()) => return Ok(()),
                // By a fault, meanwhile.
                Err(RefineError::Mapped { .. }) => {}
                Err(error) => return Err(ResizeRegionError::CutsRoom(error)),
            }
        }
    }
}

/// Cuts a range into pieces that are populated for leaves as large as can be, up to `most`.
fn pieces(range: GpaRange, most: PageSize) -> Vec<(GpaRange, PageSize)> {
    let Some(smaller) = most.smaller() else { return vec![(range, most)] };
    let first = range.first_page().next_multiple_of(most.pages());
    let end = range.end_page() / most.pages() * most.pages();
    if first >= end {
        return pieces(range, smaller);
    }
    let mut cut = Vec::new();
    if range.first_page() < first {
        cut.extend(pieces(GpaRange::between(range.first_page(), first), smaller));
    }
    cut.push((GpaRange::between(first, end), most));
    if end < range.end_page() {
        cut.extend(pieces(GpaRange::between(end, range.end_page()), smaller));
    }
    cut
}
