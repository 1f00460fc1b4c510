//! Large leaves, and leaves that are split and collapsed between rounds.

use slat::{PageSize, Prot};

use super::*;

const SIZES: [PageSize; 2] = [PageSize::Size2M, PageSize::Size1G];

/// A large leaf, with small pages beside it.
fn large<F: Format>(format: F, size: PageSize) -> (Checked<F>, GpaRange, GpaRange) {
    let table = Checked::new(format, 600);
    let start = 4 * GIB;
    let leaf = range(start, size.bytes());
    let all = range(start - TABLE, size.bytes() + 2 * TABLE);
    for beside in [start - TABLE, start + size.bytes()] {
        table.populate_mapped(range(beside, TABLE), SMALL, pfn(0x800), RWX).unwrap();
    }
    table.populate_mapped(leaf, size, pfn(size.pages() * 3), RWX).unwrap();
    (table, leaf, all)
}

#[track_caller]
fn pages<F: Format>(table: &Checked<F>, range: GpaRange, mark: Mark) -> (u64, Option<GpaRange>) {
    let mut found = Bitmap::new(range);
    let (pages, _flush) = table.harvest_round(range, mark, &mut found).unwrap();
    assert_eq!(pages, found.count());
    (pages, found.runs().next())
}

/// Small leaves in 16 leaf tables; those of the first, which can be collapsed, and a range that has all below
/// the entry above: so rounds take the accessed bit of that.
fn small<F: Format>(format: F) -> (Checked<F>, GpaRange, GpaRange) {
    let table = Checked::new(format, 64);
    let start = 4 * GIB;
    table.populate_mapped(range(start, 16 * TABLE), SMALL, pfn(0x600), RWX).unwrap();
    (table, range(start, TABLE), range(start, GIB))
}

/// As `settle`.
#[track_caller]
fn settle_all<F: Format>(table: &Checked<F>, all: GpaRange) {
    // Also so often that a round which found much to read does not go on to read everything.
    for mark in [Mark::Accessed, Mark::Dirty].repeat(20) {
        pages(table, all, mark);
    }
}

