//! One try at a fault, under one pin.

use alloc::sync::Arc;

use super::Agent;
use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    attr::Prot,
    format::{Format, Tracking},
    level::PageSize,
    mapping::Mapping,
    observe::Flush,
    ops::{FixError, MapError, Mapped, ProtectError, SlotRef, Spot},
    pinned::Pinned,
    space::{
        backing::{Answer, BackingError, Ended, Released, Want},
        errors::FaultError,
        region::{Ground, Layout, Region},
        shared::Shared,
    },
};

/// What one try under one pin came to.
pub(super) enum Try<'r> {
    /// The page is mapped, by a leaf of this size.
    Resolved(PageSize),
    /// Another changed the slot: try again.
    Again,
    /// The range is closed for a while.
    Closed,
    /// There has to be room for leaves of this size.
    Refine(PageSize),
    /// The leaf has to give way for ones of this size.
    Split(PageSize),
    /// This has to be invalidated first.
    Serve(Flush<'r>),
    /// This has to be invalidated, and the page then counts as written.
    Watch(Flush<'r>),
    /// The page has to be fetched.
    Fetch(Arc<Ground>, Want),
    /// The table was vacated under the region; what was mapped for a moment is the backing's again when
    /// that is invalidated.
    Vacated(Arc<Ground>, Released),
}

/// What a try has found.
struct Site<'s, 'r, F: Format, S: FrameSource> {
    pin: &'s Pinned<'r, F, S>,
    layout: &'s Layout,
    region: &'s Region,
    gpa: Gpa,
    access: Prot,
}

impl<'r, F: Format, S: FrameSource> Site<'_, 'r, F, S> {
    /// Returns the largest leaf to be mapped where there is room for one of `room`.
    #[inline]
    fn largest(&self, room: PageSize) -> PageSize {
        // So that what was written is known to the page.
        if self.layout.tracking == Tracking::On { PageSize::Size4K } else { room }
    }

    /// Returns the next smaller size to ask the backing for.
    fn smaller(&self, size: PageSize) -> Result<PageSize, FaultError> {
        let no_smaller = || FaultError::Backing {
            gpa: self.gpa,
            source: BackingError::new("4 KiB is the smallest size"),
        };
        size.smaller().ok_or_else(no_smaller)
    }

    /// Tells whether it is software that has to keep dirty bits.
    #[inline]
    fn is_watched(&self) -> bool {
        self.layout.tracking == Tracking::On && !self.pin.keeps_bits()
    }

    /// Watches a leaf that allows writes from now on, where that is to be done. It counts as written:
    /// it was writable for a moment. Returns what is to be served before that is enough.
    #[inline]
    fn watch(&self, size: PageSize, prot: Prot) -> Option<Flush<'r>> {
        if self.is_watched() && prot.contains(Prot::W) { self.begin_watch(size) } else { None }
    }

    #[cold]
    fn begin_watch(&self, size: PageSize) -> Option<Flush<'r>> {
        // In this order a leaf keeps the right that it has, unless a harvest came between.
        let _ = self.pin.note_dirty(self.gpa);
        let watched = self.pin.watch(size.leaf_range(self.gpa.page()));
        watched.ok().map(|(_, flush)| flush).filter(|flush| !flush.is_empty())
    }
}

