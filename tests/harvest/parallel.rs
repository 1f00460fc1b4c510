//! The parallel form: the same answers, wherever the parts are cut.

use slat::{Bitmap, Entry, FrameSource, GpaRange, HarvestError, Mark, NotCovered, PageSize, SLOTS};

use crate::{
    bitmap,
    common::{Checked, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range, table_frame},
    shoot_down,
};

/// Threads for a machine that has fewer.
fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap()
}

every_format! {
    fn the_parts_report_together_what_one_harvest_would(format: impl Format) {
        let (first, pages) = (GIB - 20_001 * PAGE, 70_000);
        let area = range(first, pages * PAGE);
        let table = Checked::new(format, 160);
        table.populate_mapped(area, SMALL, pfn(0x500), RWX).unwrap();
        // Bitmaps whose words begin elsewhere than tables do.
        for (margin, stride) in [(0, 7), (1, 64), (63, 511), (1000, 1)] {
            let wide = range(first - margin * PAGE, (pages + 2 * margin) * PAGE);
            let dirty = bitmap(wide, (0..pages).step_by(stride).map(|page| first + page * PAGE));
            let count = dirty.count();
            assert_eq!(table.pin().set_dirty(&dirty), Ok(count));
            let mut found = Bitmap::new(wide);
            let harvest = || table.harvest_in_parallel(area, Mark::Dirty, &mut found);
            let (reported, flush) = pool().install(harvest).unwrap();
            let hull = range(first, ((count - 1) * stride as u64 + 1) * PAGE);
            assert_eq!((reported, flush.range()), (count, Some(hull)));
            assert!(found == dirty);
            shoot_down(flush);
            let (reported, flush) = table.harvest_in_parallel(area, Mark::Dirty, &mut found).unwrap();
            assert!(reported == 0 && flush.is_empty());
        }
    }

    fn a_large_leaf_that_lies_in_many_parts_is_reported_and_cleared_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let table = Checked::new(format, 64);
            let gpa = 4 * GIB;
            table.populate_pages(gpa - PAGE, PAGE);
            table.populate_pages(gpa + size.bytes(), PAGE);
            let parent = table_frame(&table, at(gpa), size.level());
            let leaf = format.leaf(size, pfn(size.pages() * 3), RWX).unwrap();
            // SAFETY: read from the live tree, which stays.
            let parent = unsafe { table.source().table(parent) };
            let index = (gpa / size.bytes()) as usize % SLOTS;
            // SAFETY: nobody else uses the tree, and the entry is no table's.
            unsafe { parent.plant(index, leaf.with(format.dirty_bit())) };
            // So that a cut goes through the small one as well.
            let cut = 8192 * PAGE;
            let area = range(gpa - cut + MIB, 2 * GIB);
            let part = range(area.start().get(), cut + MIB);
            let mut found = Bitmap::new(area);
            let harvest = |range: GpaRange, found: &mut Bitmap| {
                let (pages, flush) =
                    pool().install(|| table.harvest_in_parallel(range, Mark::Dirty, found)).unwrap();
                (pages, flush.range())
            };
            // A part of the leaf keeps its mark, wherever it is cut.
            if size == PageSize::Size1G {
                assert_eq!(harvest(part, &mut found), (512, None));
                assert_eq!(found.runs().collect::<Vec<_>>(), [range(gpa, 2 * MIB)]);
            }
            let whole = range(gpa, size.bytes());
            assert_eq!(harvest(area, &mut found), (size.pages(), Some(whole)));
            assert_eq!(found.runs().collect::<Vec<_>>(), [whole]);
            assert_eq!(harvest(area, &mut found), (0, None));
            assert_eq!(parent.entry(index), Some(leaf));
            // SAFETY: as above.
            unsafe { parent.plant(index, Entry::UNPOPULATED) };
        }
    }

    fn in_parallel_the_same_is_refused(format: impl Format) {
        let table = Checked::new(format, 8);
        let mut found = Bitmap::new(range(GIB, MIB));
        let wanted = range(GIB - MIB, 2 * MIB);
        let refused = HarvestError::NotCovered(NotCovered { wanted, bitmap: found.range() });
        let why = table.harvest_in_parallel(wanted, Mark::Dirty, &mut found).unwrap_err();
        assert_eq!(why, refused);
    }
}