every_format! {
    fn the_mark_of_a_large_leaf_stands_for_all_its_pages(format: impl Format) {
        for size in SIZES {
            let (table, leaf, all) = large(format, size);
            settle_all(&table, all);
            for _ in 0..3 {
                touch(&table, [leaf.start().get() + 7 * PAGE], WRITE);
                assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
                assert_eq!(pages(&table, all, Mark::Dirty), (0, None));
                assert_eq!(pages(&table, all, Mark::Accessed), (size.pages(), Some(leaf)));
            }
        }
    }

    fn a_part_of_a_large_leaf_is_reported_until_all_of_it_is_asked_for(format: impl Format) {
        for size in SIZES {
            let (table, leaf, all) = large(format, size);
            touch(&table, [leaf.start().get()], WRITE);
            let part = range(leaf.start().get() + PAGE, 100 * PAGE);
            for _ in 0..4 {
                assert_eq!(pages(&table, part, Mark::Dirty), (100, Some(part)));
            }
            assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
            assert_eq!(pages(&table, part, Mark::Dirty), (0, None));
        }
    }

    fn a_guest_that_never_comes_out_writes_large_leaves_too(format: impl Format) {
        for size in SIZES {
            let (table, leaf, all) = large(format, size);
            let mut guest = Guest::new(&table);
            let mut stay = guest.enter();
            stay.access(leaf.start().get() - PAGE, READ);
            for _ in 0..3 {
                pages(&table, all, Mark::Dirty);
                // The table above the leaf is cached, the leaf is not.
                stay.cache.invalidate_page(leaf.start());
                stay.access(leaf.start().get() - 2 * PAGE, READ);
                stay.access(leaf.start().get(), WRITE);
                assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
            }
        }
    }

    fn leaves_that_are_split_between_rounds_are_all_reported(format: impl Format) {
        for size in SIZES {
            let (table, leaf, all) = large(format, size);
            settle_all(&table, all);
            touch(&table, [leaf.start().get()], WRITE);
            table.split(leaf.start(), smaller(size), &nobody).unwrap();
            assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
            assert_eq!(pages(&table, all, Mark::Dirty), (0, None));
            settle_all(&table, all);
            touch(&table, [leaf.last().get() & !0xfff], WRITE);
            let (found, run) = pages(&table, all, Mark::Dirty);
            assert_eq!(found, smaller(size).pages());
            assert!(run.unwrap().contains(leaf.last()));
        }
    }

    fn leaves_that_are_collapsed_between_rounds_are_reported_whole(format: impl Format) {
        let (table, leaf, all) = large(format, PageSize::Size2M);
        table.split(leaf.start(), SMALL, &nobody).unwrap();
        settle_all(&table, all);
        for mark in [Mark::Dirty, Mark::Accessed] {
            touch(&table, [leaf.start().get() + 5 * PAGE], WRITE);
            table.collapse(leaf.start(), PageSize::Size2M, &nobody).unwrap();
            assert_eq!(pages(&table, all, mark), (512, Some(leaf)));
            assert_eq!(pages(&table, all, mark), (0, None));
            settle_all(&table, all);
            // The page that the leaf maps is written by way of the new leaf.
            touch(&table, [leaf.start().get() + 9 * PAGE], WRITE);
            assert_eq!(pages(&table, all, mark), (512, Some(leaf)));
            settle_all(&table, all);
            table.split(leaf.start(), SMALL, &nobody).unwrap();
            assert_eq!(pages(&table, all, mark), (0, None));
        }
    }

    /// The leaf of a collapse that did not come to its end counts as dirty; so do those into which it is
    /// split.
    fn leaves_of_a_collapse_that_was_cut_off_are_found_when_they_are_split(format: impl Format) {
        let (table, leaf, all) = small(format);
        settle_all(&table, all);
        let mut inside = table.observer();
        let (entered, left) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stay = inside.enter(Tracking::On);
                entered.wait();
                left.wait();
                drop(stay);
            });
            entered.wait();
            let give_up = |_: ObserverId| std::panic::resume_unwind(Box::new("no kicks today"));
            let collapse = || table.collapse(leaf.start(), PageSize::Size2M, &give_up);
            let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(collapse));
            assert!(cut.is_err());
            left.wait();
        });
        settle_all(&table, all);
        assert_eq!(pages(&table, all, Mark::Dirty), (0, None), "nothing leads there");
        table.split(leaf.start(), SMALL, &nobody).unwrap();
        let mut queried = Bitmap::new(all);
        assert_eq!(table.pin().query(all, Mark::Dirty, &mut queried), Ok(512));
        assert_eq!(pages(&table, all, Mark::Dirty), (512, Some(leaf)));
        assert_eq!(pages(&table, all, Mark::Accessed), (512, Some(leaf)));
    }

    /// What is written by the table that is collapsed, a round tells of because the leaf is LATE; by the time that
    /// the leaf itself is dirty, nothing leads there any more.
    fn what_a_collapse_brings_from_the_old_table_is_found(format: impl Format) {
        let (table, leaf, all) = small(format);
        let mut guest = Guest::new(&table);
        let [entered, kicked, left] = [(); 3].map(|()| std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stay = guest.enter();
                stay.access(leaf.start().get(), READ);
                entered.wait();
                kicked.wait();
                stay.access(leaf.start().get() + 5 * PAGE, WRITE);
                drop(stay);
                left.wait();
            });
            entered.wait();
            let kick = |_: ObserverId| {
                kicked.wait();
                left.wait();
                assert_eq!(pages(&table, all, Mark::Dirty), (512, Some(leaf)));
                settle_all(&table, all);
                assert_eq!(pages(&table, all, Mark::Dirty), (0, None));
            };
            table.collapse(leaf.start(), PageSize::Size2M, &kick).unwrap();
        });
        assert_eq!(pages(&table, all, Mark::Dirty), (512, Some(leaf)));
        assert_eq!(pages(&table, all, Mark::Dirty), (0, None));
        assert_eq!(pages(&table, all, Mark::Accessed), (512, Some(leaf)));
    }

    fn software_makes_large_leaves_dirty_for_the_next_round(format: impl Format) {
        for size in SIZES {
            let (table, leaf, all) = large(format, size);
            settle_all(&table, all);
            let pin = table.pin();
            let gpa = at(leaf.start().get() + 9 * PAGE);
            assert!(!pin.slot(gpa).unwrap().set_dirty());
            assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
            settle_all(&table, all);
            let (_, flush) = pin.watch(leaf).unwrap();
            shoot_down(flush);
            pin.fix_write(gpa).unwrap();
            assert_eq!(pages(&table, all, Mark::Dirty), (size.pages(), Some(leaf)));
            assert!(pin.translate(gpa, 1, Prot::RW).is_ok());
        }
    }
}

fn smaller(size: PageSize) -> PageSize {
    if size == PageSize::Size1G { PageSize::Size2M } else { SMALL }
}
