//! Everything at once: mappers, a software MMU, somebody who resets bits and rights and watches writes,
//! and populates, all over the same few pages; then the books must balance.
//!
//! Each mapping that a thread tries to make has a frame of its own, a token. Every token that was
//! reported as new is in exactly one place afterwards: in what one unmap returned, or in the tree.
//! Every dirty bit that the MMU set, or the fix of a write that faulted, is in exactly one place as well: in what an unmap returned, in
//! a reset that reported it, or in the tree.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Fixed, Format, FrameSource, Gpa, GpaRange, MapError, MapRangeError, Mapped, Mapping, PageTable,
    Pinned, Prot, Tracking, mmu::DirtyChange,
};

use crate::{
    READ, WRITE,
    common::{
        BASE, Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at, dump, every_format, pfn, populated,
        range, scaled,
    },
    crew::{Crew, rounds},
};

/// The pages that come and go: on both sides of 1 GiB, the last one before a page that stays.
const FIRST: u64 = GIB - 24 * PAGE;
const PAGES: u64 = 48;
/// Mapped throughout.
const STAYS: u64 = FIRST + PAGES * PAGE;
const STAYS_FRAME: u64 = 0xf00_0000;

/// What one thread did.
#[derive(Debug, Default)]
struct Books {
    /// (page, frame) of each mapping that was reported as new.
    new: Vec<(u64, u64)>,
    gone: Vec<(u64, u64)>,
    /// Dirty bits that the MMU or a fix set, and dirty bits that somebody was told of.
    dirty_set: u64,
    dirty_told: u64,
}

impl Books {
    fn take(&mut self, mapping: &Mapping) {
        self.gone.push((mapping.gpa.get(), mapping.pfn.get()));
        self.dirty_told += u64::from(mapping.dirty);
    }

    fn join(mut self, other: Self) -> Self {
        self.new.extend(other.new);
        self.gone.extend(other.gone);
        self.dirty_set += other.dirty_set;
        self.dirty_told += other.dirty_told;
        self
    }
}

/// One thread that maps and unmaps at random.
struct Mapper {
    rng: SmallRng,
    books: Books,
    /// The next frame, of this thread alone.
    token: u64,
}

impl Mapper {
    fn page(&mut self) -> Gpa {
        at(FIRST + self.rng.random_range(0..PAGES) * PAGE)
    }

    fn some_pages(&mut self) -> Vec<Gpa> {
        (0..self.rng.random_range(0..24)).map(|_| self.page()).collect()
    }

    fn some_range(&mut self) -> GpaRange {
        let first = self.rng.random_range(0..PAGES);
        let pages = self.rng.random_range(1..=PAGES - first);
        GpaRange::from_pages(at(FIRST + first * PAGE), pages).unwrap()
    }

    fn tokens(&mut self, count: u64) -> u64 {
        self.token += count;
        self.token - count
    }

    fn mapped(&mut self, gpa: Gpa, token: u64, mapped: Result<Mapped, MapError>) {
        match mapped {
            Ok(Mapped::New) => self.books.new.push((gpa.get(), token)),
            Err(MapError::Occupied(there)) => {
                assert_eq!(there.gpa, gpa);
                assert_ne!(there.pfn, pfn(token));
            }
            other => panic!("{other:?}: nobody else has the frame, and the page is populated"),
        }
    }

    fn step<F: Format, S: FrameSource>(&mut self, pin: &Pinned<'_, F, S>) {
        match self.rng.random_range(0..12) {
            0..3 => {
                let (gpa, token) = (self.page(), self.tokens(1));
                self.mapped(gpa, token, pin.map(gpa, pfn(token), SMALL, RWX));
            }
            3 => {
                let (gpa, token) = (self.page(), self.tokens(1));
                let slot = pin.slot(gpa).unwrap();
                self.mapped(gpa, token, slot.map(pfn(token), SMALL, RWX));
            }
            4 => {
                let pages = self.some_pages();
                let first = self.tokens(pages.len() as u64);
                let pages = pages.into_iter().zip((first..).map(pfn));
                let mut token = first..;
                pin.map_many(pages, RWX, |gpa, mapped| {
                    self.mapped(gpa, token.next().unwrap(), mapped);
                });
            }
            5 | 6 => self.map_range(pin),
            7 | 8 => {
                let gpa = self.page();
                if let Ok((mapping, _)) = pin.unmap(gpa) {
                    assert_eq!(mapping.gpa, gpa);
                    self.books.take(&mapping);
                }
            }
            9 => {
                let pages = self.some_pages();
                let _ = pin.unmap_many(pages, |_, result| {
                    result.iter().for_each(|mapping| self.books.take(mapping));
                });
            }
            10 => {
                let range = self.some_range();
                let mut count = 0;
                let (pages, flush) = pin
                    .unmap_range(range, |mapping| {
                        count += 1;
                        self.books.take(&mapping);
                    })
                    .unwrap();
                assert_eq!((pages, flush.is_empty()), (count, count == 0));
            }
            _ => {
                let slot = pin.slot(self.page()).unwrap();
                self.books.dirty_told += u64::from(slot.clear_dirty());
            }
        }
    }

