//! Room for large leaves is given up.

use slat::{FrameSource, MapError, PopulateError, VacateError};

use crate::{
    FRAME, G1, LARGE, M2,
    common::{
        Checked, GIB, MIB, PAGE, RWX, SMALL, at, census, every_format, pfn, populated, range,
    },
    map, mapped, nobody, room,
};

every_format! {
    /// S1, S3, invariant 9.
    fn room_is_given_up_and_its_tables_come_back(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 24);
            let free = table.source().free_frames();
            let start = 512 * GIB - 3 * size.bytes();
            room(&table, start, size, 600);
            // From the middle, both ends, and what is left.
            for (first, leaves) in [(100, 50), (0, 100), (599, 1), (150, 449)] {
                let part = range(start + first * size.bytes(), leaves * size.bytes());
                assert_eq!(table.vacate(part), Ok(()), "{part}");
                let gpa = part.start();
                let none = Err(MapError::NotPopulated { gpa });
                assert_eq!(table.pin().map(gpa, pfn(FRAME), size, RWX), none);
                table.refuses_to_vacate(part, VacateError::NotPopulated { gpa });
            }
            table.reclaim(&nobody);
            assert_eq!((census(&table).tables, table.source().free_frames()), (1, free));
        }
    }

    /// S4, S8.
    fn room_that_never_was_is_not_given_up(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            mapped(&table, 0, size, 1, FRAME);
            let (gpa, bytes) = (size.bytes(), size.bytes());
            table.refuses_to_vacate(range(gpa, bytes), VacateError::NotPopulated { gpa: at(gpa) });
            table.refuses_to_vacate(range(0, 2 * bytes), VacateError::StillMapped { gpa: at(0) });
            crate::maps_on(&table, 0, bytes, FRAME);
            room(&table, gpa, size, 1);
            assert_eq!(table.vacate(range(gpa, bytes)), Ok(()));
            crate::maps_on(&table, 0, bytes, FRAME);
        }
    }

    fn the_room_of_one_leaf_is_not_cut(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            let (gpa, bytes) = (4 * GIB, size.bytes());
            room(&table, gpa, size, 2);
            let second = gpa + bytes;
            for (start, end, cut) in [
                (gpa, gpa + PAGE, gpa),
                (gpa + PAGE, second, gpa),
                (second - PAGE, second + bytes, gpa),
                (gpa, second + PAGE, second),
                (second + bytes - PAGE, second + bytes, second),
            ] {
                let why = VacateError::CutsLarge { gpa: at(cut), granule: size };
                table.refuses_to_vacate(range(start, end - start), why);
            }
            map(&table.pin(), gpa, size, FRAME);
            assert_eq!(table.vacate(range(second, bytes)), Ok(()));
        }
    }

    /// S3, S6.
    fn room_of_several_sizes_goes_in_one_call(format: impl Format) {
        let table = Checked::new(format, 40);
        let pin = table.pin();
        let start = GIB - 2 * MIB - 5 * PAGE;
        table.populate_pages(start, 5 * PAGE);
        room(&table, GIB - 2 * MIB, M2, 1);
        room(&table, GIB, G1, 2);
        table.populate_pages(3 * GIB, MIB);
        let all = range(start, 3 * GIB + MIB - start);
        for (gpa, size, named) in [
            (start + PAGE, SMALL, start + PAGE),
            (GIB - MIB, M2, GIB - 2 * MIB),
            (3 * GIB - PAGE, G1, 2 * GIB),
            (3 * GIB, SMALL, 3 * GIB),
        ] {
            map(&pin, gpa, size, FRAME);
            table.refuses_to_vacate(all, VacateError::StillMapped { gpa: at(named) });
            let (old, _) = pin.unmap(at(gpa)).unwrap();
            assert_eq!((old.gpa, old.size), (at(named), size));
        }
        drop(pin);
        assert_eq!(populated(&table).len(), 1);
        assert_eq!(table.vacate(all), Ok(()));
        assert_eq!(census(&table).tables, 1);
    }

    /// What was there for one size can be there for another.
    fn room_that_was_given_up_is_made_for_another_size(format: impl Format) {
        let table = Checked::new(format, 1100);
        let area = range(4 * GIB, 2 * GIB);
        let sizes = [SMALL, M2, G1];
        for (before, after) in sizes.into_iter().zip([M2, G1, SMALL]) {
            table.populate(area, before).unwrap();
            let overlap = Err(PopulateError::Overlap { gpa: area.start() });
            assert_eq!(table.populate(area, after), overlap);
            map(&table.pin(), 5 * GIB, before, FRAME);
            let _ = table.pin().unmap(at(5 * GIB)).unwrap();
            assert_eq!(table.vacate(area), Ok(()));
            assert_eq!(census(&table).tables, 1);
        }
    }
}
