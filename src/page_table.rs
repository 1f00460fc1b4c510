//! One table, as its owner sees it: creation, structure, and the ways in.

use core::fmt;

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    bitmap::Bitmap,
    format::Format,
    level::PageSize,
    observe::{Domain, Flush, Kick, Observer, Observers, Reclaimed, Stats},
    ops::{
        CollapseError, Collapsed, HarvestError, Mark, PopulateError, RefineError, SplitError,
        SplitRangeError, VacateError,
    },
    pinned::Pinned,
    reader::Reader,
    sync::Arc,
    table::CreateError,
};

/// A second-level address translation table: EPT, nPT or long-mode tables that the MMU itself walks.
///
/// A cheap handle: clones share one table, which is freed, with all its tables, when the last handle,
/// the last [`Reader`] and the last [`Observer`] are dropped, in whatever state it is.
///
/// ```
/// use slat::{Attr, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, Mapped, PageSize};
/// use slat::{PageTable, PhysWidth, Prot};
///
/// let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// let table = PageTable::new(ept, HeapFrames::new(8))?;
/// table.populate(GpaRange::new(Gpa::new(0x10_0000), 0x10_0000)?, PageSize::Size4K)?;
///
/// // On the fault path, on any thread, with a reader of its own:
/// let reader = table.reader();
/// let pin = reader.pin();
/// let fault = Gpa::new(0x10_2345);
/// let attr = Attr::new(Prot::RWX);
/// assert_eq!(pin.map(fault, HostPfn::new(0x77), PageSize::Size4K, attr), Ok(Mapped::New));
/// assert_eq!(pin.lookup(fault).unwrap().gpa, Gpa::new(0x10_2000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PageTable<F: Format, S: FrameSource> {
    domain: Arc<Domain<F, S>>,
}

impl<F: Format, S: FrameSource> PageTable<F, S> {
    /// Makes a table in which nothing is populated; takes one frame, for the root.
    ///
    /// # Errors
    /// [`CreateError`] if the source has no frame, or one that does not fit the format.
    pub fn new(format: F, frames: S) -> Result<Self, CreateError> {
        Ok(Self { domain: Arc::new(Domain::new(format, frames)?) })
    }

    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> &F {
        self.domain.tree().format()
    }

    /// Returns the frame source.
    #[must_use]
    pub fn frames(&self) -> &S {
        self.domain.tree().frames()
    }

    /// Returns the frame of the root table, which stays the same for the life of the table.
    #[must_use]
    pub fn root(&self) -> HostPfn {
        self.domain.tree().root()
    }

    /// Makes tables for `range`, so that leaves of the size `granule` can be mapped there.
    ///
    /// Exact for every page: afterwards precisely the pages of this and of earlier ranges are
    /// populated. Costs the tables that it links, not the pages: wholly covered leaf tables are not
    /// even written to.
    ///
    /// A page takes a leaf of just that size, until it is [refined](Self::refine). The range is aligned to
    /// `granule`.
    ///
    /// # Errors
    /// [`PopulateError`], and nothing has changed: a page was populated already, the source has too
    /// few frames, the processor has no such leaves, or the range is not aligned to them, or has pages
    /// that the format does not translate.
    ///
    /// # Concurrency
    /// Takes the writer lock. Takes effect at the publication of each topmost new table, which is
    /// complete by then; a long range is not atomic to others. The fault path goes on beside it.
    pub fn populate(&self, range: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        self.domain.populate(range, granule)
    }

    /// Makes tables for `range` and maps its pages, by leaves of the size `granule`, to the consecutive
    /// frames from `first` on: for prefault and restore. New tables are filled before anybody can see
    /// them.
    ///
    /// # Errors
    /// As [`populate`](Self::populate), and if the format cannot encode the leaves. Nothing has
    /// changed then.
    ///
    /// # Concurrency
    /// As [`populate`](Self::populate). No page of the range is ever seen populated and not mapped,
    /// so no other mapper can come between. Where the range begins or ends in a leaf table that
    /// exists already, its pages appear there one by one.
    pub fn populate_mapped(
        &self,
        range: GpaRange,
        granule: PageSize,
        first: HostPfn,
        attr: Attr,
    ) -> Result<(), PopulateError> {
        self.domain.populate_mapped(range, granule, first, attr)
    }

    /// Makes room for smaller leaves where `range` has room for larger ones only: every slot of a granule
    /// above `granule` in which a page of the range lies becomes a table of slots of the next smaller
    /// one, down to `granule`. A slot at either end is refined as far as it takes, so it may come to have
    /// smaller granules outside the range as well. Where the granule is no larger, nothing changes.
    ///
    /// For a backing that has only small frames for a page, and for tracking which small pages are
    /// written. A leaf that is mapped is [split](Self::split) instead.
    ///
    /// # Errors
    /// [`RefineError`]: the range is not populated throughout, or a large leaf is mapped in it; frames,
    /// sizes and addresses as for [`populate`](Self::populate). Nothing has changed, unless another thread
    /// mapped a large leaf meanwhile.
    ///
    /// # Concurrency
    /// Takes the writer lock. Takes effect slot by slot, at one compare-exchange each. A
    /// [map](Pinned::map) of a large leaf that comes at the same time wins, and is the error, or is told
    /// of the new granule.
    pub fn refine(&self, range: GpaRange, granule: PageSize) -> Result<(), RefineError> {
        self.domain.refine(range, granule)
    }

