//! The fault path: everything that runs without a lock.

mod watch;

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::{Attr, Prot},
    bitmap::Bitmap,
    epoch::{Pin, Snapshot},
    format::Format,
    level::{Level, PageSize},
    mapping::Mapping,
    observe::{Collect, Covered, Domain, Flush},
    ops::{
        HarvestError, HostRun, MapError, MapRangeError, Mapped, MappedRange, Mappings, Mark,
        OutOfRange, ProtectError, SlotRef, TranslateError, UnmapError, UnmapRangeError, Walk,
    },
    table::Walker,
};

/// A pinned table: the right to walk it, and all operations of the fault path.
///
/// None of them takes a lock, allocates, or writes anything shared but the slot that it changes.
/// Lookups are wait-free; changes are lock-free: a compare-exchange fails only because another
/// succeeded or because the MMU set a bit. A thread that stops in the middle of one stops nobody.
///
/// An address may point anywhere into its page.
///
/// Operations take effect one after the other, as docs/THEORY.md says under "Linearizability". Of several under
/// one pin that is the processor's promise where a bit is reset, or a right granted, and then another
/// page looked at: x86 keeps it.
///
/// A pin stays on its thread, and what it hands out does not outlive it:
///
/// ```compile_fail,E0277
/// # fn sent(pin: slat::Pinned<'static, slat::Ept, slat::HeapFrames>) {
/// std::thread::spawn(move || drop(pin)); // `Pinned` is not `Send`
/// # }
/// ```
///
/// ```compile_fail,E0502
/// # fn kept(reader: &slat::Reader<slat::Ept, slat::HeapFrames>) {
/// let mut pin = reader.pin();
/// let slot = pin.slot(slat::Gpa::new(0)).unwrap();
/// pin.repin(); // `slot` still borrows the pin
/// slot.set_dirty();
/// # }
/// ```
#[derive(Debug)]
pub struct Pinned<'r, F: Format, S: FrameSource> {
    domain: &'r Domain<F, S>,
    pin: Pin,
}

impl<'r, F: Format, S: FrameSource> Pinned<'r, F, S> {
    #[inline]
    pub(crate) fn new(domain: &'r Domain<F, S>, pin: Pin) -> Self {
        Self { domain, pin }
    }

