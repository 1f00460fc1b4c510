//! Harvest: which pages are reported, in which bit, whose marks are cleared, and what it costs.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "plants leaves, and reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod large;
mod model;
#[cfg(feature = "rayon")]
mod parallel;

use common::{
    Checked, Counting, GIB, MIB, PAGE, RWX, SMALL, Space, TIB, at, census, dump, every_format, pfn,
    range, tables_visited,
};
use slat::{
    Bitmap, Flush, Format, FrameSource, Gpa, GpaRange, HarvestError, HeapFrames, Level, Mark,
    NotCovered, PageTable, Pinned, Prot, Tracking,
    mmu::{Access, DirtyChange, Mode, TranslationCache},
};

const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
const READ: Access = Access::READ.in_mode(Mode::Supervisor);

fn nobody(id: slat::ObserverId) {
    panic!("{id} is kicked");
}

/// Serves a flush of a table whose observers are out.
#[track_caller]
fn shoot_down(flush: Flush<'_>) {
    flush.shootdown().wait(&nobody).unwrap();
}

/// Accesses pages as a guest does whose caches know nothing.
#[track_caller]
fn touch<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    gpas: impl IntoIterator<Item = u64>,
    access: Access,
) {
    let mut observer = table.observer();
    let inside = observer.enter(Tracking::On);
    for gpa in gpas {
        inside.mmu().translate(at(gpa), access).unwrap();
    }
}

/// Harvests into a new bitmap of the range; what is cleared is shot down.
#[track_caller]
fn harvest<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    range: GpaRange,
    mark: Mark,
) -> Bitmap {
    let mut found = Bitmap::new(range);
    let (pages, flush) = table.pin().harvest(range, mark, &mut found).unwrap();
    assert_eq!(pages, found.count());
    shoot_down(flush);
    found
}

/// Returns the pages in the bitmap as addresses.
fn gpas(found: &Bitmap) -> Vec<u64> {
    let pages = |run: GpaRange| (0..run.pages()).map(move |page| run.start().get() + page * PAGE);
    found.runs().flat_map(pages).collect()
}

/// A bitmap of `range` with these pages in it.
#[track_caller]
fn bitmap(range: GpaRange, gpas: impl IntoIterator<Item = u64>) -> Bitmap {
    let mut bitmap = Bitmap::new(range);
    for gpa in gpas {
        bitmap.set(at(gpa)).unwrap();
    }
    bitmap
}

fn mapped<F: Format>(format: F, area: GpaRange) -> Checked<F> {
    let table = Checked::new(format, 64);
    table.populate_mapped(area, SMALL, pfn(0x500), RWX).unwrap();
    table
}

