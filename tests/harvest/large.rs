//! Large leaves, planted by hand: one mark for all their pages.

use slat::{Bitmap, Entry, Format, FrameSource, GpaRange, Level, Mark, PageSize, Prot, SLOTS};

use crate::{
    WRITE, bitmap,
    common::{Checked, GIB, MIB, PAGE, RWX, at, dump, every_format, pfn, range, table_frame},
    harvest, shoot_down, touch,
};

/// The mark that a collapse leaves in a leaf until it has looked at the table that the leaf replaced.
const LATE: u64 = 1 << 56;

/// A table with a large leaf between small pages.
struct Planted<F: Format> {
    table: Checked<F>,
    leaf: GpaRange,
    /// The leaf, and a small page on each side, which are mapped.
    all: GpaRange,
}

impl<F: Format> Planted<F> {
    fn new(format: F, size: PageSize, marks: u64) -> Self {
        let table = Checked::new(format, 64);
        let gpa = if size == PageSize::Size2M { 4 * MIB } else { 4 * GIB };
        for beside in [gpa - PAGE, gpa + size.bytes()] {
            table.populate_pages(beside, PAGE);
            table.map(beside, beside / PAGE);
        }
        let entry = format.leaf(size, pfn(size.pages() * 3), RWX).unwrap();
        let parent = table_frame(&table, at(gpa), size.level());
        // SAFETY: read from the live tree, which stays.
        let parent = unsafe { table.source().table(parent) };
        let index = (gpa / size.bytes()) as usize % SLOTS;
        // SAFETY: nobody else uses the tree, and the entry is no table's.
        unsafe { parent.plant(index, entry.with(marks)) };
        let leaf = range(gpa, size.bytes());
        let all = range(gpa - PAGE, size.bytes() + 2 * PAGE);
        Self { table, leaf, all }
    }

    fn entry(&self) -> Entry {
        self.table.pin().walk(self.leaf.start(), Level::L1).last().unwrap().entry
    }

    /// Harvests a part of the leaf, and returns what of the leaf is reported.
    #[track_caller]
    fn harvest(&self, part: GpaRange) -> Bitmap {
        harvest(&self.table, part, Mark::Dirty)
    }

    fn part(&self, first: u64, end: u64) -> GpaRange {
        range(self.leaf.start().get() + first * PAGE, (end - first) * PAGE)
    }
}

fn full(range: GpaRange) -> Bitmap {
    let mut bitmap = Bitmap::new(range);
    bitmap.set_range(range).unwrap();
    bitmap
}

