//! Threads that populate and vacate, and one that watches what stays.

use std::{
    sync::{Arc, atomic::Ordering, mpsc::Sender},
    thread,
};

use rand::{RngExt, rngs::SmallRng};
use slat::{Format, Gpa, GpaRange, MapError, PopulateError, Prot, Reader, Tracking, VacateError};

use super::{
    hand::{Hand, Parcel},
    jolts::Jolts,
    world::{Area, Pin, World},
};
use crate::{READ, common::SMALL, crew::Working};

/// What is populated of a range, by the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    None,
    Some,
    All,
}

fn ground(shape: &[bool]) -> Ground {
    match shape.iter().filter(|&&populated| populated).count() {
        0 => Ground::None,
        count if count == shape.len() => Ground::All,
        _ => Ground::Some,
    }
}

impl<'w, F: Format> Hand<'w, F> {
    /// Populates or vacates some part of some area, of any kind.
    pub(crate) fn restructure(
        &mut self,
        reader: &Reader<F, Arc<Jolts>>,
        shooter: &Sender<Parcel<'w>>,
    ) {
        let area = self.world.some_area(&mut self.rng);
        let mut shape = area.shape.lock().unwrap();
        let (first, pages) = self.some_part(area);
        let range = area.part(first, pages);
        let books = &mut shape[first as usize..(first + pages) as usize];
        match (ground(books), self.rng.random_range(0..8)) {
            (Ground::None, 0) => self.vacate_in_vain(range),
            (Ground::None, _) => {
                populate(self.world, range);
                books.fill(true);
            }
            (Ground::Some, 0..4) => self.vacate_in_vain(range),
            (Ground::Some, _) => self.overlap(range),
            (Ground::All, 0) => self.overlap(range),
            (Ground::All, 1) if first + pages == area.pages => {
                // What stays is mapped: all or nothing.
                self.vacate_in_vain(area.part(first, pages + 1));
            }
            (Ground::All, _) => {
                if self.vacate(range) {
                    books.fill(false);
                }
            }
        }
        // Invariant 6: what an operation says it did, it did, and nothing else.
        self.inspect(&reader.pin(), area, &shape);
        drop(shape);
        self.serve(shooter);
    }

    /// Picks pages of an area: all, up to an end, or some in the middle.
    fn some_part(&mut self, area: &Area) -> (u64, u64) {
        let (first, end) = (area.some_page(&mut self.rng), area.some_page(&mut self.rng) + 1);
        match self.rng.random_range(0..8) {
            0..3 => (0, area.pages),
            3 => (0, end),
            4 => (first, area.pages - first),
            5 => (first, 1),
            _ => (first.min(end - 1), first.abs_diff(end).max(1)),
        }
    }

    /// Fills what is there with leaves, takes them out, and vacates, beside all others.
    fn vacate(&mut self, range: GpaRange) -> bool {
        for _ in 0..6 {
            self.unmap_range(&self.world.table.pin(), range);
            match self.world.table.vacate(range) {
                Ok(()) => {
                    self.world.table.source().turn();
                    self.tally.vacated += 1;
                    return true;
                }
                Err(VacateError::StillMapped { gpa }) => assert!(range.contains(gpa)),
                Err(VacateError::Busy) => thread::yield_now(),
                Err(other) => panic!("{other:?}: all of {range} is populated"),
            }
        }
        false
    }

    /// Vacates a range that cannot be: part of it is not populated, or something in it stays.
    fn vacate_in_vain(&self, range: GpaRange) {
        match self.world.table.vacate(range) {
            Err(VacateError::StillMapped { gpa } | VacateError::NotPopulated { gpa }) => {
                assert!(range.contains(gpa));
            }
            other => assert_eq!(other, Err(VacateError::Busy)),
        }
    }

    /// Populates a range part of which is populated.
    fn overlap(&self, range: GpaRange) {
        match self.world.table.populate(range, SMALL) {
            Err(PopulateError::Overlap { gpa }) => assert!(range.contains(gpa)),
            other => panic!("{other:?}"),
        }
    }

