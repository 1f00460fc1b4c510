//! To and fro: what is split and collapsed, refined and vacated, is in the end as it was.

use slat::{MapError, Mapping, UnmapRangeError};

use crate::{
    FRAME, G1, LARGE, M2, STEPS,
    common::{
        Checked, GIB, MIB, PAGE, RWX, SMALL, at, census, dump, every_format, pfn, populated, range,
        shape,
    },
    fresh, map, mapped, maps_on, nobody, room,
};

const GPA: u64 = 4 * GIB;

every_format! {
    fn to_split_collapse_and_split_leaves_the_same_leaves(format: impl Format) {
        for (size, below) in STEPS {
            let table = Checked::new(format, 16);
            mapped(&table, GPA, size, 2, FRAME);
            table.pin().slot(at(GPA)).unwrap().set_dirty();
            let whole = shape(&table);
            assert_eq!(table.split(at(GPA), below, &nobody), Ok(()));
            let apart = shape(&table);
            assert!(apart != whole);
            for _ in 0..3 {
                assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
                assert!(shape(&table) == whole);
                assert_eq!(table.split(at(GPA), below, &nobody), Ok(()));
                assert!(shape(&table) == apart);
            }
            maps_on(&table, GPA, 2 * size.bytes(), FRAME);
        }
    }

    fn from_one_gib_to_small_pages_and_back(format: impl Format) {
        let table = Checked::new(format, 1040);
        mapped(&table, GPA, G1, 1, FRAME);
        let whole = shape(&table);
        let all = range(GPA, GIB);
        assert_eq!(table.split_range(all, SMALL, &nobody, |_| ()), Ok(513));
        assert_eq!(census(&table).leaves, GIB / PAGE);
        table.pin().slot(at(GPA + 77 * MIB)).unwrap().set_dirty();
        let done = table.collapse_range(all, G1, &nobody, |_| ()).unwrap();
        assert_eq!((done.leaves, done.kept), (513, 0));
        let dirty = Mapping { dirty: true, ..fresh(GPA, G1, FRAME) };
        assert_eq!(table.pin().lookup(at(GPA)), Some(dirty));
        assert!(table.pin().slot(at(GPA)).unwrap().clear_dirty());
        assert!(shape(&table) == whole);
    }

    /// A backing moves one page to another frame, and back.
    fn a_page_that_is_moved_keeps_a_leaf_apart_until_it_is_back(format: impl Format) {
        let table = Checked::new(format, 16);
        mapped(&table, GPA, M2, 1, FRAME);
        let page = GPA + 5 * PAGE;
        let cut = table.pin().unmap_range(range(page, PAGE), drop).unwrap_err();
        assert_eq!(cut, UnmapRangeError::CutsLarge { gpa: at(GPA) });
        assert_eq!(table.split(at(page), SMALL, &nobody), Ok(()));
        let _ = table.pin().unmap_range(range(page, PAGE), drop).unwrap();
        map(&table.pin(), page, SMALL, 7 * FRAME);
        let uneven = slat::CollapseError::Uneven { gpa: at(page) };
        assert_eq!(table.collapse(at(GPA), M2, &nobody), Err(uneven));
        let _ = table.pin().unmap(at(page)).unwrap();
        map(&table.pin(), page, SMALL, FRAME + 5);
        assert_eq!(table.collapse(at(GPA), M2, &nobody), Ok(()));
        maps_on(&table, GPA, 2 * MIB, FRAME);
    }

    /// Invariant 9.
    fn all_that_was_refined_split_and_collapsed_is_vacated(format: impl Format) {
        let table = Checked::new(format, 64);
        room(&table, GPA, G1, 2);
        let (second, end) = (GPA + GIB, GPA + 2 * GIB);
        map(&table.pin(), GPA, G1, FRAME);
        table.refine(range(second - GIB / 2, GIB), SMALL).unwrap_err();
        table.refine(range(second, 3 * MIB), SMALL).unwrap();
        table.split(at(second - PAGE), SMALL, &nobody).unwrap();
        map(&table.pin(), second + 9 * MIB, M2, 3 * FRAME);
        table.split(at(second + 9 * MIB), SMALL, &nobody).unwrap();
        assert_eq!(table.pin().map_range(range(second, 2 * MIB), pfn(2 * FRAME), RWX).unwrap().new, 512);
        assert_eq!(table.collapse(at(second), M2, &nobody), Ok(()));
        assert_eq!(populated(&table), [(GPA / PAGE, 2 * GIB / PAGE)]);
        let all = range(GPA, end - GPA);
        let refused = table.vacate(all).unwrap_err();
        assert_eq!(refused, slat::VacateError::StillMapped { gpa: at(GPA) });
        let (pages, _) = table.pin().unmap_range(all, drop).unwrap();
        assert_eq!(pages, GIB / PAGE + 1024);
        // What was collapsed has room for 2 MiB now.
        let wrong = MapError::WrongSize { gpa: at(second), granule: M2 };
        assert_eq!(table.pin().map(at(second), pfn(0), SMALL, RWX), Err(wrong));
        assert_eq!(table.vacate(all), Ok(()));
        table.reclaim(&nobody);
        assert_eq!((census(&table).tables, table.stats().waiting), (1, 0));
    }

    /// Tables that were in use are clean when they are used again.
    fn a_table_of_a_collapsed_leaf_is_clean_when_it_is_used_again(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            let (_, below) = STEPS.into_iter().find(|step| step.0 == size).unwrap();
            for _ in 0..4 {
                mapped(&table, GPA, below, 512, FRAME);
                assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
                // More tables than were never used.
                table.populate(range(16 * GIB, 5 * size.bytes()), below).unwrap();
                assert_eq!(census(&table).leaves, 1);
                assert_eq!(table.pin().mapped(range(16 * GIB, 5 * size.bytes())), Ok(0));
                assert_eq!(table.vacate(range(16 * GIB, 5 * size.bytes())), Ok(()));
                let _ = table.pin().unmap(at(GPA)).unwrap();
                let before = dump(&table);
                table.refine(range(GPA, PAGE), below).unwrap();
                assert!(dump(&table) != before);
                assert_eq!((census(&table).leaves, census(&table).empty), (0, 512));
                assert_eq!(table.vacate(range(GPA, size.bytes())), Ok(()));
            }
        }
    }
}
