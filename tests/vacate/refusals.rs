//! What is not vacated: why, where, and that nothing changes.

use slat::{GpaRange, PageSize, VacateError};

use crate::{
    common::{Checked, GIB, MIB, PAGE, RWX, Space, TIB, at, every_format, frame_at, pfn, range},
    is_as_if_populated, not_populated, still_mapped,
};

every_format! {
    /// S7.
    fn a_range_that_is_not_in_the_space_is_not_vacated(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        table.populate_pages(0, 2 * MIB);
        table.populate_pages(space.last_low_page(), PAGE);
        let beyond = [
            range(space.last_low_page(), 2 * PAGE),
            range(space.part, PAGE),
            range(0, space.part + PAGE),
            range(space.part, space.part),
            GpaRange::from_pages(at(0), 1 << 52).unwrap(),
        ];
        for range in beyond {
            table.refuses_to_vacate(range, VacateError::OutOfRange { range });
        }
    }

    /// S2.
    fn a_page_without_memory_refuses_the_whole_range(format: impl Format) {
        let table = Checked::new(format, 64);
        let (start, end) = (GIB - 3 * MIB, GIB + 5 * MIB);
        table.populate_pages(start, end - start);
        table.vacate_pages(GIB + MIB, PAGE);
        let refusals = [
            // No tables in the first part, at any level.
            (0, end, 0),
            (GIB - 6 * MIB, end, GIB - 6 * MIB),
            (start - PAGE, start + PAGE, start - PAGE),
            (end, end + 8 * GIB, end),
            (700 * GIB, 701 * GIB, 700 * GIB),
            // None in the last part.
            (start, end + PAGE, GIB + MIB),
            (GIB + 2 * MIB, end + PAGE, end),
            (GIB + 2 * MIB, TIB, end),
            // A hole of one page in a table that lies in the range whole, and in one that does not.
            (GIB - MIB, GIB + 3 * MIB, GIB + MIB),
            (GIB, GIB + 2 * MIB, GIB + MIB),
            (GIB + PAGE, GIB + 2 * MIB, GIB + MIB),
            (GIB + MIB, GIB + MIB + PAGE, GIB + MIB),
        ];
        for (from, to, gpa) in refusals {
            table.refuses_to_vacate(range(from, to - from), not_populated(gpa));
        }
        // Nothing was changed: the pages can be mapped, and vacated.
        assert_eq!(table.pin().map_range(range(start, 4 * MIB), pfn(0), RWX).unwrap().new, 1024);
        assert_eq!(table.pin().unmap_range(range(start, 4 * MIB), drop).unwrap().0, 1024);
        table.vacate_pages(start, 4 * MIB);
        table.vacate_pages(GIB + MIB + PAGE, 4 * MIB - PAGE);
        is_as_if_populated(&table, []);
    }

    /// S4.
    fn vacating_the_other_half_of_a_leaf_table_leaves_its_mappings_alone(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, MIB);
        table.map(0, 3);
        table.map(MIB - PAGE, 4);
        table.refuses_to_vacate(range(MIB, MIB), not_populated(MIB));
        table.refuses_to_vacate(range(MIB, PAGE), not_populated(MIB));
        table.refuses_to_vacate(range(MIB / 2, MIB), still_mapped(MIB - PAGE));
        let _ = table.pin().unmap(at(MIB - PAGE)).unwrap();
        table.refuses_to_vacate(range(MIB / 2, MIB), not_populated(MIB));
        assert_eq!(frame_at(&table.pin(), 0), Some(3));
        table.map(MIB - PAGE, 5);
    }

    /// S6.
    fn one_mapped_page_refuses_the_whole_range(format: impl Format) {
        let table = Checked::new(format, 32);
        let (start, bytes) = (GIB - 3 * MIB, 6 * MIB);
        table.populate_pages(start, bytes);
        let last = start + bytes - PAGE;
        // In the end tables, and in those that lie in the range whole: first, last and other slots.
        let pages = [last, GIB + 2 * MIB, GIB + MIB, GIB, GIB - PAGE, GIB - 2 * MIB, start];
        for gpa in pages {
            table.map(gpa, 9);
            for _ in 0..2 {
                // The first one is named, though later ones are mapped as well.
                table.refuses_to_vacate(range(start, bytes), still_mapped(gpa));
            }
            assert_eq!(frame_at(&table.pin(), gpa), Some(9));
        }
        // The earlier reason is named, whichever it is.
        table.refuses_to_vacate(range(start, bytes + PAGE), still_mapped(start));
        table.refuses_to_vacate(range(start - PAGE, bytes), not_populated(start - PAGE));
        table.vacate_pages(start + PAGE, MIB - PAGE);
        for gpa in pages {
            let _ = table.pin().unmap(at(gpa)).unwrap();
        }
        table.vacate_pages(start, PAGE);
        table.vacate_pages(start + MIB, bytes - MIB);
        is_as_if_populated(&table, []);
    }
}

#[test]
fn errors_say_where_and_why() {
    let gpa = at(0x3000);
    let texts = [
        (VacateError::NotPopulated { gpa }, "0x3000 is not populated"),
        (VacateError::StillMapped { gpa }, "0x3000 is still mapped"),
        (
            VacateError::CutsLarge { gpa: at(2 * MIB), granule: PageSize::Size2M },
            "the range cuts the granule of Size2M at 0x200000",
        ),
        (VacateError::Busy, "pages of the range are being mapped"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
    let range = range(1 << 60, PAGE);
    let outside = VacateError::OutOfRange { range }.to_string();
    let text = format!("{range} has pages that are not input addresses of the table's format");
    assert_eq!(outside, text);
}
