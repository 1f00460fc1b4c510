//! What the scenarios of spaces play in: a space, the host memory behind it, and vCPUs.
//!
//! Each frame of the host memory has contents. Who gives a frame back spoils them, as its next owner
//! would: so whoever still reaches it, by whatever way, fails the model, or finds [`GONE`].

mod backing;

use std::sync::Arc as StdArc;

use slat::{
    Backing, CopyOnWrite, CopyPool, Ept, Fault, FaultError, FramePool, HeapFrames, Hold, HostPfn,
    InsideVcpu, OnDemand, PageSize, PageTable, Prot, Space, Tracking, Vcpu,
    mmu::{Access, AccessKind, CacheConfig, Cause, TranslationCache},
};

pub use self::backing::{Lot, Pool};
use crate::{Frames, Page, RWX, Stay, format, frame, gpa, no_kick, pages, sched::Arc};

/// What is in a frame that nobody owns.
pub const GONE: u64 = u64::MAX;

/// What guests write.
pub const WRITTEN: u64 = 42;

/// The space of all scenarios.
pub type Memory = Space<Ept, Frames>;

/// The page that scenarios are about. Its region is this page alone, where nothing else is said.
pub const PAGE: u64 = 1;

/// Host memory: the frames from `frame(0)` on, with their contents.
#[derive(Debug, Default)]
pub struct Ram([Page; 12]);

impl Ram {
    fn page(&self, frame: HostPfn) -> &Page {
        &self.0[(frame.get() - self::frame(0).get()) as usize]
    }

    /// Reads a frame, which somebody owns.
    ///
    /// # Panics
    /// If nobody does.
    #[must_use]
    pub fn read(&self, frame: HostPfn) -> u64 {
        let contents = self.page(frame).read();
        assert_ne!(contents, GONE, "{frame} was given back, and is read");
        contents
    }

    /// Writes a frame, which the caller owns.
    pub fn write(&self, frame: HostPfn, contents: u64) {
        self.page(frame).write(contents);
    }
}

/// A space, and the memory behind it.
#[derive(Debug)]
pub struct Site {
    /// The space.
    pub space: Memory,
    /// The memory.
    pub ram: StdArc<Ram>,
}

impl Site {
    /// Makes a space in which [`PAGE`] gets its frame, of two that there are, when it is needed.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn on_demand() -> (Arc<Self>, StdArc<Pool>) {
        let site = Self::new();
        let pool = site.pool(0, 2);
        let as_pool = StdArc::clone(&pool) as StdArc<dyn FramePool>;
        site.map(StdArc::new(OnDemand::new(as_pool, 1, PageSize::Size4K)));
        (Arc::new(site), pool)
    }

    /// Makes a space in which [`PAGE`] is frame 0, and a copy of it when it is written.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn copy_on_write() -> (Arc<Self>, StdArc<Lot>, StdArc<Pool>) {
        let site = Self::new();
        let (base, pool) = (site.lot(0), site.pool(1, 3));
        let as_base = StdArc::clone(&base) as StdArc<dyn Backing>;
        let as_pool = StdArc::clone(&pool) as StdArc<dyn CopyPool>;
        site.map(StdArc::new(CopyOnWrite::new(as_base, as_pool)));
        (Arc::new(site), base, pool)
    }

    /// Makes a space without regions.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn new() -> Self {
        Self::of(format())
    }

    /// Does the same in another format.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn of(format: Ept) -> Self {
        use slat::Format;
        // One that is vacated may have to wait, and another is there at once.
        let frames = 1 + 2 * u64::from(format.levels().count() - 1);
        let table = PageTable::new(format, Frames(HeapFrames::new(frames))).unwrap();
        Self { space: Space::new(table, no_kick), ram: StdArc::default() }
    }

    /// Makes a pool of the frames `first..end`.
    #[must_use]
    pub fn pool(&self, first: u64, end: u64) -> StdArc<Pool> {
        StdArc::new(Pool::new(&self.ram, first, end))
    }

    /// Makes a pool of the frames `first..end`, which contain another number each time they are taken.
    #[must_use]
    pub fn numbered_pool(&self, first: u64, end: u64) -> StdArc<Pool> {
        StdArc::new(Pool::new(&self.ram, first, end).numbered())
    }

    /// Makes a backing of one page, which is frame `number`.
    #[must_use]
    pub fn lot(&self, number: u64) -> StdArc<Lot> {
        StdArc::new(Lot::new(&self.ram, number))
    }

    /// Makes the region of [`PAGE`].
    ///
    /// # Panics
    /// If the library fails.
    pub fn map(&self, backing: StdArc<dyn Backing>) {
        self.space.map_region(pages(PAGE, PAGE + 1), backing, 0, RWX).unwrap();
    }

    /// Takes the region of [`PAGE`] away.
    ///
    /// # Panics
    /// If the library fails.
    pub fn unmap(&self) {
        self.space.unmap_region(pages(PAGE, PAGE + 1)).unwrap();
    }

    /// Puts another backing in the region of [`PAGE`].
    ///
    /// # Panics
    /// If the library fails.
    pub fn replace(&self, backing: StdArc<dyn Backing>) {
        self.space.replace_backing(pages(PAGE, PAGE + 1), backing, 0).unwrap();
    }

    /// Gives up [`PAGE`]; tells whether it was resident.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn discard(&self) -> bool {
        self.space.discard(pages(PAGE, PAGE + 1)).unwrap() == 1
    }

    /// Tells whether [`PAGE`] was written since it was last asked.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn is_written(&self) -> bool {
        let mut found = slat::Bitmap::new(pages(PAGE, PAGE + 1));
        self.space.dirty(pages(PAGE, PAGE + 1), &mut found).unwrap() == 1
    }

    /// Returns the frame that [`PAGE`] is mapped to, for a look before or after a race.
    #[must_use]
    pub fn mapped(&self) -> Option<HostPfn> {
        self.space.table().pin().lookup(gpa(PAGE)).map(|leaf| leaf.pfn)
    }

    /// Makes a vCPU that has done nothing yet.
    #[must_use]
    pub fn processor(&self) -> Processor {
        let vcpu = self.space.vcpu();
        // Once: that is when crossbeam-epoch looks for garbage, which costs loom dearly.
        drop(vcpu.reader().pin());
        let cache = TranslationCache::new(CacheConfig { tlb_entries: 4, walk_entries: 4 });
        Processor { vcpu, cache, ram: StdArc::clone(&self.ram) }
    }

    /// Makes a vCPU that has accessed [`PAGE`] already, so that its caches know it.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn warm(&self, access: Access) -> Processor {
        let mut processor = self.processor();
        processor.touch(access).unwrap();
        processor
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// A vCPU, with the caches of its MMU.
#[derive(Debug)]
pub struct Processor {
    /// Its handle.
    pub vcpu: Vcpu<Ept, Frames>,
    cache: TranslationCache,
    ram: StdArc<Ram>,
}

