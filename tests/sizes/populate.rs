//! Room for large leaves: what populate makes, refuses and leaves alone.

use slat::{
    Attr, EncodeError, Ept, EptCaps, FrameSource, GpaRange, Level, Levels, LongMode, MapError,
    Mapped, Npt, OutOfFrames, PageSize, PopulateError, Prot,
};

use crate::{
    FRAME, G1, LARGE, M2,
    common::{
        self, Checked, GIB, Hostage, MIB, PAGE, RWX, SMALL, Space, TIB, at, census, dump,
        every_format, pfn, populated, range,
    },
    fresh, map, mapped, room, sizes,
};

every_format! {
    /// S1.
    fn room_for_large_leaves_covers_exactly_its_pages(format: impl Format) {
        for size in LARGE {
            // On both sides of 512 GiB.
            let start = 512 * GIB - size.bytes();
            let end = start + 3 * size.bytes();
            let table = Checked::new(format, 16);
            room(&table, start, size, 3);
            assert_eq!(populated(&table), [(start / PAGE, 3 * size.pages())]);
            assert_eq!((census(&table).empty, census(&table).leaves), (3, 0));
            let pin = table.pin();
            for (leaf, gpa) in (1..).zip([start, 512 * GIB, end - size.bytes()]) {
                map(&pin, gpa + 0x1234, size, FRAME + leaf * size.pages());
                assert_eq!(pin.lookup(at(gpa)), Some(fresh(gpa, size, FRAME + leaf * size.pages())));
            }
            for gpa in [start - PAGE, end] {
                let refused = pin.map(at(gpa), pfn(FRAME), size, RWX);
                assert_eq!(refused, Err(MapError::NotPopulated { gpa: at(gpa) }));
            }
            assert_eq!(pin.mapped(range(start, 3 * size.bytes())), Ok(3 * size.pages()));
        }
    }

    /// S1.
    fn room_across_256_tib_works_where_there_are_five_levels(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            let across = range(256 * TIB - size.bytes(), 2 * size.bytes());
            let made = table.populate(across, size);
            if format.levels() == Levels::Five {
                assert_eq!(made, Ok(()));
                for gpa in [across.start(), across.last()] {
                    map(&table.pin(), gpa.get(), size, FRAME);
                }
                assert_eq!(sizes(&table, across.start().get(), 2 * size.bytes()), [size; 2]);
            } else {
                assert_eq!(made, Err(PopulateError::OutOfRange { range: across }));
                assert_eq!(census(&table).tables, 1);
            }
        }
    }

    /// S7.
    fn the_last_large_leaf_of_the_space_is_usable(format: impl Format) {
        let space = Space::of(&format);
        for size in LARGE {
            let table = Checked::new(format, 24);
            let last = |page: u64| page - (size.bytes() - PAGE);
            let mut firsts = vec![last(space.last_low_page()), last(space.last_page()), space.upper];
            firsts.dedup();
            for (leaf, &gpa) in firsts.iter().enumerate() {
                let whole = GpaRange::from_pages(at(gpa), size.pages()).unwrap();
                table.populate(whole, size).unwrap();
                map(&table.pin(), gpa + (size.bytes() - 1), size, FRAME + leaf as u64 * size.pages());
                let run = table.pin().translate(at(gpa + (size.bytes() - 10)), u64::MAX, Prot::R);
                let last = FRAME + (leaf as u64 + 1) * size.pages() - 1;
                assert_eq!(run.map(|run| (run.pfn, run.len)), Ok((pfn(last), 10)));
                assert_eq!(table.vacate(whole), Err(slat::VacateError::StillMapped { gpa: at(gpa) }));
                assert_eq!(table.pin().unmap_range(whole, drop).unwrap().0, size.pages());
                assert_eq!(table.vacate(whole), Ok(()));
            }
            assert_eq!(census(&table).tables, 1);
        }
    }

    /// S5.
    fn room_for_one_size_overlaps_room_for_another(format: impl Format) {
        for size in LARGE {
            let (start, end) = (4 * GIB, 4 * GIB + 2 * size.bytes());
            let table = Checked::new(format, 600);
            room(&table, start, size, 2);
            let before = dump(&table);
            for granule in PageSize::ALL {
                // One granule before the room to one behind it, inside, and over either end.
                let outer = start - GIB;
                let last = (end - granule.bytes()).max(start) / granule.bytes() * granule.bytes();
                for (first, bytes, gpa) in [
                    (outer, GIB + granule.bytes(), start),
                    (outer, 4 * GIB, start),
                    (start, granule.bytes(), start),
                    (last, granule.bytes(), last),
                    (last, granule.bytes() * 2, last),
                ] {
                    let over = range(first, bytes);
                    let overlap = Err(PopulateError::Overlap { gpa: at(gpa) });
                    assert_eq!(table.populate(over, granule), overlap, "{over} in {granule:?}");
                    let filled = table.populate_mapped(over, granule, pfn(FRAME), RWX);
                    assert_eq!(filled, overlap, "{over} in {granule:?}");
                }
            }
            assert!(dump(&table) == before);
        }
    }

    /// S5.
    fn room_for_large_leaves_overlaps_the_first_small_page(format: impl Format) {
        let table = Checked::new(format, 32);
        for gpa in [GIB + 6 * MIB - PAGE, GIB + 9 * MIB, 3 * GIB - 4 * MIB] {
            table.populate_pages(gpa, PAGE);
        }
        room(&table, 3 * GIB, M2, 1);
        let before = dump(&table);
        for (size, start, bytes, gpa) in [
            (M2, GIB, 8 * MIB, GIB + 6 * MIB - PAGE),
            (M2, GIB + 4 * MIB, 2 * MIB, GIB + 6 * MIB - PAGE),
            (M2, GIB + 6 * MIB, GIB, GIB + 9 * MIB),
            (M2, 2 * GIB, 2 * GIB, 3 * GIB - 4 * MIB),
            (G1, GIB, GIB, GIB + 6 * MIB - PAGE),
            (G1, 0, 8 * GIB, GIB + 6 * MIB - PAGE),
            (G1, 2 * GIB, GIB, 3 * GIB - 4 * MIB),
            (G1, 3 * GIB, GIB, 3 * GIB),
        ] {
            let overlap = Err(PopulateError::Overlap { gpa: at(gpa) });
            assert_eq!(table.populate(range(start, bytes), size), overlap, "{start:#x}");
        }
        assert!(dump(&table) == before);
        // Beside them there is room.
        room(&table, GIB, M2, 2);
        room(&table, 5 * GIB, G1, 2);
        map(&table.pin(), GIB, M2, FRAME);
        map(&table.pin(), GIB + 9 * MIB, SMALL, 7);
    }

    /// S8.
    fn neighbours_of_several_sizes_share_the_tables_above(format: impl Format) {
        let table = Checked::new(format, 16);
        room(&table, 0, M2, 1);
        let tables = census(&table).tables;
        room(&table, 2 * MIB, M2, 2);
        assert_eq!(census(&table).tables, tables, "they share an L2 table");
        table.populate_pages(6 * MIB, PAGE);
        room(&table, GIB, G1, 1);
        assert_eq!(census(&table).tables, tables + 1, "one more leaf table");
        map(&table.pin(), MIB, M2, FRAME);
        map(&table.pin(), 6 * MIB, SMALL, 1);
        map(&table.pin(), GIB, G1, FRAME);
        assert_eq!(sizes(&table, 0, 2 * GIB), [M2, SMALL, G1]);
    }

    /// S10.
    fn room_for_which_there_are_too_few_tables_is_not_made(format: impl Format) {
        let levels = u64::from(format.levels().count());
        for (size, bytes) in [(M2, 2 * GIB), (G1, 2 * 512 * GIB)] {
            let table = Checked::new(format, 32);
            // Tables of the granule's level, and of those above but for the root.
            let start = 512 * GIB - bytes / 2;
            let upper = levels - 1 - size.level() as u64;
            let needed = 2 + 2 * upper - u64::from(format.levels() == Levels::Five);
            let before = dump(&table);
            let hostage = Hostage::leaving(table.source(), needed - 1);
            match table.populate(range(start, bytes), size) {
                Err(PopulateError::OutOfFrames(OutOfFrames { needed: told, free, waiting, .. })) => {
                    assert_eq!((told, free, waiting), (needed, needed - 1, 0));
                }
                other => panic!("{other:?}"),
            }
            assert!(dump(&table) == before);
            drop(hostage);
            let _hostage = Hostage::leaving(table.source(), needed);
            assert_eq!(table.populate(range(start, bytes), size), Ok(()));
            assert_eq!(table.source().free_frames(), 0);
        }
    }

    fn room_is_aligned_to_its_granule(format: impl Format) {
        let table = Checked::new(format, 8);
        for granule in LARGE {
            let bytes = granule.bytes();
            for (start, len) in [
                (PAGE, bytes),
                (0, bytes - PAGE),
                (bytes / 2, bytes),
                (bytes, bytes + PAGE),
                (bytes - PAGE, 2 * PAGE),
            ] {
                let range = range(start, len);
                let misaligned = Err(PopulateError::Misaligned { range, granule });
                assert_eq!(table.populate(range, granule), misaligned);
                let filled = table.populate_mapped(range, granule, pfn(FRAME), RWX);
                assert_eq!(filled, misaligned);
            }
        }
        assert_eq!(census(&table).tables, 1);
    }

    fn populate_mapped_fills_tables_of_large_leaves(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            // The ends are in tables that exist already.
            let start = 512 * GIB - 2 * size.bytes();
            room(&table, start - size.bytes(), size, 1);
            room(&table, start + 5 * size.bytes(), size, 1);
            let attr = Attr::new(Prot::R);
            let filled = range(start, 5 * size.bytes());
            table.populate_mapped(filled, size, pfn(FRAME), attr).unwrap();
            let pin = table.pin();
            let found: Vec<_> = pin.mappings(filled).unwrap().collect();
            assert_eq!(found.len(), 5);
            for (leaf, found) in (0..).zip(found) {
                let gpa = start + leaf * size.bytes();
                let want = fresh(gpa, size, FRAME + leaf * size.pages());
                assert_eq!(found, slat::Mapping { attr, ..want });
                let again = pin.map(at(gpa), want.pfn, size, attr);
                assert_eq!(again, Ok(Mapped::Same));
            }
            assert_eq!(populated(&table), [((start - size.bytes()) / PAGE, 7 * size.pages())]);
        }
    }

    fn a_table_of_nothing_but_large_leaves_is_filled_at_once(format: impl Format) {
        for (size, gpa) in [(M2, GIB), (G1, 512 * GIB)] {
            let table = Checked::new(format, 16);
            mapped(&table, gpa, size, 512, FRAME);
            let leaves = census(&table).leaves;
            assert_eq!((leaves, census(&table).empty), (512, 0));
            crate::maps_on(&table, gpa, 512 * size.bytes(), FRAME);
        }
    }

    fn populate_mapped_refuses_frames_that_do_not_suit_the_size(format: impl Format) {
        let table = Checked::new(format, 8);
        let beyond = 1_u64 << (format.phys_width().bits() - 12);
        let before = dump(&table);
        for size in LARGE {
            let two = range(0, 2 * size.bytes());
            let refused = |first: u64| match table.populate_mapped(two, size, pfn(first), RWX) {
                Err(PopulateError::Unencodable(error)) => error,
                other => panic!("{other:?}"),
            };
            for off in [1, size.pages() / 2, size.pages() - 1] {
                let misaligned = EncodeError::Misaligned { pfn: pfn(FRAME + off), size };
                assert_eq!(refused(FRAME + off), misaligned);
            }
            // The first leaf fits, the last does not.
            let last = beyond + size.pages() - 1;
            let width = format.phys_width().bits();
            let bad = EncodeError::BadFrame { pfn: pfn(last), width };
            assert_eq!(refused(beyond - size.pages()), bad);
        }
        assert!(dump(&table) == before);
        let last = beyond - 2 * G1.pages();
        table.populate_mapped(range(0, 2 * GIB), G1, pfn(last), RWX).unwrap();
        crate::maps_on(&table, 0, 2 * GIB, last);
    }

    /// S9.
    fn a_table_with_leaves_of_all_sizes_is_dropped_whole(format: impl Format) {
        let table = Checked::new(format, 64);
        for (gpa, size) in [(0, SMALL), (2 * MIB, M2), (GIB, G1), (512 * GIB, M2), (TIB, G1)] {
            mapped(&table, gpa, size, 3, FRAME);
            room(&table, gpa + 8 * GIB, size, 5);
        }
        assert_eq!(table.pin().walk(at(TIB), Level::L1).last().unwrap().level, Level::L3);
        assert_eq!(census(&table).leaves, 15);
    }
}

