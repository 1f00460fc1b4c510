//! A space and the reference: what each answers to each operation, and that they are the same afterwards.
//!
//! What is done follows from bytes, which somebody draws at random, or a fuzzer chooses.

mod reference;

use std::{collections::BTreeSet, sync::Arc};

use arbitrary::Unstructured;
use slat::{
    Bitmap, Contiguous, CopyOnWrite, DirtyError, DiscardError, FaultError, Format, GpaRange,
    MapRegionError, PageSize, Prot, ProtectRegionError, ReplaceBackingError, ResizeRegionError,
    Tracking, UnmapRegionError,
};

use self::reference::{Kind, Reference, Region};
use crate::{
    common::{MIB, PAGE, RWX, SMALL, at, range},
    rig::{Audited, Cpu, Rig, addresses, go_on},
};

/// The pages that are played with: on both sides of a leaf table's end.
const FIRST: u64 = 2 * MIB / PAGE - 20;
const PAGES: u64 = 40;

pub(crate) struct Pair<'b, F: Format> {
    rig: Rig<F>,
    cpu: Cpu<F>,
    reference: Reference,
    /// What follows.
    bytes: Unstructured<'b>,
    /// Whether the MMU keeps dirty bits. Where it does not, a page counts as written when it becomes resident and
    /// may be.
    keeps_bits: bool,
    /// What is written next.
    word: u64,
}

fn area(first: u64, pages: u64) -> GpaRange {
    range((FIRST + first) * PAGE, pages * PAGE)
}

fn address(page: u64) -> u64 {
    (FIRST + page) * PAGE
}