/// Why an access was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The fault was to be tried again.
    Retry,
    /// There is no region.
    NoRegion,
    /// It was resolved, and then the MMU faulted again.
    Gone,
}

impl Processor {
    /// Enters, with an MMU that keeps bits only if the space says so.
    pub fn enter(&mut self) -> Stay<'_, InsideVcpu<'_, Ept, Frames>> {
        Stay::begin(self.vcpu.enter(Tracking::Off), &mut self.cache)
    }

    /// Enters, and accesses [`PAGE`] and what is in it; returns the frame that it reached.
    ///
    /// # Errors
    /// Why the MMU faulted.
    ///
    /// # Panics
    /// If nobody owns the frame.
    pub fn access(&mut self, access: Access) -> Result<HostPfn, Cause> {
        self.access_with(access, |ram, reached| match access.kind {
            AccessKind::Write => ram.write(reached, WRITTEN),
            _ => drop(ram.read(reached)),
        })
    }

    /// Enters, and accesses [`PAGE`]; `touch` is what it does there. Returns the frame that it reached.
    ///
    /// # Errors
    /// Why the MMU faulted.
    pub fn access_with(
        &mut self,
        access: Access,
        touch: impl FnOnce(&Ram, HostPfn),
    ) -> Result<HostPfn, Cause> {
        let ram = StdArc::clone(&self.ram);
        let mut stay = self.enter();
        let reached = stay.access(PAGE, access)?;
        touch(&ram, reached);
        Ok(reached)
    }

    /// Has a fault of [`PAGE`] resolved.
    ///
    /// # Errors
    /// As [`Vcpu::fault`].
    pub fn fault(&self, access: Prot) -> Result<Fault, FaultError> {
        self.vcpu.fault(gpa(PAGE), access)
    }

    /// Accesses [`PAGE`] as a guest does, with one fault at most; returns the frame that it reached.
    ///
    /// # Errors
    /// Why it did not.
    ///
    /// # Panics
    /// If the fault fails otherwise.
    pub fn touch(&mut self, access: Access) -> Result<HostPfn, Stopped> {
        if let Ok(reached) = self.access(access) {
            return Ok(reached);
        }
        resolved(self.fault(needed(access)))?;
        self.access(access).map_err(|_| Stopped::Gone)
    }

    /// Holds [`PAGE`].
    ///
    /// # Errors
    /// There is no region.
    ///
    /// # Panics
    /// If it fails otherwise.
    pub fn hold(&self, access: Prot) -> Result<Hold<Ept, Frames>, Stopped> {
        self.vcpu.hold(gpa(PAGE), access).map_err(|error| refused(&error))
    }
}

/// Returns what a fault came to, if it was not resolved.
///
/// # Errors
/// That.
///
/// # Panics
/// If it failed where it must not.
pub fn resolved(fault: Result<Fault, FaultError>) -> Result<(), Stopped> {
    match fault {
        Ok(Fault::Resolved) => Ok(()),
        Ok(Fault::Retry) => Err(Stopped::Retry),
        Err(error) => Err(refused(&error)),
    }
}

fn refused(error: &FaultError) -> Stopped {
    match error {
        FaultError::NoRegion { .. } => Stopped::NoRegion,
        error => panic!("{error:?}"),
    }
}

const fn needed(access: Access) -> Prot {
    match access.kind {
        AccessKind::Read => Prot::R,
        AccessKind::Write => Prot::W,
        AccessKind::Fetch => Prot::X,
    }
}
