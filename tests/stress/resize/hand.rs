//! One thread that maps, unmaps and protects large pages and parts of them.

use rand::{RngExt, rngs::SmallRng};
use slat::{
    Format, MapError, MappedRange, Mapping, Prot, ProtectError, UnmapError, UnmapRangeError,
};

use super::granule::{Granule, PAGES, SIZE, World};
use crate::common::{RWX, SMALL};

/// A dirty bit that an unmap told of: of these pages, between two moments. What was written through a stale
/// translation is told as well, until the shoot-down is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) granule: usize,
    pub(super) first: usize,
    pub(super) pages: usize,
    pub(super) from: u64,
    pub(super) until: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) large: u64,
    pub(super) small: u64,
    pub(super) unmapped: u64,
    pub(super) cut: u64,
}

impl Tally {
    pub(super) fn join(self, other: Self) -> Self {
        Self {
            large: self.large + other.large,
            small: self.small + other.small,
            unmapped: self.unmapped + other.unmapped,
            cut: self.cut + other.cut,
        }
    }
}

pub(super) struct Hand<'w, F: Format> {
    world: &'w World<F>,
    rng: SmallRng,
    pub(super) told: Vec<Told>,
    pub(super) tally: Tally,
}

impl<'w, F: Format> Hand<'w, F> {
    pub(super) fn new(world: &'w World<F>, rng: SmallRng) -> Self {
        Self { world, rng, told: Vec::new(), tally: Tally::default() }
    }

    fn some_pages(&mut self) -> (usize, usize) {
        let first = self.rng.random_range(0..PAGES);
        (first, self.rng.random_range(1..=(PAGES - first).min(20)))
    }

    pub(super) fn step(&mut self) {
        let granules = &self.world.granules;
        let granule = &granules[self.rng.random_range(0..granules.len())];
        match self.rng.random_range(0..8) {
            0 => self.protect(granule),
            1 => {
                let (page, _) = self.some_pages();
                self.occupied(granule, page);
            }
            _ if granule.stays => {}
            2 => {
                let (first, pages) = self.some_pages();
                self.unmap(granule, first, pages);
            }
            3 => self.unmap(granule, 0, PAGES),
            4 => {
                let (first, _) = self.some_pages();
                self.unmap_one(granule, first);
            }
            _ => self.fill(granule),
        }
    }

    /// Maps whatever of it is not mapped.
    fn fill(&mut self, granule: &Granule) {
        let mut books = granule.books.lock().unwrap();
        // To the block that is there, so that it can be collapsed, or to any.
        let there = books.iter().flatten().next().copied();
        let block = there.unwrap_or_else(|| self.rng.random_range(0..3));
        let holes: Vec<usize> = (0..PAGES).filter(|&page| books[page].is_none()).collect();
        for hole in holes.chunk_by(|one, next| one + 1 == *next) {
            let (first, pages) = (hole[0], hole.len());
            if !granule.take(block, first..first + pages) {
                continue;
            }
            let part = granule.part(first, pages);
            let frame = granule.pfn(block, first);
            let mapped = self.world.table.pin().map_range(part, frame, RWX);
            // It was refined, split or collapsed as often as you please: there is room.
            assert_eq!(mapped, Ok(MappedRange { new: pages as u64, same: 0 }), "{part}");
            books[first..first + pages].fill(Some(block));
        }
    }

    /// Takes pages out of the books, and their frames out of the table.
    fn book(&mut self, granule: &Granule, books: &mut [Option<usize>], leaf: &Mapping, from: u64) {
        let first = (leaf.gpa.get() - granule.gpa(0).get()) as usize / 4096;
        let pages = leaf.size.pages() as usize;
        for (page, block) in books.iter_mut().enumerate().skip(first).take(pages) {
            let block = block.take().expect("it was mapped");
            assert_eq!(leaf.frame_of(granule.gpa(page)), Some(granule.pfn(block, page)));
            granule.unmapped(block, page);
        }
        self.tally.unmapped += 1;
        self.tally.large += u64::from(leaf.size == SIZE);
        self.tally.small += u64::from(leaf.size == SMALL);
        if leaf.dirty {
            let granule = granule.index;
            self.told.push(Told { granule, first, pages, from, until: u64::MAX });
        }
    }

