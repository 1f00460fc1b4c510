//! A space, the memory that its backings give out, and vCPUs of software: what it takes to say that what is read
//! is what was written, and that nothing is lost.

mod audited;
mod cpu;
mod kicks;
mod memory;
mod scripted;

use std::{
    ops::{ControlFlow, Deref},
    sync::{Arc, Mutex},
    thread,
};

use slat::{
    Attr, Backing, Bitmap, Contiguous, Format, FrameSource, Gpa, GpaRange, HostPfn, Mapping,
    OnDemand, PageSize, PageTable, RegionInfo, Space, Tracking,
};

pub(crate) use self::{
    audited::{Audited, Counts},
    cpu::{Cpu, FETCH, READ, WRITE, right},
    kicks::Kicks,
    memory::Memory,
    scripted::{Gate, Scripted},
};
use crate::common::{self, BASE, PAGE, RWX, SMALL, at, range};

pub(crate) type Frames = Arc<common::Frames>;

/// Frames for tables.
const TABLES: u64 = 256;
/// Frames of data that are taken and given back, and as many that are always there.
pub(crate) const DATA: u64 = 4096;

/// A space that checks, when it is dropped, that everything came back.
///
/// vCPUs and holds must be dropped before it.
#[derive(Debug)]
pub(crate) struct Rig<F: Format> {
    /// `None` once it is dropped.
    space: Option<Space<F, Frames>>,
    frames: Frames,
    /// Free frames for tables when there was nothing.
    total: u64,
    pub(crate) memory: Arc<Memory>,
    pub(crate) kicks: Arc<Kicks>,
    /// The backings of all regions that there ever were.
    audits: Mutex<Vec<Arc<Audited>>>,
}

impl<F: Format> Rig<F> {
    pub(crate) fn new(format: F) -> Self {
        Self::with_tables(format, TABLES)
    }

    pub(crate) fn with_tables(format: F, tables: u64) -> Self {
        let frames = Arc::new(common::Frames::with_base(BASE, tables));
        let total = frames.free_frames();
        let table = PageTable::new(format, Arc::clone(&frames)).unwrap();
        let kicks = Arc::new(Kicks::default());
        let listener = Arc::clone(&kicks);
        let space = Space::new(table, move |id| listener.kick(id));
        let memory = Arc::new(Memory::new(DATA, DATA));
        Self { space: Some(space), frames, total, memory, kicks, audits: Mutex::default() }
    }

    /// Keeps an eye on a backing to the end.
    pub(crate) fn watch(&self, backing: &Arc<Audited>) -> Arc<dyn Backing> {
        self.audits.lock().unwrap().push(Arc::clone(backing));
        Arc::clone(backing) as Arc<dyn Backing>
    }

