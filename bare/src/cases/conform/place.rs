//! Pages whose entries are changed, and how a guest comes there.

use alloc::{vec, vec::Vec};

use slat::{
    Entry, Gpa, GpaRange, HostPfn, Level, PAGE_BYTES, PageSize,
    mmu::{Access, AccessKind},
};

use super::directory::Directory;
use crate::{
    guest::{self, CODE, Deed, Job},
    machine::memory,
    virt::{FRAME, LARGE, Shape, Start, Virt},
    world::{ALL_RIGHTS, RawSlot, World},
};

/// A page, and the entries on the way there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) name: &'static str,
    gpa: Gpa,
    frame: HostPfn,
    size: PageSize,
    reach: Reach,
    slots: Vec<RawSlot>,
    /// The entries, not accessed and not dirty.
    usual: Vec<u64>,
    /// What is tried for one of them beside what differs a little.
    beside: Option<(usize, u64)>,
}

/// How the guest comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Flat,
    /// At a linear address, by its own paging.
    Paged(Directory, u64),
    /// It is the page of its own tables, which the processor reads.
    Tables(Directory),
}

/// What a guest does, and the accesses to its memory that this takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) start: Start,
    pub(super) job: Job,
    pub(super) steps: Vec<(Gpa, Access)>,
}

impl Place {
    /// What the guest reads when only its own tables matter.
    pub(crate) const ANYWHERE: u64 = 1;

    /// Maps the page at `gpa` by a leaf of `size`, to `frame`, and has the guest come there without paging.
    pub(crate) fn flat<V: Virt>(
        world: &World<'_, V>,
        name: &'static str,
        size: PageSize,
        gpa: Gpa,
        frame: HostPfn,
    ) -> Self {
        Self::map(world, size, gpa, frame);
        Self::new(world, name, (gpa, frame, size), Reach::Flat)
    }

    /// Does the same on a processor without leaves of 1 GiB, and tries one, to the first frame of all, that would lead
    /// to `frame` as well.
    pub(crate) fn huge<V: Virt>(
        world: &World<'_, V>,
        name: &'static str,
        gpa: Gpa,
        frame: HostPfn,
    ) -> Self {
        assert!(gpa.get() % PageSize::Size1G.bytes() == frame.get() * PAGE_BYTES, "it leads there");
        let place = Self::flat(world, name, PageSize::Size4K, gpa, frame);
        let index = (0..place.entries()).find(|&index| place.level(index) == Level::L3);
        let huge = index.map(|index| (index, place.usual(index) & !FRAME | LARGE));
        Self { beside: huge, ..place }
    }

    /// Maps the page at `gpa` and has the guest come there by its own paging, at a linear address.
    pub(crate) fn paged<V: Virt>(
        world: &World<'_, V>,
        name: &'static str,
        (gpa, frame): (Gpa, HostPfn),
        directory: Directory,
        linear: u64,
    ) -> Self {
        Self::map(world, PageSize::Size4K, gpa, frame);
        directory.put(linear, gpa);
        Self::new(world, name, (gpa, frame, PageSize::Size4K), Reach::Paged(directory, linear))
    }

    /// Takes the page of the guest's own tables.
    pub(crate) fn tables<V: Virt>(
        world: &World<'_, V>,
        name: &'static str,
        directory: Directory,
    ) -> Self {
        let frame = guest::frame(directory.page());
        Self::new(world, name, (directory.gpa(), frame, PageSize::Size4K), Reach::Tables(directory))
    }

    fn map<V: Virt>(world: &World<'_, V>, size: PageSize, gpa: Gpa, frame: HostPfn) {
        let start = Gpa::new(gpa.get() & !(size.bytes() - 1));
        let first = HostPfn::new(frame.get() & !(size.pages() - 1));
        let range = GpaRange::new(start, size.bytes()).expect("it is a leaf's");
        world.table.populate_mapped(range, size, first, ALL_RIGHTS).expect("nothing is there");
        // With its bit 7 clear a large leaf is a table's entry, and this the table.
        memory::zero(first);
    }