every_format! {
    /// D1.
    fn one_byte_written_is_one_bit_once(format: impl Format) {
        let area = range(GIB, 256 * PAGE);
        let table = mapped(format, area);
        touch(&table, [GIB + 0x777], WRITE);
        let found = harvest(&table, area, Mark::Dirty);
        assert_eq!(found.words(), [1, 0, 0, 0]);
        assert_eq!(harvest(&table, area, Mark::Dirty).words(), [0; 4]);
        // The other mark is not concerned.
        assert_eq!(harvest(&table, area, Mark::Accessed).words(), [1, 0, 0, 0]);
        assert_eq!(harvest(&table, area, Mark::Accessed).words(), [0; 4]);
    }

    /// D2.
    fn a_query_clears_nothing(format: impl Format) {
        let area = range(GIB, 256 * PAGE);
        let table = mapped(format, area);
        touch(&table, (0..32).map(|page| GIB + page * 8 * PAGE), WRITE);
        let before = dump(&table);
        for mark in [Mark::Dirty, Mark::Dirty, Mark::Accessed] {
            let mut found = Bitmap::new(area);
            assert_eq!(table.pin().query(area, mark, &mut found), Ok(32));
            assert_eq!(found.words(), [0x0101_0101_0101_0101; 4]);
            assert!(dump(&table) == before);
        }
        assert_eq!(harvest(&table, area, Mark::Dirty).words(), [0x0101_0101_0101_0101; 4]);
        let mut found = Bitmap::new(area);
        assert_eq!(table.pin().query(area, Mark::Dirty, &mut found), Ok(0));
        assert!(found.is_empty());
    }

    /// D3.
    fn pages_made_dirty_are_those_of_the_next_harvest(format: impl Format) {
        let area = range(GIB, 256 * PAGE);
        let table = Checked::new(format, 64);
        table.populate_pages(GIB, 200 * PAGE);
        let pin = table.pin();
        pin.map_range(range(GIB, 100 * PAGE), pfn(7), RWX).unwrap();
        let _ = pin.protect(range(GIB, 10 * PAGE), Prot::R).unwrap();
        touch(&table, [GIB + 20 * PAGE], WRITE);
        let page = |page| GIB + page * PAGE;
        // Read-only, dirty already, never touched, not mapped, and not populated.
        let selection = bitmap(area, [3, 9, 20, 21, 22, 63, 64, 99, 100, 199, 200, 255].map(page));
        let others = [3, 9, 100, 199, 200, 255].map(page);
        let entries = || others.map(|gpa| pin.walk(at(gpa), Level::L1).last().unwrap().entry);
        let before = entries();
        assert_eq!(pin.set_dirty(&selection), Ok(5));
        assert_eq!(pin.set_dirty(&selection), Ok(0));
        assert_eq!(entries(), before);
        drop(pin);
        let found = harvest(&table, area, Mark::Dirty);
        assert_eq!(gpas(&found), [20, 21, 22, 63, 64, 99].map(page));
        table.map(page(100), 3);
        assert_eq!(table.pin().set_dirty(&selection), Ok(7));
    }

    /// D4.
    fn only_selected_pages_are_reported_and_cleared(format: impl Format) {
        let area = range(GIB + 3 * PAGE, 128 * PAGE);
        let table = mapped(format, area);
        let page = |page| area.start().get() + page * PAGE;
        touch(&table, (0..128).map(page), WRITE);
        let even = bitmap(area, (0..64).map(|index| page(2 * index)));
        let mut found = Bitmap::new(area);
        let (pages, flush) = table.pin().harvest_selected(&even, Mark::Dirty, &mut found).unwrap();
        assert_eq!((pages, found.words()), (64, &[0x5555_5555_5555_5555; 2][..]));
        assert_eq!(flush.range(), Some(range(page(0), 127 * PAGE)));
        shoot_down(flush);
        let left = harvest(&table, area, Mark::Dirty);
        assert_eq!(left.words(), [0xaaaa_aaaa_aaaa_aaaa; 2]);
        // The bitmap of what is found may be of more pages than the selection.
        touch(&table, (0..128).map(page), WRITE);
        let some = bitmap(range(page(60), 8 * PAGE), [page(61), page(66)]);
        let mut found = bitmap(range(GIB, 256 * PAGE), [page(1)]);
        let (pages, flush) = table.pin().harvest_selected(&some, Mark::Dirty, &mut found).unwrap();
        assert_eq!((pages, flush.range()), (2, Some(range(page(61), 6 * PAGE))));
        assert_eq!(gpas(&found), [1, 61, 66].map(page));
    }

    /// D5.
    fn a_page_written_again_is_dirty_again(format: impl Format) {
        let area = range(GIB, 16 * PAGE);
        let table = mapped(format, area);
        let mut observer = table.observer();
        let mut cache = TranslationCache::default();
        for round in 0..3 {
            let inside = observer.enter(Tracking::On);
            inside.refresh(&mut cache);
            let written = inside.mmu().translate_cached(&mut cache, at(GIB + 5 * PAGE), WRITE);
            assert_eq!(written.unwrap().dirty, DirtyChange::Set, "round {round}");
            let mut found = Bitmap::new(area);
            let (pages, flush) = table.pin().harvest(area, Mark::Dirty, &mut found).unwrap();
            assert_eq!((pages, gpas(&found)), (1, vec![GIB + 5 * PAGE]));
            // Until the shoot-down, a cached translation lets it write unseen.
            let written = inside.mmu().translate_cached(&mut cache, at(GIB + 5 * PAGE), WRITE);
            assert_eq!(written.unwrap().dirty, DirtyChange::None);
            assert_eq!(table.pin().query(area, Mark::Dirty, &mut found), Ok(0));
            drop(inside);
            shoot_down(flush);
        }
    }

    fn bits_lie_where_the_bitmap_begins(format: impl Format) {
        let area = range(GIB - 70 * PAGE, 200 * PAGE);
        let table = mapped(format, area);
        let start = area.start().get();
        let pages = [0, 1, 63, 64, 69, 70, 71, 133, 134, 199].map(|page| start + page * PAGE);
        // Bitmaps that begin and end in the middle of words, with tables, and far off.
        let margins = [(0, 0), (1, 1), (63, 2), (64, 0), (65, 100), (442, 300), (20_000, 1)];
        for (before, after) in margins {
            touch(&table, pages, WRITE);
            let wide = range(start - before * PAGE, (200 + before + after) * PAGE);
            let mut found = Bitmap::new(wide);
            let (count, flush) = table.pin().harvest(area, Mark::Dirty, &mut found).unwrap();
            assert_eq!((count, flush.range()), (10, Some(area)));
            assert_eq!(gpas(&found), pages);
            for (page, gpa) in [(before, pages[0]), (before + 134, pages[8])] {
                assert_ne!(found.words()[page as usize / 64] >> (page % 64) & 1, 0, "{gpa:#x}");
            }
        }
    }

    fn unaligned_ends_leave_the_neighbours_alone(format: impl Format) {
        let area = range(2 * MIB - 300 * PAGE, 900 * PAGE);
        let table = mapped(format, area);
        let page = |page| area.start().get() + page * PAGE;
        let parts = [(0, 1), (1, 64), (3, 300), (299, 301), (300, 812), (311, 811), (899, 900)];
        for (first, end) in parts {
            touch(&table, (0..900).map(page), WRITE);
            let part = range(page(first), (end - first) * PAGE);
            let mut found = Bitmap::new(area);
            let (count, flush) = table.pin().harvest(part, Mark::Dirty, &mut found).unwrap();
            assert_eq!((count, flush.range()), (end - first, Some(part)));
            assert!(gpas(&found).into_iter().eq((first..end).map(page)));
            shoot_down(flush);
            let rest = harvest(&table, area, Mark::Dirty);
            assert!(gpas(&rest).into_iter().eq((0..first).chain(end..900).map(page)));
        }
    }

    fn what_cannot_be_harvested_is_refused_before_anything_changes(format: impl Format) {
        let area = range(GIB, 64 * PAGE);
        let table = mapped(format, area);
        touch(&table, [GIB, GIB + PAGE], WRITE);
        let before = dump(&table);
        let pin = table.pin();
        let mut found = Bitmap::new(range(GIB + PAGE, 63 * PAGE));
        let refused = HarvestError::NotCovered(NotCovered { wanted: area, bitmap: found.range() });
        assert_eq!(pin.harvest(area, Mark::Dirty, &mut found).unwrap_err(), refused);
        assert_eq!(pin.query(area, Mark::Dirty, &mut found).unwrap_err(), refused);
        let all = bitmap(area, [GIB]);
        let why = pin.harvest_selected(&all, Mark::Dirty, &mut found).unwrap_err();
        assert_eq!(why, refused);
        for outside in Space::of(&format).outside() {
            let outside = GpaRange::from_pages(at(outside & !(PAGE - 1)), 1).unwrap();
            let mut found = Bitmap::new(outside);
            let selection = found.clone();
            let refused = HarvestError::OutOfRange { range: outside };
            assert_eq!(pin.harvest(outside, Mark::Dirty, &mut found).unwrap_err(), refused);
            assert_eq!(pin.query(outside, Mark::Dirty, &mut found).unwrap_err(), refused);
            let why = pin.harvest_selected(&selection, Mark::Dirty, &mut found).unwrap_err();
            assert_eq!(why, refused);
            assert_eq!(pin.set_dirty(&selection).unwrap_err(), refused);
        }
        assert!(dump(&table) == before && found.is_empty());
    }

    fn the_last_page_of_the_space_is_harvested(format: impl Format) {
        let last = Space::of(&format).last_page();
        let area = GpaRange::from_pages(at(last), 1).unwrap();
        let table = mapped(format, area);
        touch(&table, [last], WRITE);
        assert_eq!(harvest(&table, area, Mark::Dirty).words(), [1]);
        assert_eq!(table.pin().set_dirty(&bitmap(area, [last])), Ok(1));
    }

    fn nothing_found_owes_no_flush(format: impl Format) {
        let area = range(GIB, 64 * PAGE);
        let table = mapped(format, area);
        touch(&table, [GIB + PAGE], READ);
        let mut found = bitmap(area, [GIB + 9 * PAGE]);
        let (pages, flush) = table.pin().harvest(area, Mark::Dirty, &mut found).unwrap();
        assert!(pages == 0 && flush.is_empty() && flush.is_served());
        // What was in the bitmap stays there.
        assert_eq!(gpas(&found), [GIB + 9 * PAGE]);
        let (pages, flush) = table.pin().harvest(area, Mark::Accessed, &mut found).unwrap();
        assert_eq!((pages, flush.scope()), (1, slat::Scope::Leaves));
        assert_eq!(gpas(&found), [GIB + PAGE, GIB + 9 * PAGE]);
    }

    /// S12.
    fn a_harvest_of_100_tib_visits_only_the_tables_that_exist(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(32)));
        let hundred = range(0, 100 * TIB);
        let pages = [5 * PAGE, 33 * TIB + GIB, 100 * TIB - PAGE];
        for gpa in pages {
            table.populate_pages(gpa, PAGE);
            table.map(gpa, gpa / PAGE & 0xffff);
        }
        let tables = census(&table).tables;
        let cost = |work: &mut dyn FnMut(Pinned<'_, _, _>)| {
            let visited = tables_visited(|| work(table.pin()));
            assert!(visited <= 2 * tables + 8, "{visited} visits of {tables} tables");
        };
        let selection = bitmap(range(0, TIB), [5 * PAGE]);
        cost(&mut |pin| assert_eq!(pin.set_dirty(&selection), Ok(1)));
        // Gigabytes of bits that nobody touches: the kernel does without, and so does the harvest.
        let mut found = Bitmap::new(hundred);
        cost(&mut |pin| assert_eq!(pin.query(hundred, Mark::Dirty, &mut found), Ok(1)));
        assert!(found.contains(at(5 * PAGE)));
        touch(&table, pages, WRITE);
        cost(&mut |pin| {
            let (pages, flush) = pin.harvest(hundred, Mark::Dirty, &mut found).unwrap();
            assert_eq!(pages, 3);
            assert_eq!(flush.range(), Some(range(5 * PAGE, 100 * TIB - 5 * PAGE)));
        });
        assert!(pages.iter().all(|&gpa| found.contains(at(gpa))));
        cost(&mut |pin| assert_eq!(pin.query(hundred, Mark::Dirty, &mut found), Ok(0)));
    }

    /// S12.
    fn a_harvest_of_full_tables_walks_once_a_table(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(32)));
        let full = range(GIB - 2 * MIB, 6 * MIB);
        table.populate_mapped(full, SMALL, pfn(7), RWX).unwrap();
        touch(&table, (0..1536).map(|page| full.start().get() + page * PAGE), WRITE);
        let mut found = Bitmap::new(full);
        let visited = tables_visited(|| {
            let (pages, flush) = table.pin().harvest(full, Mark::Dirty, &mut found).unwrap();
            assert_eq!((pages, flush.range()), (1536, Some(full)));
        });
        let levels = u64::from(format.levels().count());
        assert!(visited <= 3 * levels, "{visited} visits for three leaf tables");
        assert_eq!(found.count(), 1536);
    }
}

/// A page of the table, by number.
fn nth(range: GpaRange, page: u64) -> Gpa {
    at(range.start().get() + page * PAGE)
}
