//! Spaces: an address space made of regions, over one page table.
//!
//! A [`Space`] is what a VMM has; its table is how that is told to the MMU. A region is a range of guest
//! memory that one [`Backing`] fills. Pages become resident by faults, each vCPU's through its own [`Vcpu`]:
//!
//! ```text
//!     map_region ..      Space ----- Layout ----- Region ----- Ground ----- dyn Backing
//!                          |        (snapshot)    range, attr   holds,        frames
//!     fault, hold         Vcpu                                  fetches
//!                          |
//!                        Reader, Observer  -------------------------------  PageTable
//! ```
//!
//! Three rules carry all of it:
//!
//! - What faults decide by is one value, the [layout](region), which is replaced as a whole. A fault reads it,
//!   and maps, under one pin; who replaces it waits for the pins before it relies on that. So there is no
//!   look behind the mapping, and nothing that a late fault could map on account of what is no longer so.
//! - A frame is given back when no translation cache, no pin and no [`Hold`] reaches it, and not before.
//! - Nobody waits with a pin held.

mod agent;
mod backing;
mod change;
mod dump;
mod errors;
mod fetches;
#[cfg(all(feature = "vm-memory", not(any(loom, shuttle))))]
mod guest_memory;
mod hold;
mod holds;
mod prefault;
mod region;
mod restrict;
mod shared;
mod stats;
mod tracking;
mod unfinished;
mod vcpu;

use alloc::{sync::Arc as StdArc, vec::Vec};
use core::{fmt, num::NonZero, ops::ControlFlow};

#[cfg(all(feature = "vm-memory", not(any(loom, shuttle))))]
pub use self::guest_memory::{SpaceBitmap, SpaceBitmapSlice, SpaceMemory};
pub use self::{
    agent::Fault,
    backing::{
        Answer, Backing, BackingError, BeyondEnd, Contiguous, CopyOnWrite, CopyPool, Ended,
        FramePool, FramesError, OnDemand, OutOfMemory, Released, Request, Supplied, Supplier,
        SupplierGone, SupplyError, SupplyFailed, Want,
    },
    dump::{PageState, RegionDump, SpaceDump},
    errors::{
        DirtyError, DiscardError, FaultError, MapRegionError, PrefaultError, ProtectRegionError,
        ReplaceBackingError, ResizeRegionError, TrackError, UnmapRegionError,
    },
    hold::{Hold, HoldEnd, HoldRange},
    stats::{SpaceStats, VcpuStats},
    vcpu::{BadFaultAround, InsideVcpu, Vcpu},
};
use self::{region::Region, shared::Shared};
use crate::{
    addr::{Gpa, GpaRange, PAGE_BYTES},
    arena::FrameSource,
    attr::{Attr, Prot},
    bitmap::Bitmap,
    format::{Format, Tracking},
    heat::Heat,
    observe::Kick,
    page_table::PageTable,
    sync::Arc,
};

/// An address space made of regions.
///
/// A cheap handle: clones share one space. When the last of them is gone, and the last [`Vcpu`] and [`Hold`],
/// the backings get back what is mapped: it is waited for pins, and for observers that are inside, as by
/// [`unmap_region`](Space::unmap_region), so it is to be dropped with no pin held.
///
/// ```
/// # use std::sync::Arc;
/// use slat::{Attr, Contiguous, Ept, EptCaps, Fault, FaultError, Gpa, GpaRange, HeapFrames};
/// use slat::{HostPfn, Levels, ObserverId, PageTable, PhysWidth, Prot, Space};
///
/// let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// let table = PageTable::new(ept, HeapFrames::new(8))?;
/// // How a vCPU is made to leave the guest.
/// let kick = |_: ObserverId| ();
/// let space = Space::new(table, kick);
///
/// let low = GpaRange::new(Gpa::new(0), 0x10_0000)?;
/// let memory = Contiguous::new(HostPfn::new(0x1000), low.pages())?;
/// space.map_region(low, Arc::new(memory), 0, Attr::new(Prot::RWX))?;
///
/// // On the thread of a vCPU:
/// let vcpu = space.vcpu();
/// assert_eq!(vcpu.fault(Gpa::new(0x2345), Prot::W)?, Fault::Resolved);
/// assert!(matches!(vcpu.fault(Gpa::new(0x20_0000), Prot::R), Err(FaultError::NoRegion { .. })));
/// assert_eq!(space.resident(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Space<F: Format, S: FrameSource> {
    shared: Arc<Shared<F, S>>,
}