impl<'b, F: Format> Pair<'b, F> {
    pub(crate) fn new(format: F, bytes: &'b [u8]) -> Self {
        let keeps_bits = format.keeps_bits();
        let rig = Rig::new(format);
        let cpu = rig.cpu();
        let (reference, bytes) = (Reference::default(), Unstructured::new(bytes));
        Self { rig, cpu, reference, bytes, keeps_bits, word: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.bytes.int_in_range(0..=end - 1).expect("where there are no bytes left, it is zero")
    }

    /// Some range; often a region's own.
    fn some_range(&mut self) -> (u64, u64) {
        if !self.reference.regions.is_empty() && self.below(4) > 0 {
            let index = self.below(self.reference.regions.len() as u64) as usize;
            let (&first, region) = self.reference.regions.iter().nth(index).unwrap();
            return (first, region.pages);
        }
        let first = self.below(PAGES);
        (first, 1 + self.below((PAGES - first).min(12)))
    }

    fn backing(&self, kind: Kind, pages: u64) -> Arc<Audited> {
        let fixed = || Contiguous::new(self.rig.memory.fixed(pages), pages).unwrap();
        match kind {
            Kind::Demand => self.rig.demand_up_to(pages, SMALL),
            Kind::Fixed => Audited::over(fixed()),
            Kind::Copy => {
                let pool = Arc::clone(&self.rig.memory);
                Audited::over(CopyOnWrite::new(Arc::new(fixed()), pool as _))
            }
        }
    }

    fn some_kind(&mut self) -> Kind {
        // One region of fixed memory at a time: two would write to the same pages.
        let is_free = !self.reference.regions.values().any(|region| region.kind != Kind::Demand);
        match self.below(3) {
            0 if is_free => Kind::Fixed,
            1 if is_free => Kind::Copy,
            _ => Kind::Demand,
        }
    }

    /// Does something until there are no bytes left, or so many steps; returns how many.
    pub(crate) fn run(mut self, most: u64) -> u64 {
        let mut steps = 0;
        while steps < most && !self.bytes.is_empty() {
            self.step();
            self.agree();
            steps += 1;
        }
        self.finish();
        steps
    }

    fn step(&mut self) {
        match self.below(20) {
            0..=2 => self.map(),
            3 => self.unmap(),
            4 => self.protect(),
            5 => self.replace(),
            6 | 7 => self.resize(),
            8 | 9 => self.discard(),
            10 => self.prefault(),
            11 => self.track(),
            12 | 13 => self.look(),
            14 => self.hold(),
            15 | 16 => self.read(),
            _ => self.write(),
        }
    }

    fn map(&mut self) {
        let (first, pages) = self.some_range();
        let kind = self.some_kind();
        let backing_pages = pages + self.below(6);
        let backing = self.rig.watch(&self.backing(kind, backing_pages));
        let mapped = self.rig.map_region(area(first, pages), backing, 0, RWX);
        if self.reference.overlaps(first, pages) {
            assert!(matches!(mapped, Err(MapRegionError::Overlap { .. })), "{mapped:?}");
            return;
        }
        assert_eq!(mapped, Ok(()));
        let region = Region { pages, backing_pages, kind, prot: Prot::RWX };
        self.reference.regions.insert(first, region);
    }

    fn unmap(&mut self) {
        let (first, pages) = self.some_range();
        let range = area(first, pages);
        let unmapped = self.rig.unmap_region(range);
        if !self.reference.exactly(first, pages) {
            assert_eq!(unmapped, Err(UnmapRegionError::NotFound { range }));
            return;
        }
        assert_eq!(unmapped, Ok(()));
        self.take_away(first, pages);
        self.reference.regions.remove(&first);
    }

    /// Pages go with their region: who has them again is told.
    fn take_away(&mut self, first: u64, pages: u64) {
        self.reference.drop_pages(first, pages);
        (first..first + pages).for_each(|page| self.reference.mark(page));
    }

    fn protect(&mut self) {
        let (first, pages) = self.some_range();
        let range = area(first, pages);
        let all = [Prot::R, Prot::RW, Prot::RWX, Prot::R | Prot::X];
        let prot = all[self.below(4) as usize];
        let done = self.rig.protect_region(range, prot);
        if !self.reference.exactly(first, pages) {
            assert_eq!(done, Err(ProtectRegionError::NotFound { range }));
            return;
        }
        assert_eq!(done, Ok(()));
        self.reference.regions.get_mut(&first).unwrap().prot = prot;
    }

    fn replace(&mut self) {
        let (first, pages) = self.some_range();
        let range = area(first, pages);
        let backing = self.rig.watch(&self.backing(Kind::Demand, pages));
        let done = self.rig.replace_backing(range, backing, 0);
        if !self.reference.exactly(first, pages) {
            assert_eq!(done, Err(ReplaceBackingError::NotFound { range }));
            return;
        }
        assert_eq!(done, Ok(()));
        self.reference.drop_pages(first, pages);
        (first..first + pages).for_each(|page| self.reference.mark(page));
        let region = self.reference.regions.get_mut(&first).unwrap();
        (region.kind, region.backing_pages) = (Kind::Demand, pages);
    }

    fn resize(&mut self) {
        let (first, pages) = self.some_range();
        let new = 1 + self.below((PAGES - first).min(16));
        let done = self.rig.resize_region(area(first, pages), area(first, new));
        if !self.reference.exactly(first, pages) {
            assert!(matches!(done, Err(ResizeRegionError::NotFound { .. })));
            return;
        }
        let more = new.saturating_sub(pages);
        if self.reference.overlaps(first + pages, more) {
            assert!(matches!(done, Err(ResizeRegionError::Overlap { .. })), "{done:?}");
            return;
        }
        let region = self.reference.regions.get_mut(&first).unwrap();
        if new > pages && new > region.backing_pages {
            assert!(matches!(done, Err(ResizeRegionError::BackingTooSmall { .. })), "{done:?}");
            return;
        }
        assert_eq!(done, Ok(()));
        region.pages = new;
        if new < pages {
            self.take_away(first + new, pages - new);
        }
    }

    fn discard(&mut self) {
        let first = self.below(PAGES);
        let pages = 1 + self.below((PAGES - first).min(8));
        let done = self.rig.discard(area(first, pages));
        let hole = (first..first + pages).find(|&page| self.reference.find(page).is_none());
        if let Some(hole) = hole {
            assert_eq!(done, Err(DiscardError::NoRegion { gpa: at(address(hole)) }));
            return;
        }
        assert_eq!(done, Ok(self.reference.drop_pages(first, pages)));
        (first..first + pages).for_each(|page| self.reference.mark(page));
    }

    fn prefault(&mut self) {
        let first = self.below(PAGES);
        let pages = 1 + self.below((PAGES - first).min(8));
        let done = self.rig.prefault(area(first, pages), go_on);
        let hole = (first..first + pages).find(|&page| self.reference.find(page).is_none());
        let end = hole.unwrap_or(first + pages);
        (first..end).for_each(|page| self.make_resident(page));
        match hole {
            Some(hole) => assert_eq!(done.unwrap_err().done, hole - first),
            None => assert_eq!(done.unwrap(), pages),
        }
    }

    fn make_resident(&mut self, page: u64) {
        let (_, region) = self.reference.find(page).unwrap();
        // Not a page that is shared until it is written.
        let is_writable = region.prot.contains(Prot::W)
            && (region.kind != Kind::Copy || self.reference.contents.contains_key(&page));
        let is_new = self.reference.resident.insert(page);
        if is_new && is_writable && !self.keeps_bits {
            self.reference.mark(page);
        }
    }

    fn track(&mut self) {
        let on = self.below(2) == 0;
        let tracking = if on { Tracking::On } else { Tracking::Off };
        assert_eq!(self.rig.track_dirty(tracking), Ok(()));
        self.reference.dirty = match self.reference.dirty.take() {
            Some(dirty) if on => Some(dirty),
            _ => on.then(BTreeSet::new),
        };
    }

    fn look(&mut self) {
        let mut found = Bitmap::new(area(0, PAGES));
        let (first, pages) = self.some_range();
        let looked = self.rig.dirty(area(first, pages), &mut found);
        let Some(due) = self.reference.take_due(first, pages) else {
            assert_eq!(looked, Err(DirtyError::NotTracked));
            return;
        };
        let told = addresses(&found);
        assert_eq!(looked, Ok(told.len() as u64));
        let told: BTreeSet<u64> = told.into_iter().map(|gpa| gpa / PAGE - FIRST).collect();
        assert_eq!(told, due);
    }

    fn hold(&mut self) {
        let page = self.below(PAGES);
        let held = self.cpu.vcpu.hold(at(address(page)), Prot::W);
        if !self.may(page, Prot::W) {
            assert!(matches!(held, Err(FaultError::NoRegion { .. } | FaultError::Denied { .. })));
            return;
        }
        let hold = held.unwrap();
        self.word += 1;
        self.rig.memory.write(hold.frame(), self.word);
        self.reference.write(page, self.word);
        self.make_resident(page);
        match self.below(3) {
            0 => hold.defer_written(),
            1 => drop(hold.release_written()),
            _ => drop(hold),
        }
    }

    fn may(&self, page: u64, access: Prot) -> bool {
        self.reference.find(page).is_some_and(|(_, region)| region.prot.contains(access))
    }

    fn read(&mut self) {
        let page = self.below(PAGES);
        let read = self.cpu.read(address(page));
        if !self.may(page, Prot::R) {
            assert!(matches!(read, Err(FaultError::NoRegion { .. })));
            return;
        }
        assert_eq!(read.unwrap(), self.reference.read(page), "page {page}");
        self.make_resident(page);
    }

    fn write(&mut self) {
        let page = self.below(PAGES);
        self.word += 1;
        let written = self.cpu.write(address(page), self.word);
        if !self.may(page, Prot::W) {
            assert!(matches!(
                written,
                Err(FaultError::NoRegion { .. } | FaultError::Denied { .. })
            ));
            return;
        }
        written.unwrap();
        self.reference.write(page, self.word);
        self.make_resident(page);
    }

    /// Both are the same.
    fn agree(&self) {
        let regions: Vec<_> = self.rig.regions().iter().map(|info| info.range).collect();
        let expected = self.reference.regions.iter();
        assert!(regions.into_iter().eq(expected.map(|(&first, region)| area(first, region.pages))));
        assert_eq!(self.rig.resident(), self.reference.resident.len() as u64);
        for page in 0..PAGES {
            let leaf = self.rig.leaf(address(page));
            let is_resident = self.reference.resident.contains(&page);
            assert_eq!(leaf.is_some(), is_resident, "page {page}");
            let Some(leaf) = leaf else { continue };
            let (_, region) = self.reference.find(page).unwrap();
            assert!(region.prot.contains(leaf.attr.prot()), "page {page}");
            assert_eq!(leaf.size, PageSize::Size4K);
            assert_eq!(self.rig.memory.read(leaf.pfn), self.reference.read(page), "page {page}");
        }
    }

    /// Everything comes back.
    fn finish(self) {
        let Self { rig, cpu, .. } = self;
        drop(cpu);
        let everything = area(0, PAGES);
        // What was put off.
        let _ = rig.dirty(everything, &mut Bitmap::new(everything));
        rig.audit();
    }
}
