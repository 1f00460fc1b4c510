//! Memory of the guest's, mapped by leaves of one size.

use alloc::{vec, vec::Vec};
use core::ops::ControlFlow;

use slat::{Bitmap, Format, Gpa, GpaRange, HostPfn, Mark, PageSize, Prot};

use crate::{
    guest::{self, Deed, Job},
    machine::memory::GUEST,
    virt::{Exit, Virt},
    world::{ALL_RIGHTS, Machine, Processor, World},
};

/// Where leaves of 1 GiB begin: the first of all frames is there.
const HUGE: u64 = 0x8000_0000;

/// Such memory.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) size: PageSize,
    pub(super) range: GpaRange,
    first: HostPfn,
    /// Pages that are only read, by the guest's numbers.
    pub(super) read: Vec<u64>,
    /// Pages that are written.
    pub(super) written: Vec<u64>,
}

impl Area {
    /// Returns one of each size that the processor has.
    pub(super) fn all<V: Virt>(machine: &Machine<V>) -> Vec<Self> {
        // Within the leaf of 1 GiB, where the guest's frames are.
        let huge = (HUGE + GUEST.start - guest::DATA) / PageSize::Size4K.bytes();
        let two = 4096;
        let areas = vec![
            Self::new(
                PageSize::Size4K,
                guest::page(0),
                64,
                guest::frame(0),
                [vec![3, 40], vec![7, 63]],
            ),
            Self::new(
                PageSize::Size2M,
                guest::page(two),
                4,
                guest::frame(two),
                [vec![two + 3, two + 1535], vec![two + 521]],
            ),
            Self::new(
                PageSize::Size1G,
                Gpa::new(HUGE),
                1,
                HostPfn::new(0),
                [vec![huge + 3], vec![huge + 600]],
            ),
        ];
        let format = machine.virt.format();
        areas.into_iter().filter(|area| format.supports(area.size)).collect()
    }

    fn new(
        size: PageSize,
        start: Gpa,
        leaves: u64,
        first: HostPfn,
        [read, written]: [Vec<u64>; 2],
    ) -> Self {
        let range = GpaRange::new(start, leaves * size.bytes()).expect("it is the guest's memory");
        Self { size, range, first, read, written }
    }

    /// Makes room for it, and maps it.
    pub(super) fn map<V: Virt>(&self, world: &World<'_, V>) {
        world.table.populate(self.range, self.size).expect("there are frames");
        let pin = world.table.pin();
        pin.map_range(self.range, self.first, ALL_RIGHTS).expect("there is room");
    }

    pub(super) fn gpa(&self, page: u64) -> Gpa {
        let gpa = guest::page(page);
        assert!(self.range.contains(gpa), "the page is in the area");
        gpa
    }

    /// Has the guest read or write pages, all of which it can reach.
    pub(super) fn touch<V: Virt>(
        &self,
        processor: &mut Processor<'_, V>,
        deed: Deed,
        pages: &[u64],
    ) {
        for &page in pages {
            assert_eq!(self.stopped(processor, deed, page), None, "the page can be reached");
        }
    }

    /// Has the guest read or write a page; returns what stopped it.
    pub(super) fn stopped<V: Virt>(
        &self,
        processor: &mut Processor<'_, V>,
        deed: Deed,
        page: u64,
    ) -> Option<Exit> {
        self.gpa(page);
        processor.work(Job::new(deed, page, 1), |_, _| ControlFlow::Break(())).err()
    }

    /// Returns the entries on the way to a page, as the processor sees them.
    pub(super) fn entries<V: Virt>(&self, world: &World<'_, V>, page: u64) -> Vec<u64> {
        world.slots(self.gpa(page)).iter().map(|slot| slot.load().raw()).collect()
    }

    /// Returns all pages of the leaves that these pages are in.
    pub(super) fn leaves(&self, pages: &[u64]) -> Bitmap {
        let mut all = Bitmap::new(self.range);
        for &page in pages {
            let start = Gpa::new(self.gpa(page).get() & !(self.size.bytes() - 1));
            let leaf = GpaRange::new(start, self.size.bytes()).expect("it is in the area");
            all.set_range(leaf).expect("it is in the area");
        }
        all
    }

    /// Returns these pages alone.
    pub(super) fn pages(&self, pages: &[u64]) -> Bitmap {
        let mut all = Bitmap::new(self.range);
        for &page in pages {
            all.set(self.gpa(page)).expect("it is in the area");
        }
        all
    }

    /// Returns the pages that have a mark.
    pub(super) fn found<V: Virt>(&self, world: &World<'_, V>, mark: Mark) -> Bitmap {
        let mut found = Bitmap::new(self.range);
        world.table.pin().query(self.range, mark, &mut found).expect("it is an area of the table");
        found
    }

    /// Returns the pages that have a mark, and takes it from them.
    pub(super) fn take<V: Virt>(&self, world: &World<'_, V>, mark: Mark) -> Bitmap {
        let mut found = Bitmap::new(self.range);
        let taken = world.table.pin().harvest(self.range, mark, &mut found);
        world.serve(taken.expect("it is an area of the table").1);
        found
    }

    /// Returns what a round reports.
    pub(super) fn round<V: Virt>(&self, world: &World<'_, V>, mark: Mark) -> Bitmap {
        let mut found = Bitmap::new(self.range);
        let taken = world.table.harvest_round(self.range, mark, &mut found);
        world.serve(taken.expect("it is an area of the table").1);
        found
    }

    /// Takes both marks from all pages.
    pub(super) fn clear<V: Virt>(&self, world: &World<'_, V>) {
        self.take(world, Mark::Accessed);
        self.take(world, Mark::Dirty);
    }

    pub(super) fn protect<V: Virt>(&self, world: &World<'_, V>, prot: Prot) {
        let changed = world.table.pin().protect(self.range, prot);
        world.serve(changed.expect("it is an area of the table").1);
    }
}