    fn is_over(region: &RegionInfo, audit: &Arc<Audited>) -> bool {
        let there = Arc::as_ptr(&region.backing).cast::<()>();
        there == Arc::as_ptr(audit).cast::<()>()
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// How many frames there are for tables.
    pub(crate) fn free_tables(&self) -> u64 {
        self.frames.free_frames()
    }

    pub(crate) fn cpu(&self) -> Cpu<F> {
        Cpu::new(self, Arc::clone(&self.memory), &self.kicks)
    }

    /// A vCPU of a host whose memory is another's.
    pub(crate) fn cpu_on(&self, memory: &Arc<Memory>) -> Cpu<F> {
        Cpu::new(self, Arc::clone(memory), &self.kicks)
    }

    /// Keeps an eye on no backing any more.
    pub(crate) fn forget(&self) {
        self.audits.lock().unwrap().clear();
    }

    /// Memory on demand, of so many pages.
    pub(crate) fn demand(&self, pages: u64) -> Arc<Audited> {
        self.demand_up_to(pages, SMALL)
    }

    pub(crate) fn demand_up_to(&self, pages: u64, largest: PageSize) -> Arc<Audited> {
        Audited::over(OnDemand::new(Arc::clone(&self.memory) as _, pages, largest))
    }

    /// Memory that is all there.
    pub(crate) fn fixed(&self, pages: u64) -> Arc<Audited> {
        Audited::over(Contiguous::new(self.memory.fixed(pages), pages).unwrap())
    }

    /// Makes a region with all rights.
    #[track_caller]
    pub(crate) fn map(&self, range: GpaRange, backing: &Arc<Audited>) {
        self.map_as(range, backing, RWX);
    }

    #[track_caller]
    pub(crate) fn map_as(&self, range: GpaRange, backing: &Arc<Audited>, attr: Attr) {
        let mapped = self.map_region(range, self.watch(backing), 0, attr);
        assert_eq!(mapped, Ok(()), "{range}");
    }

    #[track_caller]
    pub(crate) fn unmap(&self, range: GpaRange) {
        assert_eq!(self.unmap_region(range), Ok(()), "{range}");
    }

    /// Makes a region on demand.
    #[track_caller]
    pub(crate) fn map_demand(&self, start: u64, bytes: u64) -> (GpaRange, Arc<Audited>) {
        let area = range(start, bytes);
        let backing = self.demand(area.pages());
        self.map(area, &backing);
        (area, backing)
    }

    /// Returns the leaf that translates `gpa`.
    pub(crate) fn leaf(&self, gpa: u64) -> Option<Mapping> {
        self.table().pin().lookup(at(gpa))
    }

    #[track_caller]
    pub(crate) fn frame(&self, gpa: u64) -> HostPfn {
        let leaf = self.leaf(gpa).unwrap_or_else(|| panic!("nothing is mapped at {gpa:#x}"));
        leaf.frame_of(at(gpa)).unwrap()
    }

    /// Tracks writes from now on.
    #[track_caller]
    pub(crate) fn track(&self) {
        assert_eq!(self.track_dirty(Tracking::On), Ok(()));
    }

    /// Returns the pages that were written since the last look.
    #[track_caller]
    pub(crate) fn look(&self, range: GpaRange) -> Vec<u64> {
        let mut found = Bitmap::new(range);
        let pages = self.dirty(range, &mut found).unwrap();
        assert_eq!(pages, found.count());
        addresses(&found)
    }

    /// Checks, while nobody changes anything and nobody holds anything, that just the answers that are mapped
    /// are out, and that `resident` counts them.
    #[track_caller]
    pub(crate) fn audit(&self) {
        let (pin, regions) = (self.table().pin(), self.regions());
        let ranges = regions.iter().map(|region| region.range);
        let resident: u64 = ranges.map(|range| pin.mapped(range).unwrap()).sum();
        for audit in &*self.audits.lock().unwrap() {
            let mut out = Vec::new();
            let is_it = |region: &&RegionInfo| Self::is_over(region, audit);
            for region in regions.iter().filter(is_it) {
                let before = region.offset / PAGE;
                let first = region.range.start().get();
                let page = |leaf: &Mapping| before + (leaf.gpa.get() - first) / PAGE;
                let leaves = pin.mappings(region.range).unwrap();
                out.extend(leaves.map(|leaf| (page(&leaf), leaf.pfn, leaf.size)));
            }
            audit.is_out(out.into_iter());
        }
        assert_eq!(self.resident(), resident, "the count is not what is mapped");
        assert_eq!(self.stats().resident, resident);
        assert_eq!(self.stats().held, 0);
    }

    /// Drops its handle on the space: a test has another.
    pub(crate) fn drop_space(&mut self) {
        drop(self.space.take());
    }

    /// Unmaps all regions.
    #[track_caller]
    pub(crate) fn clear(&self) {
        for region in self.regions() {
            self.unmap(region.range);
        }
        assert_eq!(self.resident(), 0);
        self.audits.lock().unwrap().iter().for_each(|audit| audit.check());
    }
}

impl<F: Format> Deref for Rig<F> {
    type Target = Space<F, Frames>;

    fn deref(&self) -> &Self::Target {
        self.space.as_ref().expect("taken only by drop")
    }
}

impl<F: Format> Drop for Rig<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if self.space.is_some() {
            self.clear();
        }
        drop(self.space.take());
        assert_eq!(self.frames.free_frames(), self.total, "frames of tables in = frames out");
        self.memory.close();
    }
}

/// Returns the pages in the bitmap as addresses.
pub(crate) fn addresses(found: &Bitmap) -> Vec<u64> {
    let pages = |run: GpaRange| (0..run.pages()).map(move |page| run.start().get() + page * PAGE);
    found.runs().flat_map(pages).collect()
}

/// The address of a page of the range, by number.
pub(crate) fn nth(range: GpaRange, page: u64) -> u64 {
    range.start().get() + page * PAGE
}

/// The part of a range that begins at its page `first` and has so many pages.
#[track_caller]
pub(crate) fn part(whole: GpaRange, first: u64, pages: u64) -> GpaRange {
    range(nth(whole, first), pages * PAGE)
}

pub(crate) fn gpa(range: GpaRange, page: u64) -> Gpa {
    at(nth(range, page))
}

/// Lets a prefault go on to its end.
pub(crate) fn go_on(_done: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Checks that an error is this one, without its sources.
macro_rules! refused {
    ($result:expr, $why:pat $(if $guard:expr)?) => {
        match $result {
            Err($why) $(if $guard)? => {}
            other => panic!("{other:?} is not {}", stringify!($why)),
        }
    };
}
pub(crate) use refused;
