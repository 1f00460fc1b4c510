//! Rounds: harvests that read only what was touched report all the same what a plain one would, whatever
//! was in the translation caches and whoever set the bits.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

mod caches;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod cost;
mod large;
mod model;

mod software;

use std::sync::Arc;

use common::{Checked, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range};
use slat::{
    Bitmap, Flush, Format, FrameSource, GpaRange, HarvestError, HeapFrames, Inside, Mark,
    NotCovered, Observer, ObserverId, PageTable, Tracking,
    mmu::{Access, Mode, TranslationCache},
};

/// No pages. Typed, since numbers can be compared with more than numbers where vm-memory is.
const NONE: [u64; 0] = [];

const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
const READ: Access = Access::READ.in_mode(Mode::Supervisor);

/// The memory of most tests: 64 leaf tables, around the end of a gibibyte. So many that a round which
/// reads one or two of them does not think that a plain scan is cheaper.
const START: u64 = GIB - 32 * TABLE;
const TABLE: u64 = 2 * MIB;
const TABLES: u64 = 64;

fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

/// Serves a flush of a table whose observers are out.
#[track_caller]
fn shoot_down(flush: Flush<'_>) {
    flush.shootdown().wait(&nobody).unwrap();
}

fn area() -> GpaRange {
    range(START, TABLES * TABLE)
}

/// The address of `page` of leaf table `table` of the area.
fn page(table: u64, page: u64) -> u64 {
    START + table * TABLE + page * PAGE
}

fn mapped<F: Format>(format: F) -> Checked<F> {
    let table = Checked::new(format, 128);
    table.populate_mapped(area(), SMALL, pfn(0x500), RWX).unwrap();
    table
}

/// Does a round, and nothing about its flush; returns the pages that it reports as addresses.
#[track_caller]
fn round_of<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    range: GpaRange,
    mark: Mark,
) -> Vec<u64> {
    let mut found = Bitmap::new(range);
    let (pages, _flush) = table.harvest_round(range, mark, &mut found).unwrap();
    assert_eq!(pages, found.count());
    gpas(&found)
}

#[track_caller]
fn round<F: Format, S: FrameSource>(table: &PageTable<F, S>, mark: Mark) -> Vec<u64> {
    round_of(table, area(), mark)
}

/// Does rounds of both kinds until no table entry is accessed any more, and none bears a carry.
#[track_caller]
fn settle<F: Format, S: FrameSource>(table: &PageTable<F, S>) {
    for mark in [Mark::Accessed, Mark::Dirty].repeat(3) {
        round(table, mark);
    }
    for mark in [Mark::Accessed, Mark::Dirty] {
        assert_eq!(round(table, mark), NONE);
    }
}

fn gpas(found: &Bitmap) -> Vec<u64> {
    let pages = |run: GpaRange| (0..run.pages()).map(move |page| run.start().get() + page * PAGE);
    found.runs().flat_map(pages).collect()
}

/// A processor with caches, which go stale.
struct Guest<F: Format, S: FrameSource> {
    observer: Observer<F, S>,
    cache: TranslationCache,
}

impl<F: Format, S: FrameSource> Guest<F, S> {
    fn new(table: &PageTable<F, S>) -> Self {
        Self { observer: table.observer(), cache: TranslationCache::default() }
    }

    fn enter(&mut self) -> Stay<'_, F, S> {
        let inside = self.observer.enter(Tracking::On);
        inside.refresh(&mut self.cache);
        Stay { inside, cache: &mut self.cache }
    }
}

/// A processor that is inside.
struct Stay<'g, F: Format, S: FrameSource> {
    inside: Inside<'g, F, S>,
    cache: &'g mut TranslationCache,
}

impl<F: Format, S: FrameSource> Stay<'_, F, S> {
    #[track_caller]
    fn access(&mut self, gpa: u64, access: Access) {
        self.inside.mmu().translate_cached(self.cache, at(gpa), access).unwrap();
    }

    /// Invalidates what became due, and goes on.
    fn acknowledge(&mut self) {
        self.inside.acknowledge(|_| ());
        self.inside.refresh(self.cache);
    }
}

/// Accesses pages as a guest does that comes for it, and whose caches know nothing.
#[track_caller]
fn touch<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    gpas: impl IntoIterator<Item = u64>,
    access: Access,
) {
    let mut guest = Guest::new(table);
    let mut stay = guest.enter();
    for gpa in gpas {
        stay.access(gpa, access);
    }
}

