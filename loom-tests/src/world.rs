//! What a scenario plays in: a table, the guest's pages, and processors that race.

#![expect(unsafe_code, reason = "a frame source that audits another, and an MMU that walks it")]

use std::thread::panicking;

use slat::{
    Attr, Content, Ept, EptCaps, Format, FrameRun, FrameSource, Gpa, GpaRange, HeapFrames, Hint,
    HostPfn, Levels, MapError, Mapped, Mapping, OutOfFrames, PageSize, PageTable, PhysWidth,
    Pinned, Prot, Reader, Resize, Tracking, UnmapError,
    mmu::{Access, Cause, Mmu},
};

use crate::{
    history::hesitate,
    page::Page,
    sched::{Arc, Gate},
    sides::{beside, start},
};

/// The table of all scenarios.
pub type Table = PageTable<Ept, Frames>;

/// The attributes of a page that allows everything.
pub const RWX: Attr = Attr::new(Prot::RWX);

/// Returns the address of guest page `page`.
#[must_use]
pub const fn gpa(page: u64) -> Gpa {
    Gpa::new(page * slat::PAGE_BYTES)
}

/// Returns the guest pages `first..end`.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn pages(first: u64, end: u64) -> GpaRange {
    GpaRange::from_pages(gpa(first), end - first).unwrap()
}

/// Returns the host frame number that scenarios call `number`.
#[must_use]
pub const fn frame(number: u64) -> HostPfn {
    HostPfn::new(0x5000 + number)
}

/// Returns the format of all scenarios: EPT, of the fewest levels that there are.
#[must_use]
pub const fn format() -> Ept {
    format_with(EptCaps::USUAL)
}

/// Returns the same for a processor that has just these capabilities.
#[must_use]
pub const fn format_with(caps: EptCaps) -> Ept {
    #[cfg(any(loom, shuttle))]
    let levels = Levels::Two;
    #[cfg(not(any(loom, shuttle)))]
    let levels = Levels::Four;
    Ept::new(levels, PhysWidth::MAX, caps)
}

/// Heap frames that must all have come back when they are dropped.
#[derive(Debug)]
pub struct Frames(pub(crate) HeapFrames);

impl Drop for Frames {
    fn drop(&mut self) {
        if !panicking() {
            assert_eq!(self.0.free_frames(), self.0.capacity(), "frames did not come back");
        }
    }
}

// SAFETY: every promise is kept by the frames within.
unsafe impl FrameSource for Frames {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        self.0.allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.free(run, content) }
    }

    unsafe fn table(&self, pfn: HostPfn) -> &slat::Table {
        hesitate();
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        self.0.free_frames()
    }
}

/// A table, and the contents of the guest's first pages.
#[derive(Debug)]
pub struct World {
    /// The table.
    pub table: Table,
    pages: [Page; 4],
}

impl World {
    /// Makes a table in which nothing is populated, with frames for `leaf_tables` leaf tables.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn new(leaf_tables: u64) -> Self {
        Self::in_format(format(), leaf_tables)
    }

    /// Makes a table in which nothing is populated, with frames for so many leaf tables one after the
    /// other: one that is vacated takes those above it along, and they too wait to be freed.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn with_lives(lives: u64) -> Self {
        Self::of(format(), 1 + lives * u64::from(format().levels().count() - 1))
    }

    /// Makes a table in which nothing is populated, with frames for `leaf_tables` leaf tables, for a
    /// processor on which a leaf must be gone before one of another size comes.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn breaking(leaf_tables: u64) -> Self {
        Self::in_format(format().with_resize(Resize::BreakFirst), leaf_tables)
    }

    /// Makes a table in which nothing is populated, of this format, with frames for `leaf_tables` leaf tables.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn in_format(format: Ept, leaf_tables: u64) -> Self {
        // The scenarios stay within 1 GiB: one table each of the levels above the leaf tables.
        Self::of(format, u64::from(format.levels().count() - 1) + leaf_tables)
    }

    fn of(format: Ept, frames: u64) -> Self {
        let table = PageTable::new(format, Frames(HeapFrames::new(frames))).unwrap();
        Self { table, pages: [Page::new(), Page::new(), Page::new(), Page::new()] }
    }

    /// Makes a table whose first leaf table is populated.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn populated() -> Self {
        let world = Self::new(1);
        world.table.populate(pages(0, slat::SLOTS as u64), PageSize::Size4K).unwrap();
        world
    }

    /// Makes a table whose first leaf table is populated, with `page` mapped to frame `page`.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn mapped(page: u64) -> Self {
        let world = Self::populated();
        world.pages[page as usize].write(page);
        world.table.pin().map(gpa(page), frame(page), PageSize::Size4K, RWX).unwrap();
        world
    }

    /// Writes the contents of `page`, before a race.
    pub fn set(&self, page: u64, contents: u64) {
        self.pages[page as usize].write(contents);
    }

    /// Returns what `page` is mapped to, for a look before or after a race.
    #[must_use]
    pub fn lookup(&self, page: u64) -> Option<Mapping> {
        self.table.pin().lookup(gpa(page))
    }

    /// Returns the raw entry at which the walk of `page` ends.
    ///
    /// # Panics
    /// If the library fails.
    #[must_use]
    pub fn entry(&self, page: u64) -> slat::Entry {
        self.table.pin().walk(gpa(page), slat::Level::L1).last().unwrap().entry
    }
}

/// A processor: a reader of the world's table.
///
/// It was pinned once already, which is when crossbeam-epoch looks for garbage to collect: that is
/// not what the scenarios are about, and costs loom dearly.
#[derive(Debug)]
pub struct Cpu {
    reader: Reader<Ept, Frames>,
    root_pointer: u64,
    world: Arc<World>,
}