    #[inline]
    fn look(&self) -> Walker<'_, F, S> {
        self.domain.tree().walk(&self.pin)
    }

    #[inline]
    fn change(&self) -> Walker<'_, F, S> {
        self.domain.tree().walk_to_change(&self.pin)
    }

    /// Lets reclamation go on: leaves the epoch and enters it again, more cheaply than dropping the
    /// pin and taking another. Nothing that was found under the pin can still be held.
    #[inline]
    pub fn repin(&mut self) {
        self.pin.repin();
    }

    /// Maps the page of `size` that holds `gpa` to the frames from `pfn` on.
    ///
    /// # Errors
    /// [`MapError`]; the table is as it was. `Occupied` carries the mapping that is in the way.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange. Of two threads that map one page, one gets
    /// [`Mapped::New`] and the other `Same` or `Occupied`. There is nothing to invalidate: no MMU
    /// caches that nothing is mapped (Intel SDM vol. 3A, 4.10.2, and vol. 3C, 29.4.2).
    ///
    /// Of two that map it to the same frame, both too late for a [vacate](crate::PageTable::vacate), with
    /// an unmap in between, one says `New` and the other `Vacated`, but it may be either.
    #[inline]
    pub fn map(
        &self,
        gpa: Gpa,
        pfn: HostPfn,
        size: PageSize,
        attr: Attr,
    ) -> Result<Mapped, MapError> {
        self.change().map(gpa, pfn, size, attr)
    }

    /// Maps the pages of `range` to the consecutive frames from `first` on, each by a leaf of the size for
    /// which it was populated.
    ///
    /// Visits tables, not pages. Where there is room for large leaves only, range and frames have to be
    /// aligned to them ([`WrongSize`](MapError::WrongSize),
    /// [`Misaligned`](crate::EncodeError::Misaligned) otherwise): [refine](crate::PageTable::refine) it
    /// first.
    ///
    /// # Errors
    /// [`MapRangeError`]. The whole range is checked before the first page is mapped; only if another
    /// thread changes it meanwhile can the call end half-way, and the error says how far it came.
    ///
    /// # Concurrency
    /// Takes effect page by page.
    pub fn map_range(
        &self,
        range: GpaRange,
        first: HostPfn,
        attr: Attr,
    ) -> Result<MappedRange, MapRangeError> {
        self.change().map_range(range, first, attr)
    }

    /// Maps many 4 KiB pages with the same attributes, in order, and tells `sink` how each went. The
    /// walks overlap, so scattered pages cost far less than one at a time; for that, `pages` is read
    /// some way ahead of what `sink` is told.
    ///
    /// # Concurrency
    /// Takes effect page by page, as [`map`](Self::map) does.
    pub fn map_many(
        &self,
        pages: impl IntoIterator<Item = (Gpa, HostPfn)>,
        attr: Attr,
        sink: impl FnMut(Gpa, Result<Mapped, MapError>),
    ) {
        self.change().map_many(pages, attr, sink);
    }

    /// Unmaps the leaf that translates `gpa`, whole if it is large, and returns it with its final
    /// accessed and dirty bits.
    ///
    /// # Errors
    /// [`UnmapError`] if nothing is mapped there, or the format does not translate the address.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange. Of two threads that unmap one page, one gets the mapping.
    /// Until the [`Flush`] is served, a translation cache may still reach the frame.
    #[inline]
    pub fn unmap(&self, gpa: Gpa) -> Result<(Mapping, Flush<'r>), UnmapError> {
        let mut covered = Covered::default();
        let mapping = self.change().unmap(gpa, &mut covered)?;
        Ok((mapping, Flush::new(self.domain.hub(), covered)))
    }

    /// Unmaps every leaf in `range` and hands each to `sink`; returns how many 4 KiB pages they mapped.
    ///
    /// Visits the tables that exist, not the pages.
    ///
    /// # Errors
    /// [`UnmapRangeError`], before anything has changed: a large leaf lies partly outside the range,
    /// or the range has pages that the format does not translate.
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf. Pages that are mapped meanwhile may be missed. If `sink` panics, the
    /// leaves up to then are unmapped, and it is as if their [`Flush`] was dropped: the pages must not
    /// be used again.
    pub fn unmap_range(
        &self,
        range: GpaRange,
        sink: impl FnMut(Mapping),
    ) -> Result<(u64, Flush<'r>), UnmapRangeError> {
        let mut changed = self.collect();
        let pages = self.change().unmap_range(range, &mut changed.covered, sink)?;
        Ok((pages, changed.done()))
    }

    /// Unmaps the leaf of each of many pages, in order, and tells `sink` how each went; the walks
    /// overlap, as those of [`map_many`](Self::map_many).
    ///
    /// # Concurrency
    /// Takes effect page by page, as [`unmap`](Self::unmap) does. If `pages` or `sink` panics, it is as
    /// if the [`Flush`] of what was unmapped up to then was dropped.
    pub fn unmap_many(
        &self,
        pages: impl IntoIterator<Item = Gpa>,
        sink: impl FnMut(Gpa, Result<Mapping, UnmapError>),
    ) -> Flush<'r> {
        let mut changed = self.collect();
        self.change().unmap_many(pages, &mut changed.covered, sink);
        changed.done()
    }

    /// Gives every leaf in `range` the rights `prot`; returns how many 4 KiB pages had others.
    ///
    /// Frames, memory types, accessed and dirty bits stay as they are. A leaf that is
    /// [watched](Self::watch) remains so if it still allows writes; one that allows writes anew is not.
    /// The [`Flush`] covers leaves that lost a right; where rights were only added, a cache that still
    /// denies an access merely faults once more.
    ///
    /// # Errors
    /// [`ProtectError`], before anything has changed.
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf; an accessed or dirty bit that the MMU sets meanwhile is kept. May count a
    /// leaf that is lost, since its map comes too late for a vacate.
    pub fn protect(&self, range: GpaRange, prot: Prot) -> Result<(u64, Flush<'r>), ProtectError> {
        let mut changed = self.collect();
        let pages = self.change().protect(range, prot, &mut changed.covered)?;
        Ok((pages, changed.done()))
    }

    /// Puts the pages of `range` that have the `mark` into `found`, and clears their marks; returns how
    /// many 4 KiB pages that were. Pages that are in `found` already stay there.
    ///
    /// Until the [`Flush`] is served, an MMU may go on accessing or writing a page through a translation
    /// that it cached, without setting the mark again. So **what is written until the end of the
    /// shoot-down belongs to this round**: copy the pages after it, not before.
    ///
    /// ```
    /// # use slat::{Attr, Bitmap, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, Mark};
    /// # use slat::{ObserverId, PageSize, PageTable, PhysWidth, Prot};
    /// # let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
    /// # let table = PageTable::new(ept, HeapFrames::new(8))?;
    /// # let ram = GpaRange::new(Gpa::new(0), 0x10_0000)?;
    /// # table.populate_mapped(ram, PageSize::Size4K, HostPfn::new(0x100), Attr::new(Prot::RW))?;
    /// # let reader = table.reader();
    /// # reader.pin().slot(Gpa::new(0x5000))?.set_dirty();
    /// # let kick = |_: ObserverId| ();
    /// let mut dirty = Bitmap::new(ram);
    /// let (pages, flush) = reader.pin().harvest(ram, Mark::Dirty, &mut dirty)?;
    /// flush.shootdown().wait(&kick)?;
    /// for pages in dirty.runs() {
    ///     // Copy them.
    ///     # assert_eq!(pages, GpaRange::new(Gpa::new(0x5000), 0x1000)?);
    /// }
    /// # assert_eq!(pages, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A large leaf has one mark for all its pages: those of them in the range are reported. The mark is
    /// cleared only if the range holds the whole leaf; otherwise it stays, and they are reported again
    /// next time. So nothing is ever lost, and a part may be reported twice.
    ///
    /// Costs the tables of the range that exist, not its pages.
    ///
    /// # Errors
    /// [`HarvestError`], before anything has changed.
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf, each at one atomic operation. A mark that the MMU sets meanwhile is
    /// reported or stays; of several harvests, resets and unmaps exactly one gets each mark. Maps and
    /// vacates are not held up.
    pub fn harvest(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'r>), HarvestError> {
        let mut changed = self.collect();
        let pages = self.look().harvest(range, mark, found, &mut changed.covered)?;
        Ok((pages, changed.done()))
    }

    /// Does a [`harvest`](Self::harvest) of the pages that are in `selection`; the marks of all others
    /// stay.
    ///
    /// A large leaf of which some pages are selected and others are not keeps its mark, and the selected
    /// ones are reported.
    ///
    /// # Errors
    /// As [`harvest`](Self::harvest), for the range of `selection`.
    ///
    /// # Concurrency
    /// As [`harvest`](Self::harvest).
    pub fn harvest_selected(
        &self,
        selection: &Bitmap,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'r>), HarvestError> {
        let mut changed = self.collect();
        let covered = &mut changed.covered;
        let pages = self.look().harvest_selected(selection, mark, found, covered)?;
        Ok((pages, changed.done()))
    }

    /// Puts the pages of `range` that have the `mark` into `found`, and leaves their marks as they are;
    /// returns how many 4 KiB pages that were.
    ///
    /// # Errors
    /// As [`harvest`](Self::harvest).
    ///
    /// # Concurrency
    /// Weakly consistent: each leaf as it stood when it was read.
    pub fn query(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<u64, HarvestError> {
        self.look().query(range, mark, found)
    }

    /// Makes the pages of `selection` dirty, as if the MMU had written them; returns how many 4 KiB pages
    /// were clean before.
    ///
    /// Only pages that are mapped and can be written: others are passed over, and their entries stay as
    /// they are. A large leaf becomes dirty as a whole, and counts with all its pages.
    ///
    /// For whoever writes guest memory without an MMU: write first, then call this. A harvest that took
    /// the mark before then reads what was written, if it heeds its own rule, or the page is dirty anew.
    ///
    /// # Errors
    /// [`HarvestError::OutOfRange`], for the range of `selection`, before anything has changed.
    ///
    /// # Concurrency
    /// Takes effect leaf by leaf. There is nothing to invalidate.
    pub fn set_dirty(&self, selection: &Bitmap) -> Result<u64, HarvestError> {
        self.change().set_dirty(selection)
    }

    /// Returns the mapping that translates `gpa`, or `None`.
    ///
    /// # Concurrency
    /// Takes effect at the load of the leaf's slot. Wait-free. May show a leaf whose map comes too late for
    /// a vacate, until that map says so ([`Vacated`](MapError::Vacated)).
    #[inline]
    #[must_use]
    pub fn lookup(&self, gpa: Gpa) -> Option<Mapping> {
        self.look().lookup(gpa)
    }

    /// Looks up many pages, in order, and tells `sink` what translates each; the walks overlap, as
    /// those of [`map_many`](Self::map_many).
    ///
    /// # Concurrency
    /// Takes effect page by page, as [`lookup`](Self::lookup) does.
    pub fn lookup_many(
        &self,
        pages: impl IntoIterator<Item = Gpa>,
        sink: impl FnMut(Gpa, Option<Mapping>),
    ) {
        self.look().lookup_many(pages, sink);
    }

    /// Returns the entries on the way to `gpa`, from the root's, which is always there, down to that of
    /// `lowest` or to where the walk ends; none for an address that the format does not translate.
    ///
    /// # Concurrency
    /// Each entry as it stood when the walk read it. Wait-free.
    #[must_use]
    pub fn walk(&self, gpa: Gpa, lowest: Level) -> Walk {
        self.look().path(gpa, lowest)
    }

    /// Returns the slot where the translation of `gpa` ends.
    ///
    /// # Errors
    /// [`OutOfRange`] if the format does not translate the address.
    ///
    /// # Concurrency
    /// Lock-free: who asks may be about to change the leaf, so a collapse on the way is called off. A table
    /// that is linked under the slot later is followed by each of its operations.
    pub fn slot(&self, gpa: Gpa) -> Result<SlotRef<'_, F, S>, OutOfRange> {
        self.change().slot(gpa)
    }

    /// Returns the mappings in `range`, in ascending order; a large leaf at either end is included
    /// whole.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first address in the range that the format does not translate.
    ///
    /// # Concurrency
    /// Weakly consistent: each leaf as it stood when it was read, or, if a
    /// [collapse](crate::PageTable::collapse) has replaced it since the walk came to its table, as it stood
    /// when it was replaced.
    pub fn mappings(&self, range: GpaRange) -> Result<Mappings<'_, F, S>, OutOfRange> {
        self.look().mappings(range)
    }

    /// Counts the 4 KiB pages of `range` that are mapped, by a scan.
    ///
    /// # Errors
    /// As [`mappings`](Self::mappings).
    ///
    /// # Concurrency
    /// As [`mappings`](Self::mappings).
    pub fn mapped(&self, range: GpaRange) -> Result<u64, OutOfRange> {
        self.look().mapped(range)
    }

    /// Returns the longest contiguous run of host memory behind at most `len` bytes from `gpa` on, all
    /// of which allows `access`. Sets no accessed or dirty bit.
    ///
    /// # Errors
    /// [`TranslateError`] if not even the first byte can be accessed, or if `len` is 0.
    ///
    /// # Concurrency
    /// As [`mappings`](Self::mappings).
    pub fn translate(&self, gpa: Gpa, len: u64, access: Prot) -> Result<HostRun, TranslateError> {
        self.look().translate(gpa, len, access)
    }

    /// Tells whether the MMU keeps accessed and dirty bits, if it is asked to.
    #[inline]
    pub(crate) fn keeps_bits(&self) -> bool {
        self.domain.tree().format().keeps_bits()
    }

    /// Returns the current version of a snapshot of this table's.
    #[inline]
    pub(crate) fn read<'p, T: Send + Sync>(&'p self, snapshot: &'p Snapshot<T>) -> &'p T {
        snapshot.read(&self.pin)
    }

    fn collect(&self) -> Collect<'r> {
        Collect::new(self.domain.hub(), Covered::default())
    }
}