    fn new<V: Virt>(
        world: &World<'_, V>,
        name: &'static str,
        (gpa, frame, size): (Gpa, HostPfn, PageSize),
        reach: Reach,
    ) -> Self {
        let slots = world.slots(gpa);
        let plain = |slot: &RawSlot| slot.load().raw() & !(V::ACCESSED | V::DIRTY);
        let usual = slots.iter().map(plain).collect();
        Self { name, gpa, frame, size, reach, slots, usual, beside: None }
    }

    /// Tells whether an address is in the page.
    pub(super) fn is_at(&self, gpa: Gpa) -> bool {
        gpa.page_base() == self.gpa
    }

    pub(super) fn entries(&self) -> usize {
        self.slots.len()
    }

    fn usual(&self, index: usize) -> u64 {
        self.usual[index]
    }

    /// Returns the level of an entry; the root's is the first.
    pub(super) fn level(&self, index: usize) -> Level {
        let above = self.slots.len() - 1 - index;
        Level::ALL[self.size.level() as usize - 1 + above]
    }

    fn shape(&self, index: usize) -> Shape {
        if index + 1 == self.slots.len() {
            Shape::Leaf(self.size)
        } else {
            Shape::Table(self.level(index))
        }
    }

    /// Returns what is tried for an entry.
    pub(super) fn tried<V: Virt>(&self, virt: V, index: usize) -> Vec<u64> {
        let mut all = virt.variants(self.usual(index), self.shape(index));
        all.extend(self.beside.filter(|beside| beside.0 == index).map(|beside| beside.1));
        all
    }

    pub(super) fn kinds(&self) -> &'static [AccessKind] {
        match self.reach {
            Reach::Flat | Reach::Paged(..) => {
                &[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]
            }
            Reach::Tables(_) => &[AccessKind::Read],
        }
    }

    /// Makes all entries as they were, but for one, and puts a call of the host where the guest may begin.
    pub(super) fn change<V: Virt>(&self, index: usize, raw: u64) {
        self.restore();
        // Whatever it is, the software MMU follows it to memory: frames stay, or are reserved, or are zeros.
        self.slots[index].store(Entry::from_raw(raw));
        if !matches!(self.reach, Reach::Tables(_)) {
            guest::put_call(self.frame, V::CALL);
        }
    }

    pub(super) fn restore(&self) {
        for (slot, &usual) in self.slots.iter().zip(&self.usual) {
            slot.store(Entry::from_raw(usual));
        }
    }

    pub(super) fn load(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.load().raw()).collect()
    }

    /// Returns what the guest does there.
    pub(super) fn visit(&self, kind: AccessKind) -> Visit {
        let (directory, linear) = match self.reach {
            Reach::Flat => (None, self.gpa.get()),
            Reach::Paged(directory, linear) => (Some(directory), linear),
            Reach::Tables(directory) => (Some(directory), guest::page(Self::ANYWHERE).get()),
        };
        let target = if let Reach::Tables(_) = self.reach { Gpa::new(linear) } else { self.gpa };
        let page = (linear - guest::DATA) / PAGE_BYTES;
        let (begin, deed, accesses) = match kind {
            AccessKind::Read => (
                CODE.get(),
                Deed::Read,
                vec![(CODE.get(), CODE, Access::FETCH), (linear, target, Access::READ)],
            ),
            AccessKind::Write => (
                CODE.get(),
                Deed::Write,
                vec![(CODE.get(), CODE, Access::FETCH), (linear, target, Access::WRITE)],
            ),
            AccessKind::Fetch => (linear, Deed::Read, vec![(linear, target, Access::FETCH)]),
        };
        let steps = accesses.into_iter().flat_map(|(linear, gpa, access)| {
            let walk = directory.map(|own| (own.entry(linear), access.of_guest_table()));
            walk.into_iter().chain([(gpa, access)])
        });
        let start = Start { at: Gpa::new(begin), directory: directory.map(Directory::gpa) };
        Visit { start, job: Job::new(deed, page, 1), steps: steps.collect() }
    }
}