    fn map_range<F: Format, S: FrameSource>(&mut self, pin: &Pinned<'_, F, S>) {
        let range = self.some_range();
        let first = self.tokens(range.pages());
        let done = match pin.map_range(range, pfn(first), RWX) {
            Ok(done) => {
                assert_eq!(done.new, range.pages());
                done
            }
            Err(MapRangeError::Page { done, source: MapError::Occupied(there) }) => {
                // It got as far as the page before.
                let before = (there.gpa.get() - range.start().get()) / PAGE;
                assert!(done.new == before || done.new == 0, "{done:?}, then {there:?}");
                done
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(done.same, 0);
        let pages = (0..done.new).map(|page| (range.start().get() + page * PAGE, first + page));
        self.books.new.extend(pages);
    }
}

/// Reads and writes as a guest does, until all mappers are done, and fixes writes that fault; returns the
/// dirty bits that were set.
fn guest<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    mut rng: SmallRng,
    go_on: impl Fn() -> bool,
) -> Books {
    let reader = table.reader();
    let mut observer = table.observer();
    let inside = observer.enter(Tracking::On);
    let mmu = inside.mmu();
    let mut books = Books::default();
    while go_on() {
        let gpa = at(FIRST + rng.random_range(0..=PAGES) * PAGE + 0x123);
        let access = if rng.random() { WRITE } else { READ };
        match mmu.translate(gpa, access) {
            Ok(reached) => books.dirty_set += u64::from(reached.dirty == DirtyChange::Set),
            Err(_) => {
                assert!(gpa.get() < STAYS || access == WRITE, "a mapped page was hidden");
                let fixed = access == WRITE && reader.pin().fix_write(gpa) == Ok(Fixed::Dirtied);
                books.dirty_set += u64::from(fixed);
            }
        }
    }
    books
}

/// Changes rights, resets bits and watches writes, and looks that what stays is never hidden.
fn reset<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    mut rng: SmallRng,
    go_on: impl Fn() -> bool,
) -> Books {
    let reader = table.reader();
    let mut books = Books::default();
    while go_on() {
        let pin = reader.pin();
        let gpa = at(FIRST + rng.random_range(0..=PAGES) * PAGE);
        let slot = pin.slot(gpa).unwrap();
        let all = range(FIRST, (PAGES + 1) * PAGE);
        match rng.random_range(0..8) {
            0 => books.dirty_told += u64::from(slot.clear_dirty()),
            1 => drop(slot.clear_accessed()),
            2 => drop(slot.set_accessed()),
            3 => {
                let prot = if rng.random() { Prot::R } else { Prot::RW };
                let _ = pin.protect(all, prot).unwrap();
            }
            4 => drop(pin.watch(all).unwrap()),
            5 => drop(pin.unwatch(all).unwrap()),
            _ => {
                let walk = pin.walk(gpa, slat::Level::L1);
                for step in walk.iter() {
                    assert!(table.format().is_well_formed(step.level, step.entry), "{step:?}");
                }
            }
        }
        let there = pin.lookup(at(STAYS)).expect("a mapped page was hidden");
        assert_eq!(there.pfn, pfn(STAYS_FRAME));
    }
    books
}

every_format! {
    #![and_without_bits]

    /// Invariants 1, 2, 5, 6, 7, 9, 11.
    fn the_books_of_all_operations_balance(format: impl Format) {
        let seed = scaled("SLAT_STRESS_SEED", 0x51a7);
        // Shown if the test fails.
        println!("SLAT_STRESS_SEED={seed}");
        let steps = rounds(12_000);
        let table = Checked::with(format, Frames::with_base(BASE, 600));
        table.populate(range(FIRST, (PAGES + 1) * PAGE), SMALL).unwrap();
        table.map(STAYS, STAYS_FRAME);
        let mut crew = Crew::new();
        for thread in 0..3 {
            let table = &table;
            crew.worker(move || {
                let rng = SmallRng::seed_from_u64(seed + thread);
                let mut mapper = Mapper { rng, books: Books::default(), token: thread << 24 };
                let reader = table.reader();
                for _ in 0..steps {
                    mapper.step(&reader.pin());
                }
                assert!(mapper.token < (thread << 24) + (1 << 24));
                mapper.books
            });
        }
        let rng = |number| SmallRng::seed_from_u64(seed + number);
        crew.meanwhile(|working| guest(&table, rng(10), || working.go_on()));
        crew.meanwhile(|working| reset(&table, rng(11), || working.go_on()));
        crew.meanwhile(|working| {
            // Tables come beside the pages, some in the very leaf tables that they are in.
            let mut made = 0;
            while working.go_on() && made < 200 {
                let gap = FIRST - MIB - made * 2 * PAGE;
                table.populate(range(gap, PAGE), SMALL).unwrap();
                table.populate(range(2 * GIB + made * 3 * MIB, MIB), SMALL).unwrap();
                made += 1;
            }
            assert!(populated(&table).len() as u64 > made);
            Books::default()
        });
        let mut books = crew.run().into_iter().fold(Books::default(), Books::join);

        let all = range(FIRST, PAGES * PAGE);
        let left: Vec<Mapping> = table.pin().mappings(all).unwrap().collect();
        left.iter().for_each(|mapping| books.take(mapping));
        books.dirty_told += u64::from(table.pin().lookup(at(STAYS)).unwrap().dirty);
        books.new.sort_unstable();
        books.gone.sort_unstable();
        assert_eq!(books.new, books.gone);
        assert_eq!(books.dirty_set, books.dirty_told);
        assert!(books.new.len() as u64 > steps / 4, "little happened: {}", books.new.len());
        // The dump checks every bit of every entry.
        for (_, _, _, _, entry) in dump(&table) {
            let bits = format.accessed_bit() | format.dirty_bit();
            assert!(format.is_present(entry) || !entry.has(bits));
        }
    }
}
