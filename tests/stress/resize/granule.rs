//! The large pages that are raced for, who has their frames, and what was written to them.
//!
//! A large page has three blocks of frames that it can be mapped to, each aligned to a large leaf. What of it
//! is mapped, and to which block, is in its books: who has their lock is the only one to map or unmap there. So
//! each answer is known beforehand, but for the sizes of the leaves.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    vec::Vec,
};

use slat::{Format, Gpa, GpaRange, HostPfn, ObserverId, PageSize, Shootdown};

use crate::{
    common::{BASE, Checked, Frames, GIB, PAGE, RWX, SMALL, at, pfn},
    removal::jolts::Jolts,
};

pub(super) const SIZE: PageSize = PageSize::Size2M;
pub(super) const PAGES: usize = 512;
const BLOCKS: usize = 3;
/// The first of all data frames: none that tables are made of, and aligned.
const FIRST: u64 = 0x100_0000;

/// How a data frame stands.
const FREE: u8 = 0;
const MAPPED: u8 = 1;
/// Unmapped, and perhaps still reached.
const USED: u8 = 2;

/// One large page.
#[derive(Debug)]
pub(super) struct Granule {
    pub(super) index: usize,
    /// To which block each small page is mapped.
    pub(super) books: Mutex<Vec<Option<usize>>>,
    /// Nobody unmaps it.
    pub(super) stays: bool,
    frames: Vec<AtomicU8>,
    /// When each small page was last written, by the world's clock.
    pub(super) written: Vec<AtomicU64>,
}

impl Granule {
    fn new(index: usize, stays: bool) -> Self {
        let many = |count: usize| 0..count;
        Self {
            index,
            books: Mutex::new(vec![None; PAGES]),
            stays,
            frames: many(BLOCKS * PAGES).map(|_| AtomicU8::new(FREE)).collect(),
            written: many(PAGES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn gpa(&self, page: usize) -> Gpa {
        at(START + self.index as u64 * SIZE.bytes() + page as u64 * PAGE)
    }

    pub(super) fn part(&self, first: usize, pages: usize) -> GpaRange {
        GpaRange::from_pages(self.gpa(first), pages as u64).unwrap()
    }

    pub(super) fn whole(&self) -> GpaRange {
        self.part(0, PAGES)
    }

    pub(super) fn pfn(&self, block: usize, page: usize) -> HostPfn {
        pfn(FIRST + ((self.index * BLOCKS + block) * PAGES + page) as u64)
    }

    fn turn(&self, block: usize, page: usize, from: u8, to: u8) {
        // Relaxed: it is the table that has to order what comes with a mapping, and a shoot-down what comes
        // behind.
        let frame = &self.frames[block * PAGES + page];
        let before = frame.swap(to, Ordering::Relaxed);
        assert_eq!(before, from, "{} is in two hands", self.pfn(block, page));
    }

    /// Takes a block for some pages, if all those frames are free.
    pub(super) fn take(&self, block: usize, pages: std::ops::Range<usize>) -> bool {
        let mut frames = self.frames[block * PAGES..][pages.clone()].iter();
        if frames.any(|frame| frame.load(Ordering::Relaxed) != FREE) {
            return false;
        }
        pages.for_each(|page| self.turn(block, page, FREE, MAPPED));
        true
    }

    pub(super) fn unmapped(&self, block: usize, page: usize) {
        self.turn(block, page, MAPPED, USED);
    }

    /// Uses a frame again: nobody reaches it any more.
    pub(super) fn recycle(&self, block: usize, page: usize) {
        self.turn(block, page, USED, FREE);
    }

    /// Checks that a processor that is inside may reach this frame through this page. Invariants 3 and 8.
    pub(super) fn reach(&self, page: usize, reached: HostPfn) {
        let block = (0..BLOCKS).find(|&block| self.pfn(block, page) == reached);
        let block = block.unwrap_or_else(|| panic!("{} reaches {reached}", self.gpa(page)));
        let frame = self.frames[block * PAGES + page].load(Ordering::Relaxed);
        assert_ne!(frame, FREE, "{reached} is reached after its shoot-down");
    }
}

/// Where the large pages begin: the first two are the last of a gibibyte.
pub(super) const START: u64 = GIB - 2 * SIZE.bytes();

/// What all threads share.
#[derive(Debug)]
pub(super) struct World<F: Format> {
    pub(super) table: Checked<F, Jolts>,
    pub(super) granules: Vec<Granule>,
    clock: AtomicU64,
    /// The sticky flag of each vCPU.
    flags: Mutex<Vec<(ObserverId, Arc<AtomicBool>)>>,
}

impl<F: Format> World<F> {
    pub(super) fn new(format: F) -> Self {
        let frames = Frames::with_base(BASE, 64);
        let table = Checked::with(format, Jolts::new(frames));
        let granules: Vec<_> = (0..5).map(|index| Granule::new(index, index % 3 == 1)).collect();
        let world = Self { table, granules, clock: AtomicU64::new(1), flags: Mutex::default() };
        for granule in &world.granules {
            let size = if granule.index == 0 { SMALL } else { SIZE };
            world.table.populate(granule.whole(), size).unwrap();
            assert!(granule.take(0, 0..PAGES));
            world.table.pin().map_range(granule.whole(), granule.pfn(0, 0), RWX).unwrap();
            granule.books.lock().unwrap().fill(Some(0));
        }
        world
    }

    pub(super) fn all(&self) -> GpaRange {
        let pages = (self.granules.len() * PAGES) as u64;
        GpaRange::from_pages(at(START), pages).unwrap()
    }

    /// Returns a moment that is later than every one that was returned before.
    pub(super) fn now(&self) -> u64 {
        // SeqCst: the moments of several threads are compared.
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn enlist(&self, id: ObserverId) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        self.flags.lock().unwrap().push((id, Arc::clone(&flag)));
        flag
    }

    pub(super) fn kick(&self, id: ObserverId) {
        let flags = self.flags.lock().unwrap();
        let (_, flag) = flags.iter().find(|(listed, _)| *listed == id).unwrap();
        // Release: the generation of the shoot-down comes before.
        flag.store(true, Ordering::Release);
    }

    pub(super) fn wait(&self, shootdown: &mut Shootdown<'_>) {
        shootdown.wait(&|id| self.kick(id)).unwrap();
    }
}