    /// Looks at some pages of an area that nobody else restructures.
    fn inspect(&mut self, pin: &Pin<'_, F>, area: &Area, shape: &[bool]) {
        for _ in 0..12 {
            let page = area.some_page(&mut self.rng);
            let gpa = area.page(page);
            if shape[page as usize] {
                let mapped = self.map(pin, gpa);
                // Invariant 6: a vacate that failed has taken nothing away.
                let refused = matches!(
                    mapped,
                    Some(Err(MapError::NotPopulated { .. } | MapError::Vacated { .. }))
                );
                assert!(!refused, "{gpa} is populated: {mapped:?}");
            } else {
                assert_eq!(pin.lookup(gpa), None, "{gpa} is not populated");
                assert!(pin.unmap(gpa).is_err(), "{gpa} is not populated");
                if let Some(mapped) = self.map(pin, gpa) {
                    assert_eq!(mapped, Err(MapError::NotPopulated { gpa }));
                }
            }
        }
    }
}

/// Populates a range that is not; waits for frames if others hold them back.
fn populate<F: Format>(world: &World<F>, range: GpaRange) {
    loop {
        match world.table.populate(range, SMALL) {
            Ok(()) => return,
            Err(PopulateError::OutOfFrames(few)) => {
                // Invariant 9: there are enough, so the others wait.
                assert!(few.waiting > 0, "{few}");
                world.table.reclaim(&|id| world.kick(id));
                thread::yield_now();
            }
            Err(other) => panic!("{other:?}: nothing of {range} is populated"),
        }
    }
}

/// Looks at what stays, with readers and observers that come and go; takes the right to write it
/// away, and gives it back.
pub(crate) fn watch<F: Format>(world: &World<F>, mut rng: SmallRng, working: &Working) {
    let mut reader = world.table.reader();
    while working.go_on() {
        let area = world.some_area(&mut rng);
        look(&reader.pin(), area.stays);
        match rng.random_range(0..8) {
            0..2 => {
                let mut observer = world.table.observer();
                let inside = observer.enter(Tracking::On);
                reader = world.table.reader();
                let read = inside.mmu().translate(area.stays, READ);
                let read = read.unwrap_or_else(|fault| panic!("hidden: {fault:?}"));
                world.ledger.read(read.pfn, area.stays);
            }
            2 => seal(world, area),
            3 => drop(world.table.reclaim(&|id| world.kick(id))),
            4 => {
                let stats = world.table.stats();
                assert!(stats.lagging <= stats.inside && stats.inside <= stats.observers);
            }
            _ => {}
        }
    }
}

/// Invariant 7: a mapped page is never hidden from anybody.
fn look<F: Format>(pin: &Pin<'_, F>, gpa: Gpa) {
    let there = pin.lookup(gpa).expect("a mapped page was hidden");
    assert_eq!(there.gpa, gpa);
    pin.lookup_many([gpa; 3], |_, found| {
        assert_eq!(found.map(|found| found.pfn), Some(there.pfn), "hidden");
    });
    let page = there.range();
    let found = pin.mappings(page).unwrap().map(|found| found.pfn);
    assert_eq!(found.collect::<Vec<_>>(), [there.pfn], "hidden");
    assert_eq!(pin.slot(gpa).unwrap().mapping().map(|found| found.pfn), Some(there.pfn));
    let again = pin.map(gpa, there.pfn.checked_add(1).unwrap(), SMALL, there.attr);
    assert!(matches!(again, Err(MapError::Occupied(found)) if found.pfn == there.pfn), "{again:?}");
}

/// Invariant 8, for a right: nobody writes the page between the shoot-down and the end of the seal.
fn seal<F: Format>(world: &World<F>, area: &Area) {
    let page = GpaRange::from_pages(area.stays, 1).unwrap();
    let (pages, flush) = world.table.pin().protect(page, Prot::R).unwrap();
    assert_eq!((pages, flush.range()), (1, Some(page)));
    world.wait(&mut flush.shootdown());
    area.sealed.store(true, Ordering::Relaxed);
    thread::yield_now();
    area.sealed.store(false, Ordering::Relaxed);
    let (pages, flush) = world.table.pin().protect(page, Prot::RWX).unwrap();
    assert_eq!((pages, flush.is_empty()), (1, true));
}
