//! The shape of the tree: what populate makes, refuses and leaves alone.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    Checked, GIB, MIB, PAGE, RWX, SMALL, Space, TIB, at, census, dump, every_format, frame_at, pfn,
    populated, range,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Attr, EncodeError, Gpa, GpaRange, Level, MapError, Mapped, PageSize, PopulateError, Prot,
    RangeError,
};

every_format! {
    /// S1.
    fn populate_across_512_gib_covers_exactly_its_pages(format: impl Format) {
        let start = 512 * GIB - PAGE;
        let table = Checked::new(format, 16);
        table.populate_pages(start, 4 * MIB);
        assert_eq!(populated(&table), [(start / PAGE, 1024)]);
        for gpa in [start, 512 * GIB, start + 2 * MIB, start + 4 * MIB - PAGE] {
            table.map(gpa, gpa / PAGE);
        }
        let pin = table.pin();
        for gpa in [start - PAGE, start + 4 * MIB] {
            let refused = pin.map(at(gpa), pfn(1), SMALL, RWX);
            assert_eq!(refused, Err(MapError::NotPopulated { gpa: at(gpa) }));
        }
        assert_eq!(pin.mapped(range(start, 4 * MIB)).unwrap(), 4);
    }

    /// S1.
    fn populate_across_1_gib_covers_exactly_its_pages(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(GIB - 3 * PAGE, 8 * PAGE);
        assert_eq!(populated(&table), [(GIB / PAGE - 3, 8)]);
        let levels = table.format().levels().count();
        // The root, and on each side of the boundary an L2 and an L1 table.
        assert_eq!(census(&table).tables, u64::from(levels - 2) + 4);
    }

    /// S1.
    fn populate_across_256_tib_works_where_there_are_five_levels(format: impl Format) {
        let table = Checked::new(format, 16);
        let across = range(256 * TIB - PAGE, 2 * PAGE);
        let result = table.populate(across, SMALL);
        if table.format().levels() == slat::Levels::Five {
            assert_eq!(result, Ok(()));
            assert_eq!(populated(&table), [(256 * TIB / PAGE - 1, 2)]);
            table.map(256 * TIB - PAGE, 1);
            table.map(256 * TIB, 2);
        } else {
            assert_eq!(result, Err(PopulateError::OutOfRange { range: across }));
            assert_eq!(census(&table).tables, 1);
        }
    }

    /// S5.
    fn populating_a_page_twice_is_refused_and_changes_nothing(format: impl Format) {
        let (start, bytes) = (4 * MIB - 16 * PAGE, 4 * MIB);
        let end = start + bytes;
        let table = Checked::new(format, 24);
        table.populate_pages(start, bytes);
        table.map(start, 7);
        let before = dump(&table);
        let attempts = [
            (start, bytes, start),
            (start - 5 * PAGE, 6 * PAGE, start),
            (end - PAGE, 9 * PAGE, end - PAGE),
            (start + MIB, PAGE, start + MIB),
            (start - 2 * MIB, bytes + 8 * MIB, start),
            (0, GIB, start),
            (0, 2 * GIB, start),
        ];
        for (first, bytes, gpa) in attempts {
            let overlap = Err(PopulateError::Overlap { gpa: at(gpa) });
            let again = range(first, bytes);
            assert_eq!(table.populate(again, SMALL), overlap, "{again}");
            assert_eq!(table.populate_mapped(again, SMALL, pfn(1), RWX), overlap, "{again}");
        }
        assert_eq!(dump(&table), before);
        // Unmapping does not unpopulate.
        let _ = table.pin().unmap(at(start)).unwrap().1;
        let again = table.populate(range(start, PAGE), SMALL);
        assert_eq!(again, Err(PopulateError::Overlap { gpa: at(start) }));
    }

    /// S5.
    fn overlap_names_the_first_page_that_is_populated(format: impl Format) {
        let table = Checked::new(format, 24);
        for gpa in [3 * PAGE, 7 * PAGE, GIB + PAGE] {
            table.populate_pages(gpa, PAGE);
        }
        let overlap = |start: u64, pages: u64| {
            table.populate(range(start, pages * PAGE), SMALL).map_err(|error| match error {
                PopulateError::Overlap { gpa } => gpa.get() / PAGE,
                other => panic!("{other}"),
            })
        };
        assert_eq!(overlap(0, 512), Err(3));
        assert_eq!(overlap(4 * PAGE, 4), Err(7));
        assert_eq!(overlap(8 * PAGE, 1 << 20), Err(GIB / PAGE + 1));
        assert_eq!(overlap(4 * PAGE, 3), Ok(()));
        assert_eq!(populated(&table), [(3, 5), (GIB / PAGE + 1, 1)]);
    }

    /// S7.
    fn the_last_page_of_the_space_is_usable(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        for gpa in [space.last_low_page(), space.last_page(), space.upper] {
            if frame_at(&table.pin(), gpa).is_some() {
                continue;
            }
            table.populate(GpaRange::from_pages(at(gpa), 1).unwrap(), SMALL).unwrap();
            table.map(gpa, gpa >> 50 | 1);
            assert_eq!(frame_at(&table.pin(), gpa | 0xfff), Some(gpa >> 50 | 1));
        }
        // It is a page of its own: nothing appears at the aliases.
        let pin = table.pin();
        assert_eq!(pin.lookup(at(PAGE)), None);
        assert_eq!(pin.lookup(at(space.last_page() - PAGE)), None);
        let last = GpaRange::from_pages(at(space.last_page()), 1).unwrap();
        assert_eq!(pin.mappings(last).unwrap().count(), 1);
        assert_eq!(pin.unmap_range(last, drop).unwrap().0, 1);
        assert_eq!(pin.lookup(at(space.last_page())), None);
    }

    /// S7.
    fn a_range_may_end_with_the_space_but_not_beyond(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        let before = dump(&table);
        let outside = [
            GpaRange::from_pages(at(space.last_low_page()), 2).unwrap(),
            GpaRange::from_pages(at(space.part), 1).unwrap(),
            GpaRange::from_pages(at(0), 1 << 52).unwrap(),
            GpaRange::from_pages(at(0), 1 << 51).unwrap(),
            GpaRange::from_pages(at(space.last_low_page()), (1 << 52) - space.part / PAGE + 1)
                .unwrap(),
        ];
        for range in outside {
            let pin = table.pin();
            assert_eq!(table.populate(range, SMALL), Err(PopulateError::OutOfRange { range }));
            let mapped = table.populate_mapped(range, SMALL, pfn(1), RWX);
            assert_eq!(mapped, Err(PopulateError::OutOfRange { range }));
            let refused = pin.map_range(range, pfn(1), RWX);
            assert_eq!(refused, Err(slat::MapRangeError::OutOfRange { range }));
            let refused = pin.unmap_range(range, drop).unwrap_err();
            assert_eq!(refused, slat::UnmapRangeError::OutOfRange { range });
            let refused = pin.protect(range, Prot::R).unwrap_err();
            assert_eq!(refused, slat::ProtectError::OutOfRange { range });
            assert_eq!(table.vacate(range), Err(slat::VacateError::OutOfRange { range }));
            let gpa = pin.mappings(range).unwrap_err().gpa;
            assert!(range.contains(gpa) && !table.format().admits(gpa), "{gpa} in {range}");
            assert_eq!(pin.mapped(range).unwrap_err().gpa, gpa);
        }
        assert_eq!(dump(&table), before);
        let end = GpaRange::from_pages(at(space.last_page() - 4 * PAGE), 5).unwrap();
        table.populate(end, SMALL).unwrap();
        assert_eq!(table.pin().map_range(end, pfn(8), RWX).unwrap().new, 5);
        assert_eq!(table.pin().mapped(end).unwrap(), 5);
    }

    /// S7.
    fn an_address_outside_the_space_aliases_nothing(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        table.populate_pages(0, 2 * MIB);
        assert_eq!(table.pin().map_range(range(0, 2 * MIB), pfn(0), RWX).unwrap().new, 512);
        let before = dump(&table);
        let pin = table.pin();
        for gpa in space.outside().into_iter().map(Gpa::new) {
            assert_eq!(pin.lookup(gpa), None, "{gpa}");
            assert!(pin.walk(gpa, Level::L1).is_empty());
            assert_eq!(pin.slot(gpa).unwrap_err(), slat::OutOfRange { gpa });
            assert_eq!(pin.unmap(gpa).unwrap_err(), slat::UnmapError::OutOfRange { gpa });
            let refused = pin.map(gpa, pfn(1), SMALL, RWX);
            assert_eq!(refused, Err(MapError::OutOfRange { gpa }));
            let refused = pin.translate(gpa, 1, Prot::R);
            assert_eq!(refused, Err(slat::TranslateError::OutOfRange { gpa }));
        }
        assert_eq!(dump(&table), before);
    }

    /// S7.
    fn a_bad_range_is_refused_when_it_is_made(_format: impl Format) {
        let last = u64::MAX - 0xfff;
        let empty = RangeError::Empty { start: at(PAGE) };
        assert_eq!(GpaRange::new(at(PAGE), 0), Err(empty));
        assert!(matches!(GpaRange::new(at(1), PAGE), Err(RangeError::Unaligned { .. })));
        assert!(matches!(GpaRange::new(at(0), PAGE + 1), Err(RangeError::Unaligned { .. })));
        assert!(matches!(GpaRange::new(at(last), 2 * PAGE), Err(RangeError::Wraps { .. })));
        assert_eq!(GpaRange::new(at(last), PAGE).unwrap().last(), at(u64::MAX));
    }

    /// S8.
    fn neighbours_in_one_leaf_table_are_populated_separately(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, MIB);
        table.map(0, 3);
        let unpopulated = Err(MapError::NotPopulated { gpa: at(MIB) });
        assert_eq!(table.pin().map(at(MIB), pfn(4), SMALL, RWX), unpopulated);
        let tables = census(&table).tables;
        table.populate_pages(MIB, MIB);
        assert_eq!(census(&table).tables, tables, "they share a leaf table");
        table.map(MIB, 4);
        table.map(2 * MIB - PAGE, 5);
        assert_eq!(frame_at(&table.pin(), 0), Some(3));
        assert_eq!(populated(&table), [(0, 512)]);
    }

    /// S9.
    fn a_table_of_any_shape_is_dropped_whole(format: impl Format) {
        let space = Space::of(&format);
        for seed in 0..6 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let table = Checked::new(format, 200);
            for _ in 0..24 {
                let near = [0, GIB, 512 * GIB, 100 * TIB, space.last_page() - 600 * PAGE];
                let first = near[rng.random_range(0..near.len())] / PAGE + rng.random_range(0..64);
                let range = GpaRange::from_pages(at(first * PAGE), rng.random_range(1..536));
                let Ok(range) = range else { continue };
                if rng.random_bool(0.3) {
                    let _ = table.populate_mapped(range, SMALL, pfn(rng.random_range(0..99)), RWX);
                } else {
                    let _ = table.populate(range, SMALL);
                    let _ = table.pin().map_range(range, pfn(rng.random_range(0..99)), RWX);
                }
            }
            assert!(census(&table).leaves > 0);
        }
    }

    fn populate_mapped_fills_whole_tables_and_the_ends_of_existing_ones(format: impl Format) {
        let table = Checked::new(format, 16);
        // End tables that exist already, each with a page in use.
        table.populate_pages(2 * MIB - 8 * PAGE, PAGE);
        table.populate_pages(6 * MIB + 8 * PAGE, PAGE);
        table.map(2 * MIB - 8 * PAGE, 0x111);
        let (start, pages) = (2 * MIB - 7 * PAGE, 7 + 1024 + 8);
        let attr = Attr::new(Prot::R);
        let filled = range(start, pages * PAGE);
        table.populate_mapped(filled, SMALL, pfn(0x5000), attr).unwrap();

        let pin = table.pin();
        assert_eq!(pin.mapped(filled).unwrap(), pages);
        for (index, mapping) in (0..).zip(pin.mappings(filled).unwrap()) {
            assert_eq!((mapping.gpa, mapping.pfn), (at(start + index * PAGE), pfn(0x5000 + index)));
            assert_eq!((mapping.attr, mapping.size), (attr, SMALL));
            assert!(!mapping.accessed && !mapping.dirty);
        }
        assert_eq!(frame_at(&pin, 2 * MIB - 8 * PAGE), Some(0x111));
        assert_eq!(frame_at(&pin, 6 * MIB + 8 * PAGE), None);
        assert_eq!(populated(&table), [(512 - 8, pages + 2)]);
        // As a map would have left it.
        assert_eq!(pin.map(at(start), pfn(0x5000), SMALL, attr), Ok(Mapped::Same));
    }

    fn populate_mapped_takes_one_page(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 16);
        for gpa in [0, space.last_page()] {
            let page = GpaRange::from_pages(at(gpa), 1).unwrap();
            table.populate_mapped(page, SMALL, pfn(0x77), RWX).unwrap();
            assert_eq!(frame_at(&table.pin(), gpa), Some(0x77));
        }
        assert_eq!(census(&table).leaves, 2);
    }

    fn populate_mapped_refuses_what_it_cannot_encode(format: impl Format) {
        let table = Checked::new(format, 16);
        let bits = table.format().phys_width().bits();
        let beyond = 1_u64 << (bits - 12);
        let before = dump(&table);
        let free = slat::FrameSource::free_frames(table.source());
        let two = range(0, 2 * PAGE);
        let refused = |first: u64, attr| match table.populate_mapped(two, SMALL, pfn(first), attr) {
            Err(PopulateError::Unencodable(error)) => error,
            other => panic!("{other:?}"),
        };
        // The first frame fits, the last does not.
        let bad = EncodeError::BadFrame { pfn: pfn(beyond), width: bits };
        assert_eq!(refused(beyond - 1, RWX), bad);
        assert!(matches!(refused(u64::MAX, RWX), EncodeError::BadFrame { .. }));
        assert!(matches!(refused(0, Attr::new(Prot::empty())), EncodeError::BadAttr(_)));
        for granule in [PageSize::Size2M, PageSize::Size1G] {
            let refused = table.populate_mapped(two, granule, pfn(0), RWX);
            let misaligned = Err(PopulateError::Misaligned { range: two, granule });
            assert_eq!(refused, misaligned);
            assert_eq!(table.populate(two, granule), misaligned);
        }
        assert_eq!(dump(&table), before);
        assert_eq!(slat::FrameSource::free_frames(table.source()), free);
        table.populate_mapped(two, SMALL, pfn(beyond - 2), RWX).unwrap();
        assert_eq!(frame_at(&table.pin(), PAGE), Some(beyond - 1));
    }
}