/// A region, as it stood at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegionInfo {
    /// Where it is.
    pub range: GpaRange,
    /// What its leaves have at most: what was asked for, as the backing has it.
    pub attr: Attr,
    /// Where in the backing it begins, in bytes.
    pub offset: u64,
    /// The backing.
    pub backing: StdArc<dyn Backing>,
    /// How many of its frames somebody holds.
    pub held: u64,
}

impl RegionInfo {
    fn new(region: &Region) -> Self {
        let Region { range, attr, offset, ref ground, .. } = *region;
        let (backing, held) = (StdArc::clone(&ground.backing), ground.holds.count());
        Self { range, attr, offset: offset * PAGE_BYTES, backing, held }
    }
}

impl<F: Format, S: FrameSource> Space<F, S> {
    /// Makes a space without regions over a table in which nothing is populated. `kick` makes a vCPU leave the
    /// guest; the space calls it wherever it has to wait for one, also while it changes regions: it must not call
    /// into the space. If it panics, so does who had to wait. Pages that were unmapped and not yet shot down are
    /// lost then, to the guest and to their backing; all else is as it was, and can be tried again.
    #[must_use]
    pub fn new(table: PageTable<F, S>, kick: impl Kick + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared::new(table, kick)) }
    }

    /// Returns the table, to look at it, for observers of translation caches that are no vCPU's, and to
    /// collapse leaves.
    ///
    /// What regions cover is the space's to map, unmap, protect, populate and vacate. Who does so
    /// nevertheless may make faults fail and frames be lost to their backing; the MMU, and the tables, are as
    /// safe as ever.
    #[must_use]
    pub fn table(&self) -> &PageTable<F, S> {
        &self.shared.table
    }

    /// Makes a vCPU's handle. Allocates and registers; one for each vCPU.
    #[must_use]
    pub fn vcpu(&self) -> Vcpu<F, S> {
        Vcpu::new(&self.shared)
    }

    /// Makes a region: `range` is what `backing` has from `offset` bytes on, with the attributes `attr`, of which
    /// the backing may take some away. Nothing is resident yet.
    ///
    /// # Errors
    /// [`MapRegionError`], and nothing has changed.
    ///
    /// # Concurrency
    /// Takes effect at the publication of the new layout; costs the tables of the range. Waits for other changes,
    /// and for pins: call it with none held. Where tables are short, and some of regions that went may still be
    /// walked, it kicks vCPUs that are inside and waits for them; if it is called from inside an observer it
    /// fails instead.
    pub fn map_region(
        &self,
        range: GpaRange,
        backing: StdArc<dyn Backing>,
        offset: u64,
        attr: Attr,
    ) -> Result<(), MapRegionError> {
        self.shared.map_region(range, backing, offset, attr)
    }

    /// Takes away the region that is just `range`: afterwards no vCPU, and no translation cache, reaches its
    /// frames; its backing has got them back, but for those that are [held](Vcpu::hold), and the range may be mapped again.
    ///
    /// # Errors
    /// [`UnmapRegionError`].
    ///
    /// # Concurrency
    /// Takes effect at the publication of the new layout: a fault that begins later finds
    /// [no region](FaultError::NoRegion); one that found the region may still map a page, which is unmapped
    /// with the others. Kicks vCPUs that are inside, and waits for them, for other changes, and for pins: call
    /// it with none held, and not from inside an observer. A page that is being fetched is not waited for.
    pub fn unmap_region(&self, range: GpaRange) -> Result<(), UnmapRegionError> {
        self.shared.unmap_region(range)
    }

    /// Gives the region that is just `range` other rights. Those that are taken away are gone from every
    /// translation cache when it returns; those that are added a page gets when it is needed.
    ///
    /// # Errors
    /// [`ProtectRegionError`], and nothing has changed.
    ///
    /// # Concurrency
    /// Takes effect for faults at the publication of the new layout, and for pages that are resident leaf by leaf.
    /// Waits as [`unmap_region`](Self::unmap_region) does.
    pub fn protect_region(&self, range: GpaRange, prot: Prot) -> Result<(), ProtectRegionError> {
        self.shared.protect_region(range, prot)
    }

    /// Gives the region that is just `range` another backing, from `offset` bytes on, and keeps the attributes that were
    /// asked for. Nothing of the old one is reached when it returns; nothing of the new one is resident.
    ///
    /// # Errors
    /// [`ReplaceBackingError`], and nothing has changed.
    ///
    /// # Concurrency
    /// While it runs, faults in the range are to be tried [again](Fault::Retry); before, they get pages of the old
    /// backing, and afterwards of the new one. Waits as [`unmap_region`](Self::unmap_region) does.
    pub fn replace_backing(
        &self,
        range: GpaRange,
        backing: StdArc<dyn Backing>,
        offset: u64,
    ) -> Result<(), ReplaceBackingError> {
        self.shared.replace_backing(range, backing, offset)
    }

    /// Makes the region that is just `range` end elsewhere: `new` begins where it begins. What is gone of it is gone as
    /// by [`unmap_region`](Self::unmap_region).
    ///
    /// # Errors
    /// [`ResizeRegionError`].
    ///
    /// # Concurrency
    /// As [`map_region`](Self::map_region), or [`unmap_region`](Self::unmap_region).
    pub fn resize_region(&self, range: GpaRange, new: GpaRange) -> Result<(), ResizeRegionError> {
        self.shared.resize_region(range, new)
    }

    /// Gives up the pages of `range`, which may be any part of one or more regions (a balloon): unmaps them,
    /// and gives their frames back. Returns how many 4 KiB pages were resident. What is there when a page is
    /// needed again is for the backing to say.
    ///
    /// # Errors
    /// [`DiscardError`], and nothing has changed.
    ///
    /// # Concurrency
    /// While it runs, faults in the range are to be tried [again](Fault::Retry). Waits as
    /// [`unmap_region`](Self::unmap_region) does.
    pub fn discard(&self, range: GpaRange) -> Result<u64, DiscardError> {
        self.shared.discard(range)
    }

    /// Makes the pages of `range` resident, as faults would. `progress` is told, again and again, how many of
    /// them were passed, and may stop it. Returns how many were passed in the end.
    ///
    /// # Errors
    /// [`PrefaultError`]: a page is in no region, or its backing fails. What is resident then stays so.
    ///
    /// # Concurrency
    /// As faults, page by page. Waits for pages that are being fetched. Call it with no pin held.
    pub fn prefault(
        &self,
        range: GpaRange,
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, PrefaultError> {
        self.shared.prefault(range, progress)
    }

    /// Does a [`prefault`](Self::prefault) on all threads of the rayon pool that it is called in. Parts of the
    /// range are passed in no particular order, and `progress` is told by the thread that passed one.
    ///
    /// # Errors
    /// As [`prefault`](Self::prefault); of several, any.
    ///
    /// # Concurrency
    /// As [`prefault`](Self::prefault).
    #[cfg(feature = "rayon")]
    pub fn prefault_in_parallel(
        &self,
        range: GpaRange,
        progress: impl Fn(u64) -> ControlFlow<()> + Sync,
    ) -> Result<u64, PrefaultError> {
        self.shared.prefault_in_parallel(range, progress)
    }

    /// Switches on, or off, that writes are tracked. From when it returns every write is reported by
    /// [`dirty`](Self::dirty), and none from before.
    ///
    /// While it is on, faults map 4 KiB pages; large leaves are split when it is switched on. Where the MMU keeps no
    /// dirty bits, the first write to each page faults, and [`fault`](Vcpu::fault) notes it; a page that
    /// becomes resident counts as written there.
    ///
    /// It rests on every vCPU entering through its [`Vcpu`]; another observer of an EPT has to be inside with
    /// [`Tracking::On`].
    ///
    /// # Errors
    /// [`TrackError`]; it is as it was.
    ///
    /// # Concurrency
    /// Waits as [`unmap_region`](Self::unmap_region) does.
    pub fn track_dirty(&self, tracking: Tracking) -> Result<(), TrackError> {
        self.shared.track(tracking)
    }

    /// Puts the pages of `range` into `found` that were written since they were last reported, and returns how
    /// many. When it returns no vCPU writes to one of them unnoticed any more: copy them then.
    ///
    /// Also pages whose contents have changed because they were [discarded](Self::discard), or got
    /// another [backing](Self::replace_backing), or because their region [went](Self::unmap_region) and another
    /// came. A page that belongs to no region is not reported.
    ///
    /// What a device has written through a [`Hold`] is reported when that was released: release all of them before
    /// the last look. A fault that is being resolved is over before it, too.
    ///
    /// # Errors
    /// [`DirtyError`], and nothing has changed.
    ///
    /// # Concurrency
    /// As [`Pinned::harvest`](crate::Pinned::harvest), with its shoot-down. Waits as
    /// [`unmap_region`](Self::unmap_region) does.
    pub fn dirty(&self, range: GpaRange, found: &mut Bitmap) -> Result<u64, DirtyError> {
        self.shared.dirty(range, found)
    }

    /// Returns the regions, in ascending order.
    ///
    /// # Concurrency
    /// All as of one moment.
    #[must_use]
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.shared.layout().regions.iter().map(RegionInfo::new).collect()
    }

    /// Returns the region that holds `gpa`.
    ///
    /// # Concurrency
    /// As of one moment.
    #[must_use]
    pub fn region_at(&self, gpa: Gpa) -> Option<RegionInfo> {
        let layout = self.shared.layout();
        Some(RegionInfo::new(&layout.regions[layout.find(gpa, 0)?]))
    }

    /// Returns how many 4 KiB pages are resident, from the counters of all handles: exact while nobody
    /// maps or unmaps.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.shared.stripes.resident()
    }

    /// Returns the regions and what is resident of each, for people and for programs.
    ///
    /// Costs the tables that exist, and memory for each run of leaves.
    ///
    /// # Concurrency
    /// The regions are those of one moment; weakly consistent otherwise, as
    /// [`PageTable::dump`](crate::PageTable::dump).
    #[must_use]
    pub fn dump(&self) -> SpaceDump {
        self.shared.dump()
    }

    /// Returns a heat map of each region, in ascending order: how many pages of each of at most `cells` equal parts
    /// are in this `state`. Changes no mark.
    ///
    /// # Concurrency
    /// As [`dump`](Self::dump).
    #[must_use]
    pub fn heat(&self, state: PageState, cells: NonZero<usize>) -> Vec<Heat> {
        self.shared.heat(state, cells)
    }

    /// Returns how the space stands.
    ///
    /// # Concurrency
    /// Each number as it was at some moment meanwhile.
    #[must_use]
    pub fn stats(&self) -> SpaceStats {
        let regions = self.shared.layout().regions;
        let stripes = &self.shared.stripes;
        SpaceStats {
            regions: regions.len() as u64,
            pages: regions.iter().map(|region| region.range.pages()).sum(),
            resident: stripes.resident(),
            held: regions.iter().map(|region| region.ground.holds.count()).sum(),
            faults: stripes.sum(|stripe| &stripe.faults),
            spurious: stripes.sum(|stripe| &stripe.spurious),
            lost: stripes.sum(|stripe| &stripe.lost),
            retries: stripes.sum(|stripe| &stripe.retries),
            fetches: stripes.sum(|stripe| &stripe.fetches),
            refused: stripes.sum(|stripe| &stripe.refused),
            table: self.shared.table.stats(),
        }
    }
}

impl<F: Format, S: FrameSource> Clone for Space<F, S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Space<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Space").field(&self.shared).finish()
    }
}