impl Cpu {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let reader = world.table.reader();
        drop(reader.pin());
        let root_pointer = world.table.observer().enter(Tracking::On).root_pointer();
        Self { reader, root_pointer, world: Arc::clone(world) }
    }

    /// Runs one side of a race, under a pin: those that the side takes are free then.
    ///
    /// The pin must come before everything that the side does. loom takes the fence in it, which
    /// crossbeam-epoch means for the compiler only, to order all that comes before with all that
    /// comes after the next pin of anybody; no weakened edge between the two could be seen.
    fn run<T>(&self, side: impl FnOnce(&Self) -> T) -> T {
        let _pin = self.reader.pin();
        side(self)
    }

    /// Pins the table.
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, Ept, Frames> {
        self.reader.pin()
    }

    /// Returns the world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Returns the table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.world.table
    }

    /// Returns the contents of a guest page below four.
    #[must_use]
    pub fn page(&self, page: u64) -> &Page {
        &self.world.pages[page as usize]
    }

    /// Maps `page` to the frame called `number`.
    ///
    /// # Errors
    /// As [`Pinned::map`].
    pub fn map(&self, page: u64, number: u64) -> Result<Mapped, MapError> {
        self.pin().map(gpa(page), frame(number), PageSize::Size4K, RWX)
    }

    /// Unmaps `page`; nobody's caches need invalidation.
    ///
    /// # Errors
    /// As [`Pinned::unmap`].
    pub fn unmap(&self, page: u64) -> Result<Mapping, UnmapError> {
        self.pin().unmap(gpa(page)).map(|(mapping, _flush)| mapping)
    }

    /// Accesses `page` as the guest does, through the MMU; returns the frame that it reached. No pin
    /// is taken: hardware has none. It never entered either: only for scenarios that unlink no table.
    ///
    /// # Errors
    /// Why the MMU faulted.
    ///
    /// # Panics
    /// If the library fails.
    pub fn access(&self, page: u64, access: Access) -> Result<HostPfn, Cause> {
        self.access_from(self.root_pointer, page, access)
    }

    /// Does the same through an MMU that keeps no accessed and dirty bits.
    ///
    /// # Errors
    /// Why the MMU faulted.
    ///
    /// # Panics
    /// If the library fails.
    pub fn access_untracked(&self, page: u64, access: Access) -> Result<HostPfn, Cause> {
        // Bit 6 of the EPTP. To enter once more costs the model more than a test of it is worth.
        self.access_from(self.root_pointer & !(1 << 6), page, access)
    }

    fn access_from(&self, root: u64, page: u64, access: Access) -> Result<HostPfn, Cause> {
        // SAFETY: the root pointer is the table's own; no table is unlinked during the race, so none is
        // freed before the world is.
        let mmu = unsafe { Mmu::new(format(), self.table().frames(), root) };
        match mmu.unwrap().translate(gpa(page), access) {
            Ok(translation) => Ok(translation.pfn),
            Err(fault) => Err(fault.cause()),
        }
    }

    /// Looks `page` up.
    #[must_use]
    pub fn lookup(&self, page: u64) -> Option<Mapping> {
        self.pin().lookup(gpa(page))
    }
}

/// Runs each closure on a processor of its own, at the same time.
///
/// The readers are made before, and dropped after the race: where registration is the subject, a
/// scenario does it by hand.
///
/// # Panics
/// If one of them does.
pub fn race<A, B>(
    world: &Arc<World>,
    one: impl FnOnce(&Cpu) -> A,
    two: impl FnOnce(&Cpu) -> B + Send + 'static,
) -> (A, B)
where
    B: Send + 'static,
{
    race_unpinned(world, |cpu| cpu.run(one), |cpu| cpu.run(two))
}

/// As [`race`], where no pin is held but those that the sides take: for scenarios that free tables.
///
/// # Panics
/// If one of them does.
pub fn race_unpinned<A, B>(
    world: &Arc<World>,
    one: impl FnOnce(&Cpu) -> A,
    two: impl FnOnce(&Cpu) -> B + Send + 'static,
) -> (A, B)
where
    B: Send + 'static,
{
    let (here, there) = (Cpu::new(world), Cpu::new(world));
    let (first, (second, _cpu)) = beside(|| one(&here), move || (two(&there), there));
    (first, second)
}

/// As [`race`], with three processors.
///
/// # Panics
/// If one of them does.
pub fn race3<A, B, C>(
    world: &Arc<World>,
    one: impl FnOnce(&Cpu) -> A,
    two: impl FnOnce(&Cpu) -> B + Send + 'static,
    three: impl FnOnce(&Cpu) -> C + Send + 'static,
) -> (A, B, C)
where
    B: Send + 'static,
    C: Send + 'static,
{
    race3_unpinned(world, |cpu| cpu.run(one), |cpu| cpu.run(two), |cpu| cpu.run(three))
}

/// As [`race_unpinned`], with three processors.
///
/// # Panics
/// If one of them does.
pub fn race3_unpinned<A, B, C>(
    world: &Arc<World>,
    one: impl FnOnce(&Cpu) -> A,
    two: impl FnOnce(&Cpu) -> B + Send + 'static,
    three: impl FnOnce(&Cpu) -> C + Send + 'static,
) -> (A, B, C)
where
    B: Send + 'static,
    C: Send + 'static,
{
    let gate = Arc::new(Gate::new(3));
    let [here, there, yonder] = [Cpu::new(world), Cpu::new(world), Cpu::new(world)];
    let second = start(&gate, move || (two(&there), there));
    let third = start(&gate, move || (three(&yonder), yonder));
    gate.pass();
    let first = one(&here);
    let (second, _cpu) = second.join().unwrap();
    let (third, _cpu) = third.join().unwrap();
    (first, second, third)
}