#[test]
fn a_size_that_the_processor_does_not_have_is_refused() {
    for levels in [Levels::Four, Levels::Five] {
        let width = slat::PhysWidth::new(46).unwrap();
        let small = Ept::new(levels, width, EptCaps::empty());
        let all: [(slat::AnyFormat, &[PageSize]); 4] = [
            (small.into(), &[M2, G1]),
            (Ept::new(levels, width, EptCaps::PAGES_2M).into(), &[G1]),
            (Npt::new(levels, width).without_1g_pages().into(), &[G1]),
            (LongMode::new(levels, width).without_1g_pages().into(), &[G1]),
        ];
        for (format, missing) in all {
            let table = Checked::new(common::any(format), 8);
            for &granule in missing {
                let bad = PopulateError::BadGranule { granule };
                // Before anything else is looked at.
                for range in [range(0, GIB), range(PAGE, PAGE)] {
                    assert_eq!(table.populate(range, granule), Err(bad));
                    let filled = table.populate_mapped(range, granule, pfn(FRAME), RWX);
                    assert_eq!(filled, Err(bad));
                }
                let refused = table.pin().map(at(0), pfn(FRAME), granule, RWX);
                assert_eq!(refused, Err(EncodeError::BadSize(granule).into()));
            }
            assert_eq!(census(&table).tables, 1);
        }
    }
}