    /// Splits the large leaf that translates `gpa`, again and again, until the leaf that does is of
    /// `size` or smaller. What it mapped stays mapped, by leaves with the same attributes and the same
    /// accessed and dirty bits.
    ///
    /// # Errors
    /// [`SplitError`]: nothing is mapped there, too few frames, or no leaves of that size. A leaf of 1 GiB
    /// that was to become one of 4 KiB may have become ones of 2 MiB.
    ///
    /// # Concurrency
    /// Takes the writer lock. Takes effect at one compare-exchange for each size: a walk finds the large
    /// leaf or the small ones, and never nothing. No bit that the MMU sets is lost; nothing has to be
    /// invalidated, and nobody is kicked.
    ///
    /// Where the format says [`BreakFirst`](crate::Resize::BreakFirst), the MMU finds nothing for the time of a
    /// shoot-down, which it waits for, as [`collapse`](Self::collapse) does; a fault that this brings is
    /// over when the page is mapped as it was, or by itself.
    pub fn split(&self, gpa: Gpa, size: PageSize, kick: &impl Kick) -> Result<(), SplitError> {
        self.domain.split(gpa, size, kick)
    }

    /// Splits every leaf that maps a page of `range` until all are of `size` or smaller, in chunks;
    /// returns how many leaves it split. After each chunk `progress` is told how many pages of the range
    /// it has passed.
    ///
    /// Costs the tables, not the pages. Leaves that are mapped meanwhile may be missed.
    ///
    /// # Errors
    /// [`SplitRangeError`] tells how far it came; what was split stays split.
    ///
    /// # Concurrency
    /// As [`split`](Self::split), leaf by leaf. The writer lock is taken for one chunk at a time, and not
    /// held when `progress` is called.
    pub fn split_range(
        &self,
        range: GpaRange,
        size: PageSize,
        kick: &impl Kick,
        progress: impl FnMut(u64),
    ) -> Result<u64, SplitRangeError> {
        self.domain.split_range(range, size, kick, progress)
    }

    /// Makes one leaf of `size` out of the leaves of the next smaller size that map the same pages: with
    /// consecutive frames, the first of which is aligned, and with equal attributes. It is accessed, or
    /// dirty, if any of them was. Nothing happens if it is there already.
    ///
    /// Call it with no pin held, and not from inside an observer.
    ///
    /// # Errors
    /// [`CollapseError`], and all leaves are as they were: a page is not mapped, or not by such leaves; or
    /// others were changing them, or held pins for too long.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange: a walk finds the small leaves or the large one, and never
    /// nothing. A change to one of the small leaves that comes at the same time wins, and the collapse is
    /// [`Busy`](CollapseError::Busy). No bit that the MMU sets is lost, also through what it has cached of
    /// the old table: until the shoot-down is complete the leaf counts as accessed and dirty.
    ///
    /// Waits for other collapses, for pins, and, like [`Shootdown::wait`](crate::Shootdown::wait), for
    /// observers that are inside. The writer lock is not held meanwhile. If `kick` panics the leaf stays,
    /// and goes on counting as accessed and dirty.
    ///
    /// Where the format says [`BreakFirst`](crate::Resize::BreakFirst), the MMU finds nothing for the time of
    /// the shoot-down.
    pub fn collapse(
        &self,
        gpa: Gpa,
        size: PageSize,
        kick: &impl Kick,
    ) -> Result<(), CollapseError> {
        self.domain.collapse(gpa, size, kick)
    }

    /// Collapses whatever can be collapsed in `range` to leaves of `size` (and first of the sizes between),
    /// in chunks: with one shoot-down for many leaves. After each chunk `progress` is told how many pages
    /// of the range it has passed. Leaves that would go past the range are not made.
    ///
    /// # Errors
    /// [`CollapseError`], if it cannot begin; or if it is `InsideGuest`, where it stopped. That some leaves
    /// cannot be collapsed is no error: [`Collapsed`] counts them.
    ///
    /// # Concurrency
    /// As [`collapse`](Self::collapse), leaf by leaf.
    pub fn collapse_range(
        &self,
        range: GpaRange,
        size: PageSize,
        kick: &impl Kick,
        progress: impl FnMut(u64),
    ) -> Result<Collapsed, CollapseError> {
        self.domain.collapse_range(range, size, kick, progress)
    }