    fn unmap_one(&mut self, granule: &Granule, page: usize) {
        let mut books = granule.books.lock().unwrap();
        let before = books.clone();
        let (from, told) = (self.world.now(), self.told.len());
        let unmapped = self.world.table.pin().unmap(granule.gpa(page));
        match (unmapped, books[page]) {
            (Err(error), None) => {
                assert_eq!(error, UnmapError::NotMapped { gpa: granule.gpa(page) });
            }
            (Ok((leaf, flush)), Some(_)) => {
                self.book(granule, &mut books, &leaf, from);
                let gone: Vec<_> = (0..PAGES).filter(|&p| before[p] != books[p]).collect();
                drop(books);
                self.world.wait(&mut flush.shootdown());
                self.recycle(granule, &before, &gone, told);
            }
            other => panic!("hidden: {other:?}"),
        }
    }

    fn unmap(&mut self, granule: &Granule, first: usize, pages: usize) {
        let mut books = granule.books.lock().unwrap();
        let before = books.clone();
        let (from, told) = (self.world.now(), self.told.len());
        let mut leaves = Vec::new();
        let part = granule.part(first, pages);
        let unmapped = self.world.table.pin().unmap_range(part, |leaf| leaves.push(leaf));
        let (count, flush) = match unmapped {
            Ok(done) => done,
            Err(UnmapRangeError::CutsLarge { gpa }) => {
                // It is whole, so all of it is mapped.
                assert_eq!((gpa, leaves.len()), (granule.gpa(0), 0));
                assert!(pages < PAGES && books.iter().all(|block| *block == before[0]));
                self.tally.cut += 1;
                return;
            }
            other => panic!("{other:?}"),
        };
        leaves.iter().for_each(|leaf| self.book(granule, &mut books, leaf, from));
        let mapped = before[first..first + pages].iter().flatten().count();
        assert_eq!(count, mapped as u64, "hidden in {part}");
        let gone: Vec<_> = (0..PAGES).filter(|&page| before[page] != books[page]).collect();
        drop(books);
        self.world.wait(&mut flush.shootdown());
        self.recycle(granule, &before, &gone, told);
    }

    /// Uses frames again, after the shoot-down.
    fn recycle(
        &mut self,
        granule: &Granule,
        before: &[Option<usize>],
        gone: &[usize],
        told: usize,
    ) {
        let until = self.world.now();
        self.told[told..].iter_mut().for_each(|told| told.until = until);
        for &page in gone {
            granule.recycle(before[page].unwrap(), page);
        }
    }

    fn protect(&mut self, granule: &Granule) {
        let _books = granule.books.lock().unwrap();
        let table = &self.world.table;
        let (first, pages) = self.some_pages();
        let part = granule.part(first, pages);
        match table.pin().protect(part, Prot::R) {
            Ok((_, flush)) => self.world.wait(&mut flush.shootdown()),
            Err(ProtectError::CutsLarge { gpa }) => assert_eq!(gpa, granule.gpa(0)),
            Err(error) => panic!("{error:?}"),
        }
        // Equal again.
        let (_, flush) = table.pin().protect(granule.whole(), Prot::RWX).unwrap();
        assert!(flush.is_empty(), "rights were added only");
    }

    /// Unmaps all that is left.
    pub(super) fn clear(&mut self) {
        for granule in &self.world.granules {
            self.unmap(granule, 0, PAGES);
        }
    }

    /// Maps over what is there, and is told what that is.
    fn occupied(&mut self, granule: &Granule, page: usize) {
        let books = granule.books.lock().unwrap();
        let Some(block) = books[page] else { return };
        let far = granule.pfn(0, 0).checked_add(1 << 20).unwrap();
        let mapped = self.world.table.pin().map(granule.gpa(page), far, SMALL, RWX);
        let Err(MapError::Occupied(there)) = mapped else { panic!("hidden: {mapped:?}") };
        assert_eq!(there.frame_of(granule.gpa(page)), Some(granule.pfn(block, page)));
    }
}