every_format! {
    fn a_page_that_was_written_is_reported_once(format: impl Format) {
        let table = mapped(format);
        touch(&table, [page(3, 7), page(40, 0)], WRITE);
        touch(&table, [page(3, 8)], READ);
        let mut found = Bitmap::new(range(START - PAGE, (TABLES + 1) * TABLE));
        let (pages, flush) = table.harvest_round(area(), Mark::Dirty, &mut found).unwrap();
        assert_eq!((pages, gpas(&found)), (2, vec![page(3, 7), page(40, 0)]));
        // What is taken above the leaves is cached as well.
        assert_eq!((flush.range(), flush.scope()), (Some(area()), slat::Scope::Structure));
        shoot_down(flush);
        assert_eq!(round(&table, Mark::Dirty), NONE);
        assert_eq!(round(&table, Mark::Accessed), [page(3, 7), page(3, 8), page(40, 0)]);
        assert_eq!(round(&table, Mark::Accessed), NONE);
    }

    fn a_page_that_is_written_again_is_reported_again(format: impl Format) {
        let table = mapped(format);
        for _ in 0..5 {
            touch(&table, [page(3, 7)], WRITE);
            assert_eq!(round(&table, Mark::Dirty), [page(3, 7)]);
        }
    }

    fn aging_twice_leaves_the_round_for_dirty_pages_its_own(format: impl Format) {
        let table = mapped(format);
        touch(&table, [page(3, 7)], WRITE);
        assert_eq!(round(&table, Mark::Accessed), [page(3, 7)]);
        for _ in 0..4 {
            assert_eq!(round(&table, Mark::Accessed), NONE);
        }
        assert_eq!(round(&table, Mark::Dirty), [page(3, 7)]);
    }

    fn a_part_twice_leaves_the_whole_its_own(format: impl Format) {
        // Pages of one leaf table; leaf tables of one gibibyte; and both.
        for part in [
            range(page(3, 0), 100 * PAGE),
            range(page(3, 400), 112 * PAGE),
            range(page(3, 0), TABLE),
            range(page(0, 0), 32 * TABLE),
            range(page(2, 500), 2 * TABLE),
        ] {
            for mark in [Mark::Accessed, Mark::Dirty] {
                let table = mapped(format);
                let written = [page(1, 9), page(3, 200), page(5, 1), page(33, 3)];
                touch(&table, written, WRITE);
                let mut all: Vec<u64> = (0..3).flat_map(|_| round_of(&table, part, mark)).collect();
                assert!(all.iter().all(|&gpa| part.contains(at(gpa))));
                all.extend(round(&table, mark));
                all.sort_unstable();
                assert_eq!(all, written, "{part} first");
            }
        }
    }

    fn a_round_over_nothing_reports_nothing(format: impl Format) {
        let table = Checked::new(format, 16);
        assert_eq!(round(&table, Mark::Dirty), NONE);
        table.populate_pages(START, 5 * PAGE);
        assert_eq!(round(&table, Mark::Dirty), NONE);
        table.map(START + 4 * PAGE, 9);
        touch(&table, [START + 4 * PAGE], WRITE);
        assert_eq!(round(&table, Mark::Dirty), [START + 4 * PAGE]);
        assert_eq!(round(&table, Mark::Dirty), NONE);
    }

    fn what_a_harvest_refuses_a_round_refuses(format: impl Format) {
        let table = mapped(format);
        touch(&table, [page(3, 7)], WRITE);
        let before = common::dump(&table);
        let outside = range(common::Space::of(&format).outside()[0] & !0xfff, PAGE);
        let mut found = Bitmap::new(outside);
        let refused = table.harvest_round(outside, Mark::Dirty, &mut found).unwrap_err();
        assert_eq!(refused, HarvestError::OutOfRange { range: outside });
        let mut found = Bitmap::new(range(START + PAGE, TABLES * TABLE));
        let refused = table.harvest_round(area(), Mark::Dirty, &mut found).unwrap_err();
        assert!(matches!(refused, HarvestError::NotCovered(NotCovered { .. })));
        assert!(found.is_empty() && common::dump(&table) == before);
    }

    fn a_round_over_all_there_is_reaches_the_last_page(format: impl Format) {
        let table = Checked::new(format, 16);
        let last = common::Space::of(&format).last_page();
        table.populate_pages(last, PAGE);
        table.map(last, 9);
        let part = GpaRange::from_pages(at(last - 63 * PAGE), 64).unwrap();
        for mark in [Mark::Dirty, Mark::Accessed] {
            touch(&table, [last], WRITE);
            assert_eq!(round_of(&table, part, mark), [last]);
            assert_eq!(round_of(&table, part, mark), NONE);
        }
    }
}

/// A table of the tests' area whose source can be told to give up.
fn with_source<F: Format, S: FrameSource>(format: F, source: S) -> PageTable<F, Arc<S>> {
    let table = PageTable::new(format, Arc::new(source)).unwrap();
    table.populate_mapped(area(), SMALL, pfn(0x500), RWX).unwrap();
    table
}

fn frames() -> HeapFrames {
    HeapFrames::with_base(common::BASE, 128).unwrap()
}