every_format! {
    fn the_mark_of_a_large_leaf_stands_for_all_its_pages(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size, 0);
            touch(&planted.table, [planted.leaf.start().get() + 7 * PAGE], WRITE);
            let mut found = Bitmap::new(planted.all);
            let (pages, flush) =
                planted.table.pin().harvest(planted.all, Mark::Dirty, &mut found).unwrap();
            assert_eq!((pages, flush.range()), (size.pages(), Some(planted.leaf)));
            assert_eq!(found.runs().collect::<Vec<_>>(), [planted.leaf]);
            shoot_down(flush);
            assert!(planted.harvest(planted.all).is_empty());
            let accessed = harvest(&planted.table, planted.leaf, Mark::Accessed);
            assert_eq!(accessed, full(planted.leaf));
        }
    }

    fn a_part_of_a_large_leaf_is_reported_again_and_again(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size, 0);
            touch(&planted.table, [planted.leaf.start().get()], WRITE);
            let before = dump(&planted.table);
            let pages = size.pages();
            let parts = [(0, 1), (0, pages - 1), (1, pages), (70, 300), (pages - 1, pages)];
            for (first, end) in parts {
                let part = planted.part(first, end);
                let mut found = Bitmap::new(planted.all);
                let pin = planted.table.pin();
                let (count, flush) = pin.harvest(part, Mark::Dirty, &mut found).unwrap();
                assert!(flush.is_empty());
                assert_eq!((count, found.runs().collect::<Vec<_>>()), (end - first, vec![part]));
                assert!(dump(&planted.table) == before);
            }
            // All of it at once: nothing was lost.
            assert_eq!(planted.harvest(planted.leaf), full(planted.leaf));
            assert!(planted.harvest(planted.leaf).is_empty());
        }
    }

    fn a_large_leaf_selected_in_part_keeps_its_mark(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size, 0);
            let start = planted.leaf.start().get();
            touch(&planted.table, [start], WRITE);
            let before = dump(&planted.table);
            let pin = planted.table.pin();
            let mut all_but_one = full(planted.all);
            let hole = 1 + size.pages() / 2;
            all_but_one.words_mut()[(hole / 64) as usize] &= !(1 << (hole % 64));
            for (selection, pages) in [
                (bitmap(planted.all, [start, start + 100 * PAGE]), 2),
                (all_but_one, size.pages() - 1),
                (Bitmap::new(planted.all), 0),
            ] {
                let mut found = Bitmap::new(planted.all);
                let (count, flush) =
                    pin.harvest_selected(&selection, Mark::Dirty, &mut found).unwrap();
                assert!(count == pages && found.count() == pages && flush.is_empty());
                assert!(dump(&planted.table) == before);
            }
            let mut found = Bitmap::new(planted.all);
            let selection = full(planted.all);
            let (count, flush) = pin.harvest_selected(&selection, Mark::Dirty, &mut found).unwrap();
            assert_eq!((count, flush.range()), (size.pages(), Some(planted.leaf)));
            assert!(!pin.slot(planted.leaf.start()).unwrap().dirty());
        }
    }

    fn a_large_leaf_becomes_dirty_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size, 0);
            let start = planted.leaf.start().get();
            let pin = planted.table.pin();
            let selection = bitmap(planted.all, [start - PAGE, start + 3 * PAGE, start + 9 * PAGE]);
            assert_eq!(pin.set_dirty(&selection), Ok(1 + size.pages()));
            assert_eq!(pin.set_dirty(&selection), Ok(0));
            let dirty = planted.harvest(planted.all);
            assert_eq!(dirty.count(), 1 + size.pages());
            let _ = pin.protect(planted.leaf, Prot::R).unwrap();
            assert_eq!(pin.set_dirty(&selection), Ok(1));
        }
    }

    fn a_late_leaf_counts_as_accessed_and_dirty_until_its_mark_goes(format: impl Format) {
        let dirty = format.dirty_bit();
        for size in [PageSize::Size2M, PageSize::Size1G] {
            for bits in [0, dirty, format.accessed_bit(), dirty | format.accessed_bit()] {
                let planted = Planted::new(format, size, LATE | bits);
                let pin = planted.table.pin();
                let mapping = pin.lookup(planted.leaf.start()).unwrap();
                assert!(mapping.accessed && mapping.dirty);
                for round in 0..2 {
                    let mut found = Bitmap::new(planted.leaf);
                    let (pages, flush) =
                        pin.harvest(planted.leaf, Mark::Dirty, &mut found).unwrap();
                    assert_eq!((pages, found.count()), (size.pages(), size.pages()));
                    let cleared = round == 0 && bits & dirty != 0;
                    assert_eq!(flush.range(), cleared.then_some(planted.leaf));
                    assert!(planted.entry().has(LATE) && !planted.entry().has(dirty));
                }
                let mut found = Bitmap::new(planted.leaf);
                assert_eq!(pin.query(planted.leaf, Mark::Accessed, &mut found), Ok(size.pages()));
                // It is dirty already, but the bit is what stays when the mark has gone.
                let selection = bitmap(planted.leaf, [planted.leaf.start().get()]);
                assert_eq!(pin.set_dirty(&selection), Ok(0));
                assert!(planted.entry().has(dirty) && planted.entry().has(LATE));
                let (mapping, _) = pin.unmap(planted.leaf.start()).unwrap();
                assert!(mapping.accessed && mapping.dirty);
            }
        }
    }
}