    /// Makes the pages of `range` unpopulated, and takes out of the tree all tables that are left with
    /// nothing but unpopulated pages; only the root stays.
    ///
    /// The range may be any part of what was populated, and the union of several ranges that were. All of
    /// it must be populated, and none of it mapped. Costs the tables that it looks through: 4 KiB are
    /// read for every 2 MiB of the range, and nothing is written to tables that go.
    ///
    /// The tables go back to the frame source when nobody can walk them any more: at once, if nobody can
    /// when it ends, or with a later structural operation, or with [`reclaim`](Self::reclaim). Until
    /// then [`stats`](Self::stats) counts them as waiting.
    ///
    /// # Errors
    /// [`VacateError`], and nothing has changed: a page is still mapped, or was not populated, the range
    /// cuts the room for a large leaf, or has pages that the format does not translate; or others mapped
    /// pages in it, and unmapped them, again and again.
    ///
    /// # Concurrency
    /// Takes the writer lock. Takes effect at one moment for the whole range. A page that is still mapped may
    /// be so no more when its address is returned. A [map](Pinned::map) that
    /// comes at the same time either wins, and the range is [still mapped](VacateError::StillMapped),
    /// or is told that there is no memory here; neither waits for the other. Every observer
    /// invalidates what it has cached of the range before it enters again; to drop tables from the
    /// caches of one that is inside is the business of whoever wants them back soon.
    pub fn vacate(&self, range: GpaRange) -> Result<(), VacateError> {
        self.domain.vacate(range)
    }

    /// Makes a reader: the handle by which one thread at a time pins the table, cheaply.
    ///
    /// Allocates and registers; make one per vCPU, not one per fault.
    #[must_use]
    pub fn reader(&self) -> Reader<F, S> {
        Reader::new(self.clone(), self.domain.tree().epoch().join())
    }

    /// Pins the table without a [`Reader`]: the slow way, for a look now and then. It registers a
    /// participant and gives it up again with the pin.
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, F, S> {
        Pinned::new(&self.domain, self.domain.tree().epoch().join().pin())
    }

    /// Makes an observer: a translation cache that walks the table, or will. Hardware gets its root
    /// pointer from there, and a software MMU its view.
    ///
    /// Allocates and registers; make one per translation cache.
    #[must_use]
    pub fn observer(&self) -> Observer<F, S> {
        Observer::new(Arc::clone(&self.domain))
    }

    /// Returns the observers of the table: to look which of them keep it from freeing tables, and to
    /// take the dead off the list.
    #[must_use]
    pub fn observers(&self) -> Observers<'_> {
        Observers::new(self.domain.hub())
    }

    /// Returns the duty to invalidate everything: all that was taken away up to now.
    ///
    /// For changes that left no [`Flush`]: a mapping that was [vacated](crate::MapError::Vacated) before
    /// it took hold, a flush that was dropped.
    pub fn flush_all(&self) -> Flush<'_> {
        Flush::all(self.domain.hub())
    }

    /// Frees tables that were unlinked and that nobody can walk any more. Every structural operation
    /// does so as well, before it allocates.
    ///
    /// Kicks the observers that are inside and hold something back; does not wait for them, so what
    /// they hold back is freed by a later call.
    ///
    /// # Concurrency
    /// Takes the writer lock, after the kicks.
    pub fn reclaim(&self, kick: &impl Kick) -> Reclaimed {
        self.domain.reclaim(kick)
    }

    /// Does a [`harvest`](Pinned::harvest) that reads only what was touched: the MMU sets accessed bits in
    /// the entries above a leaf, too, and where they are clear nothing is below. For memory of which little
    /// was touched since the round before, of either mark; where that is much, it reads everything.
    ///
    /// What is reported and cleared is the same. A page may be reported a round later than it could be,
    /// never later than the round that begins when all writes are over and shot down. It rests on every MMU
    /// that walks the table having its [`observer`](Self::observer).
    ///
    /// # Errors
    /// As [`harvest`](Pinned::harvest).
    ///
    /// # Concurrency
    /// As [`harvest`](Pinned::harvest), but one round at a time: waits for others. The [`Flush`] covers
    /// paging-structure caches. Call it with no pin held.
    pub fn harvest_round(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'_>), HarvestError> {
        self.domain.harvest_round(range, mark, found)
    }

    /// Does a [`harvest`](Pinned::harvest) on all the threads of the rayon pool that it is called in, each
    /// under a pin of its own.
    ///
    /// For large ranges of which much is mapped: the parts are no smaller than 32 MiB.
    ///
    /// # Errors
    /// As [`harvest`](Pinned::harvest).
    ///
    /// # Concurrency
    /// As [`harvest`](Pinned::harvest). Call it with no pin held: it waits for the pool's threads. It
    /// registers a reader for each part.
    #[cfg(feature = "rayon")]
    pub fn harvest_in_parallel(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'_>), HarvestError> {
        self.domain.harvest_in_parallel(range, mark, found)
    }

    /// Returns how the table stands.
    ///
    /// # Concurrency
    /// Takes two short locks, one after the other; each number as it was at some moment meanwhile.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.domain.stats()
    }

    #[inline]
    pub(crate) fn domain(&self) -> &Domain<F, S> {
        &self.domain
    }
}

impl<F: Format, S: FrameSource> Clone for PageTable<F, S> {
    fn clone(&self) -> Self {
        Self { domain: Arc::clone(&self.domain) }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for PageTable<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PageTable").field(&self.domain).finish()
    }
}
