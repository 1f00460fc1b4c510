//! What comes in the middle of an operation, on the same thread, by a frame source that is asked for a table at
//! just that moment.

use slat::{CollapseError, Level, Mapped, Prot};

use crate::{
    FRAME, G1, M2,
    common::{
        Checked, GIB, MIB, Meddled, PAGE, RWX, SMALL, amid, at, every_format, pfn, range,
        table_frame,
    },
    mapped, nobody, room,
};

/// Small pages, and behind them room for a large one; a range that would cut that.
const START: u64 = GIB - 2 * MIB;
const BYTES: u64 = 3 * MIB;

fn edge<F: slat::Format>(format: F) -> Checked<F, Meddled> {
    let table = Meddled::checked(format, 32);
    mapped(&table, START, SMALL, 512, FRAME);
    room(&table, GIB, M2, 1);
    table
}

every_format! {
    fn a_large_leaf_that_is_mapped_meanwhile_is_not_cut(format: impl Format) {
        let (all, leaf) = (range(START, BYTES), at(GIB));
        for unmap in [true, false] {
            let table = edge(format);
            let small = table_frame(&table, at(START), Level::L1);
            // It looked at both ends, and has come to the small pages again.
            let meddle = move |table: &slat::PageTable<_, _>, times| {
                if times == 1 {
                    let mapped = table.pin().map(leaf, pfn(2 * FRAME), M2, RWX);
                    assert_eq!(mapped, Ok(Mapped::New));
                }
            };
            let mut gone = 0;
            amid(&table, small, meddle, || {
                let pin = table.pin();
                if unmap {
                    assert_eq!(pin.unmap_range(all, |_| gone += 1).unwrap().0, 512);
                } else {
                    assert_eq!(pin.protect(all, Prot::R).unwrap().0, 512);
                }
            });
            let pin = table.pin();
            assert_eq!(pin.lookup(leaf).map(|leaf| (leaf.pfn, leaf.size)), Some((pfn(2 * FRAME), M2)));
            let left = pin.lookup(at(START)).map(|leaf| leaf.attr.prot());
            assert_eq!((gone, left), if unmap { (512, None) } else { (0, Some(Prot::R)) });
        }
    }

    fn nothing_is_collapsed_under_a_range_that_is_being_changed(format: impl Format) {
        let table = edge(format);
        mapped(&table, 4 * GIB, SMALL, 1024, FRAME);
        let last = table_frame(&table, at(4 * GIB + 2 * MIB), Level::L1);
        let meddle = |table: &slat::PageTable<_, _>, _| {
            for gpa in [4 * GIB, 4 * GIB + 2 * MIB] {
                let done = table.collapse(at(gpa), M2, &nobody);
                let is_left = matches!(done, Err(CollapseError::Busy | CollapseError::NotMapped { .. }));
                assert!(is_left, "{done:?}");
            }
        };
        let part = range(4 * GIB + MIB, 2 * MIB);
        let (done, times) = amid(&table, last, meddle, || table.pin().unmap_range(part, drop).unwrap().0);
        assert_eq!(done, 512);
        assert!(times > 1);
    }

    fn a_range_goes_on_where_leaves_are_split_under_it(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, GIB - 2 * MIB, M2, 1, FRAME);
        mapped(&table, GIB, G1, 1, 2 * FRAME);
        let pin = table.pin();
        let mut found = pin.mappings(range(GIB - 2 * MIB, GIB + 2 * MIB)).unwrap();
        assert_eq!(found.next().unwrap().size, M2);
        table.split(at(GIB), M2, &nobody).unwrap();
        assert_eq!(found.next().unwrap().size, M2);
        table.split(at(GIB + 2 * MIB), SMALL, &nobody).unwrap();
        let rest: Vec<_> = found.collect();
        assert_eq!(rest.len(), 512 + 510);
        let pages: u64 = rest.iter().map(|leaf| leaf.size.pages()).sum();
        assert_eq!(pages, GIB / PAGE - 512);
    }

    fn a_range_goes_on_where_room_is_refined_under_it(format: impl Format) {
        let table = Meddled::checked(format, 32);
        mapped(&table, START, SMALL, 512, FRAME);
        let _ = table.pin().unmap(at(START)).unwrap();
        room(&table, GIB, M2, 2);
        let small = table_frame(&table, at(START), Level::L1);
        // Between the look at all of the range and the maps.
        let meddle = |table: &slat::PageTable<_, _>, times| {
            if times == 1 {
                table.refine(range(GIB, 2 * MIB), SMALL).unwrap();
            }
        };
        let all = range(START, 6 * MIB);
        let (done, _) = amid(&table, small, meddle, || table.pin().map_range(all, pfn(FRAME), RWX));
        assert_eq!(done.map(|done| (done.new, done.same)), Ok((1025, 511)));
        let sizes = crate::sizes(&table, GIB, 4 * MIB);
        assert_eq!(sizes, [vec![SMALL; 512], vec![M2]].concat());
    }
}
