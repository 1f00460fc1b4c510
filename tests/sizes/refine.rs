//! Refine: room for a large leaf becomes room for smaller ones.

use slat::{
    Ept, EptCaps, Format, FrameSource, GpaRange, Levels, LongMode, MapError, Npt, OutOfFrames,
    PageSize, RefineError,
};

use crate::{
    FRAME, G1, LARGE, M2, STEPS,
    common::{
        self, Checked, GIB, Hostage, MIB, PAGE, RWX, SMALL, Space, at, census, dump, every_format,
        pfn, populated, range,
    },
    map, nobody, room, sizes,
};

/// Returns the granule of the room at `gpa`, by what a map there is told.
#[track_caller]
fn granule<F: Format>(table: &Checked<F>, gpa: u64) -> PageSize {
    let pin = table.pin();
    for size in PageSize::ALL {
        match pin.map(at(gpa), pfn(FRAME), size, RWX) {
            Ok(_) => {
                let _ = pin.unmap(at(gpa)).unwrap();
                return size;
            }
            Err(error) => assert!(matches!(error, MapError::WrongSize { .. }), "{error:?}"),
        }
    }
    panic!("room at {gpa:#x} for a leaf of no size");
}

every_format! {
    fn room_becomes_room_for_the_next_smaller_size(format: impl Format) {
        for (size, below) in STEPS {
            let table = Checked::new(format, 16);
            room(&table, 4 * GIB, size, 3);
            let (before, tables) = (populated(&table), census(&table).tables);
            let second = range(4 * GIB + size.bytes(), size.bytes());
            table.refine(second, below).unwrap();
            assert_eq!(populated(&table), before, "no page comes or goes");
            let after = census(&table);
            assert_eq!((after.tables, after.empty, after.leaves), (tables + 1, 514, 0));
            assert_eq!(granule(&table, 4 * GIB), size);
            assert_eq!(granule(&table, second.start().get()), below);
            assert_eq!(granule(&table, second.last().get()), below);
            assert_eq!(granule(&table, second.last().get() + 1), size);
            // All of it is given up again, in one call.
            assert_eq!(table.vacate(range(4 * GIB, 3 * size.bytes())), Ok(()));
            assert_eq!(census(&table).tables, 1);
        }
    }

    fn only_the_pages_of_the_range_are_refined_all_the_way(format: impl Format) {
        let table = Checked::new(format, 16);
        room(&table, GIB, G1, 3);
        let free = table.source().free_frames();
        // Over 2 GiB, three pages on either side.
        table.refine(range(2 * GIB - 3 * PAGE, 6 * PAGE), SMALL).unwrap();
        assert_eq!(free - table.source().free_frames(), 4);
        for (gpa, wanted) in [
            (GIB, M2),
            (2 * GIB - 2 * MIB - PAGE, M2),
            (2 * GIB - 2 * MIB, SMALL),
            (2 * GIB - PAGE, SMALL),
            (2 * GIB, SMALL),
            (2 * GIB + 2 * MIB - PAGE, SMALL),
            (2 * GIB + 2 * MIB, M2),
            (3 * GIB - PAGE, M2),
            (3 * GIB, G1),
        ] {
            assert_eq!(granule(&table, gpa), wanted, "{gpa:#x}");
        }
        assert_eq!(populated(&table), [(GIB / PAGE, 3 * GIB / PAGE)]);
        assert_eq!(table.vacate(range(GIB, 3 * GIB)), Ok(()));
    }

    fn what_is_fine_enough_stays_as_it_is(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(2 * GIB - 4 * MIB - PAGE, 2 * MIB + PAGE);
        room(&table, 2 * GIB - 2 * MIB, M2, 1);
        room(&table, 2 * GIB, G1, 1);
        map(&table.pin(), 2 * GIB - 4 * MIB, SMALL, 7);
        map(&table.pin(), 2 * GIB - MIB, M2, FRAME);
        let before = dump(&table);
        let all = range(2 * GIB - 4 * MIB - PAGE, GIB + 4 * MIB + PAGE);
        assert_eq!(table.refine(all, G1), Ok(()));
        assert!(dump(&table) == before);
        // A small leaf and one of 2 MiB are no matter, for room of 2 MiB.
        assert_eq!(table.refine(all, M2), Ok(()));
        assert_eq!(granule(&table, 3 * GIB - PAGE), M2);
        let after = dump(&table);
        assert_eq!(table.refine(all, M2), Ok(()), "again");
        assert!(dump(&table) == after);
        assert_eq!(sizes(&table, all.start().get(), GIB), [SMALL, M2]);
    }

    fn a_leaf_that_is_too_large_is_in_the_way(format: impl Format) {
        for (size, below) in STEPS {
            let table = Checked::new(format, 16);
            room(&table, 4 * GIB, size, 4);
            let bytes = size.bytes();
            map(&table.pin(), 4 * GIB + 2 * bytes, size, FRAME);
            let gpa = at(4 * GIB + 2 * bytes);
            let before = dump(&table);
            for part in [
                range(4 * GIB, 4 * bytes),
                range(4 * GIB + 2 * bytes, bytes),
                range(4 * GIB + 2 * bytes + PAGE, PAGE),
                range(4 * GIB + 2 * bytes - PAGE, 2 * PAGE),
            ] {
                for granule in [below, SMALL] {
                    let mapped = Err(RefineError::Mapped { gpa, size });
                    assert_eq!(table.refine(part, granule), mapped);
                }
                assert_eq!(table.refine(part, size), Ok(()), "it is not too large for that");
            }
            assert!(dump(&table) == before);
        }
    }

    /// S2.
    fn a_page_without_memory_is_named(format: impl Format) {
        let table = Checked::new(format, 16);
        room(&table, GIB, G1, 1);
        room(&table, 3 * GIB, M2, 2);
        table.populate_pages(6 * GIB, 5 * PAGE);
        let before = dump(&table);
        for (start, bytes, gpa) in [
            (0, 4 * GIB, 0),
            (GIB, GIB + PAGE, 2 * GIB),
            (GIB, 3 * GIB, 2 * GIB),
            (3 * GIB, 6 * MIB, 3 * GIB + 4 * MIB),
            (3 * GIB + 5 * MIB, MIB, 3 * GIB + 5 * MIB),
            (6 * GIB + PAGE, 5 * PAGE, 6 * GIB + 5 * PAGE),
        ] {
            let none = Err(RefineError::NotPopulated { gpa: at(gpa) });
            assert_eq!(table.refine(range(start, bytes), SMALL), none, "{start:#x}");
        }
        assert!(dump(&table) == before);
    }

    /// S10.
    fn refine_with_too_few_frames_changes_nothing(format: impl Format) {
        let table = Checked::new(format, 16);
        room(&table, GIB, G1, 2);
        let across = range(2 * GIB - 4 * MIB, 6 * MIB);
        // Two tables of 2 MiB, three of small pages.
        let before = dump(&table);
        let hostage = Hostage::leaving(table.source(), 4);
        match table.refine(across, SMALL) {
            Err(RefineError::OutOfFrames(OutOfFrames { needed, free, waiting, .. })) => {
                assert_eq!((needed, free, waiting), (5, 4, 0));
            }
            other => panic!("{other:?}"),
        }
        assert!(dump(&table) == before);
        drop(hostage);
        let _hostage = Hostage::leaving(table.source(), 5);
        assert_eq!(table.refine(across, SMALL), Ok(()));
        assert_eq!(table.source().free_frames(), 0);
        // For what is there already it takes none.
        assert_eq!(table.refine(across, SMALL), Ok(()));
    }

    /// S7.
    fn refine_reaches_to_the_ends_of_the_space(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        let last = GpaRange::from_pages(at(space.last_page() - (GIB - PAGE)), G1.pages()).unwrap();
        table.populate(last, G1).unwrap();
        let page = GpaRange::from_pages(at(space.last_page()), 1).unwrap();
        assert_eq!(table.refine(page, SMALL), Ok(()));
        map(&table.pin(), space.last_page(), SMALL, 5);
        let beyond = GpaRange::from_pages(at(space.last_low_page()), 2).unwrap();
        let outside = Err(RefineError::OutOfRange { range: beyond });
        assert_eq!(table.refine(beyond, SMALL), outside);
        let outside = GpaRange::from_pages(at(space.part), 1).unwrap();
        let refused = table.refine(outside, SMALL);
        assert_eq!(refused, Err(RefineError::OutOfRange { range: outside }));
    }

    /// Invariant 9.
    fn a_slot_that_is_kept_follows_what_was_refined_under_it(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            room(&table, 0, size, 1);
            let pin = table.pin();
            let slot = pin.slot(at(7 * PAGE)).unwrap();
            table.refine(range(0, size.bytes().min(4 * MIB)), SMALL).unwrap();
            let wrong = Err(MapError::WrongSize { gpa: at(7 * PAGE), granule: SMALL });
            assert_eq!(slot.map(pfn(FRAME), size, RWX), wrong);
            assert_eq!(slot.map(pfn(9), SMALL, RWX), Ok(slat::Mapped::New));
            assert_eq!(slot.mapping(), pin.lookup(at(7 * PAGE)));
            assert!(!slot.set_dirty() && slot.clear_dirty());
            let _ = pin.unmap(at(7 * PAGE)).unwrap();
            drop(pin);
            assert_eq!(table.vacate(range(0, size.bytes())), Ok(()));
            table.reclaim(&nobody);
        }
    }
}

#[test]
fn a_granule_that_the_processor_does_not_have_is_refused() {
    for levels in [Levels::Four, Levels::Five] {
        let width = slat::PhysWidth::new(46).unwrap();
        let small = Ept::new(levels, width, EptCaps::empty());
        let only_1g = Ept::new(levels, width, EptCaps::PAGES_1G);
        let bad = |granule| Err(RefineError::BadGranule { granule });
        for (format, refused) in [
            (common::any(small), vec![M2, G1]),
            // Room for 1 GiB would become room for 2 MiB first, and that is told.
            (common::any(only_1g), vec![SMALL, M2]),
            (common::any(Npt::new(levels, width).without_1g_pages()), vec![G1]),
            (common::any(LongMode::new(levels, width).without_1g_pages()), vec![G1]),
        ] {
            let table = Checked::new(format, 8);
            table.populate_pages(0, 2 * MIB);
            for granule in PageSize::ALL {
                let done = table.refine(range(0, 2 * MIB), granule);
                let missing = if format.supports(granule) { M2 } else { granule };
                let wanted = if refused.contains(&granule) { bad(missing) } else { Ok(()) };
                assert_eq!(done, wanted, "{format:?}");
            }
        }
    }
}