impl<F: Format, S: FrameSource> Agent<F, S> {
    /// One try.
    #[inline]
    pub(super) fn attempt<'r>(
        &'r self,
        shared: &Shared<F, S>,
        gpa: Gpa,
        access: Prot,
    ) -> Result<Try<'r>, FaultError> {
        let pin = self.reader.pin();
        let layout = pin.read(&shared.layout);
        let no_region = FaultError::NoRegion { gpa };
        let Some(index) = layout.find(gpa, self.last.get()) else { return Err(no_region) };
        self.last.set(index);
        let region = &layout.regions[index];
        let have = region.attr.prot();
        if !have.contains(access) {
            return Err(FaultError::Denied { gpa, have });
        }
        if layout.is_closed(gpa) {
            return Ok(Try::Closed);
        }
        let Ok(slot) = pin.slot(gpa) else { return Err(no_region) };
        let site = Site { pin: &pin, layout, region, gpa, access };
        match slot.spot_seen() {
            Spot::Room(room) => self.fill(&site, &slot, room),
            Spot::Leaf(leaf) => self.allow(&site, &slot, &leaf),
            Spot::Nothing => Err(FaultError::NotPopulated { gpa }),
        }
    }

    /// Maps a page where there is room for a leaf.
    #[inline]
    fn fill<'r>(
        &self,
        site: &Site<'_, 'r, F, S>,
        slot: &SlotRef<'_, F, S>,
        room: PageSize,
    ) -> Result<Try<'r>, FaultError> {
        let Site { region, gpa, access, .. } = *site;
        let ground = &region.ground;
        let size = region.leaf_within(gpa, site.largest(room));
        if size != room {
            return Ok(Try::Refine(size));
        }
        let leaf = size.leaf_range(gpa.page());
        if site.layout.closed.is_some_and(|closed| closed.overlaps(leaf)) {
            return Ok(Try::Closed);
        }
        let want = Want::new(region.backing_page(leaf.first_page()), size, access);
        let (frame, most) = match ground.backing.frame(&want) {
            Answer::Frame(frame, most) => (frame, most),
            Answer::Smaller => return site.smaller(size).map(Try::Refine),
            Answer::Wait => return Ok(Try::Fetch(Arc::clone(ground), want)),
            Answer::Failed(source) => return Err(FaultError::Backing { gpa, source }),
        };
        let unused = || ground.backing.release(Released::unused(want.page, frame, size));
        let prot = region.attr.prot() & most;
        if !prot.contains(access) {
            unused();
            return Err(FaultError::Denied { gpa, have: prot });
        }
        match slot.map_seen(frame, size, region.attr.with_prot(prot)) {
            Ok(Mapped::New) => {
                self.stripe.mapped.add(size.pages());
                if let Some(flush) = site.watch(size, prot) {
                    return Ok(Try::Watch(flush));
                }
                if self.around > 1 && size == PageSize::Size4K && !site.is_watched() {
                    self.fill_around(site);
                }
                Ok(Try::Resolved(size))
            }
            Ok(Mapped::Same) => {
                unused();
                Ok(Try::Resolved(size))
            }
            Err(MapError::Unencodable(source)) => {
                unused();
                Err(FaultError::Unencodable { gpa, source })
            }
            Err(MapError::Vacated { accessed, dirty, .. }) => {
                let ended = Ended::Unmapped { accessed, dirty };
                let released = Released { ended, ..Released::unused(want.page, frame, size) };
                Ok(Try::Vacated(Arc::clone(ground), released))
            }
            Err(MapError::Occupied(_)) => {
                unused();
                self.stripe.lost.add(1);
                Ok(Try::Again)
            }
            Err(MapError::WrongSize { .. }) => {
                unused();
                Ok(Try::Again)
            }
            Err(MapError::NotPopulated { .. } | MapError::OutOfRange { .. }) => {
                unused();
                Err(FaultError::NotPopulated { gpa })
            }
        }
    }

    /// Maps the pages around one that was mapped, where that is quickly done.
    fn fill_around(&self, site: &Site<'_, '_, F, S>) {
        let Site { pin, layout, region, gpa, .. } = *site;
        let ground = &region.ground;
        let first = gpa.page() & !(self.around - 1);
        let window = GpaRange::between(first, first + self.around);
        let Some(window) = window.overlap(region.range) else { return };
        for page in (window.first_page()..window.end_page()).filter(|&page| page != gpa.page()) {
            let there = Gpa::of_page(page);
            let Ok(slot) = pin.slot(there) else { return };
            if layout.is_closed(there) || slot.spot_seen() != Spot::Room(PageSize::Size4K) {
                continue;
            }
            let want = Want::new(region.backing_page(page), PageSize::Size4K, Prot::empty());
            let Answer::Frame(frame, most) = ground.backing.frame(&want) else { continue };
            let prot = region.attr.prot() & most;
            let attr = region.attr.with_prot(prot);
            match slot.map_seen(frame, PageSize::Size4K, attr) {
                Ok(Mapped::New) => self.stripe.mapped.add(1),
                // A translation cache may have it: so it is lost, as is the page.
                Err(MapError::Vacated { .. }) => return,
                Ok(Mapped::Same) | Err(_) => {
                    let unused = Released::unused(want.page, frame, PageSize::Size4K);
                    ground.backing.release(unused);
                }
            }
        }
    }

    /// Sees to it that the leaf that is there allows the access.
    fn allow<'r>(
        &self,
        site: &Site<'_, 'r, F, S>,
        slot: &SlotRef<'_, F, S>,
        leaf: &Mapping,
    ) -> Result<Try<'r>, FaultError> {
        let Site { pin, region, gpa, access, .. } = *site;
        let ground = &region.ground;
        if !region.range.covers(leaf.range()) {
            // Somebody has collapsed it across the region's end.
            return site.smaller(leaf.size).map(Try::Split);
        }
        if leaf.attr.prot().contains(access) {
            // It may be the watch that stopped it.
            return match access.contains(Prot::W).then(|| pin.fix_write(gpa)) {
                None | Some(Ok(_)) => {
                    self.stripe.spurious.add(1);
                    Ok(Try::Resolved(leaf.size))
                }
                Some(Err(FixError::NotMapped { .. } | FixError::Denied { .. })) => Ok(Try::Again),
                Some(Err(FixError::OutOfRange { .. })) => Err(FaultError::NoRegion { gpa }),
            };
        }
        let size = region.leaf_within(gpa, leaf.size);
        if size != leaf.size {
            // Somebody has collapsed leaves across the region's end: of what is beyond, its backing knows nothing.
            return Ok(Try::Split(size));
        }
        let page = region.backing_page(leaf.gpa.page());
        let want = Want::new(page, size, access).with_present(leaf.pfn);
        let most = match ground.backing.frame(&want) {
            Answer::Frame(frame, most) if frame == leaf.pfn => most,
            Answer::Frame(frame, _) => {
                ground.backing.release(Released::unused(page, frame, leaf.size));
                if slot.spot() != Spot::Leaf(*leaf) {
                    return Ok(Try::Again);
                }
                let source = BackingError::new("another frame without a wait");
                return Err(FaultError::Backing { gpa, source });
            }
            Answer::Smaller => return site.smaller(leaf.size).map(Try::Split),
            Answer::Wait => return Ok(Try::Fetch(Arc::clone(ground), want)),
            Answer::Failed(source) => return Err(FaultError::Backing { gpa, source }),
        };
        let prot = region.attr.prot() & most;
        if !prot.contains(access) {
            return Err(FaultError::Denied { gpa, have: leaf.attr.prot() });
        }
        // Still of this frame, or gone: who puts another frame there waits for this pin first.
        let flush = match pin.protect(leaf.range(), prot) {
            Ok((_, flush)) => flush,
            Err(ProtectError::BadProt(source)) => {
                return Err(FaultError::Unencodable { gpa, source: source.into() });
            }
            Err(_) => return Ok(Try::Again),
        };
        if let Some(flush) = site.watch(leaf.size, prot) {
            return Ok(Try::Watch(flush));
        }
        // Not for what was added: of that no cache knows.
        if flush.is_empty() { Ok(Try::Resolved(leaf.size)) } else { Ok(Try::Serve(flush)) }
    }
}
