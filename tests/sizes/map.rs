//! Leaves of all sizes in one table: what maps where, and what looks see over their ends.

use slat::{
    EncodeError, Format, MapError, MapRangeError, Mapped, MappedRange, Mapping, PageSize, Prot,
    ProtectError, UnmapRangeError,
};

use crate::{
    FRAME, G1, LARGE, M2,
    common::{Checked, GIB, MIB, PAGE, RWX, SMALL, at, dump, every_format, frame_at, pfn, range},
    fresh, map, room, sizes,
};

/// Room from 1 GiB on: a last 2 MiB of small pages, two of 2 MiB, and 1 GiB at 2 GiB.
const START: u64 = 2 * GIB - 6 * MIB;
const BYTES: u64 = GIB + 6 * MIB;

fn mixed<F: Format>(format: F) -> Checked<F> {
    let table = Checked::new(format, 32);
    table.populate_pages(START, 2 * MIB);
    room(&table, START + 2 * MIB, M2, 2);
    room(&table, 2 * GIB, G1, 1);
    table
}

/// A frame such that `START` may map to it: what is at 2 GiB is aligned to 1 GiB.
const FIRST: u64 = FRAME - 6 * MIB / PAGE;

every_format! {
    fn a_page_takes_leaves_of_its_granule_only(format: impl Format) {
        let table = mixed(format);
        let before = dump(&table);
        let pin = table.pin();
        for (gpa, granule) in [(START, SMALL), (START + 3 * MIB, M2), (2 * GIB + PAGE, G1)] {
            for size in PageSize::ALL.into_iter().filter(|&size| size != granule) {
                let wrong = Err(MapError::WrongSize { gpa: at(gpa), granule });
                assert_eq!(pin.map(at(gpa), pfn(FRAME), size, RWX), wrong);
                assert_eq!(pin.slot(at(gpa)).unwrap().map(pfn(FRAME), size, RWX), wrong);
            }
            let mut told = Vec::new();
            pin.map_many([(at(gpa), pfn(FRAME))], RWX, |_, mapped| told.push(mapped));
            if granule == SMALL {
                assert_eq!(told, [Ok(Mapped::New)]);
                let _ = pin.unmap(at(gpa)).unwrap();
            } else {
                assert_eq!(told, [Err(MapError::WrongSize { gpa: at(gpa), granule })]);
            }
        }
        assert!(dump(&table) == before);
    }

    /// L2.
    fn map_over_a_large_leaf_tells_what_is_there(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 8);
            room(&table, 0, size, 1);
            let pin = table.pin();
            map(&pin, PAGE, size, FRAME);
            assert_eq!(pin.map(at(size.bytes() - 1), pfn(FRAME), size, RWX), Ok(Mapped::Same));
            let slot = pin.slot(at(7 * PAGE)).unwrap();
            assert!(!slot.set_dirty());
            assert_eq!(slot.map(pfn(FRAME), size, RWX), Ok(Mapped::Same));
            let there = Mapping { dirty: true, ..fresh(0, size, FRAME) };
            let occupied = Err(MapError::Occupied(there));
            assert_eq!(pin.map(at(0), pfn(2 * FRAME), size, RWX), occupied);
            assert_eq!(pin.map(at(0), pfn(FRAME), size, RWX.with_prot(Prot::R)), occupied);
            assert_eq!(pin.map(at(PAGE), pfn(FRAME + 1), SMALL, RWX), occupied);
            let misaligned = EncodeError::Misaligned { pfn: pfn(FRAME + 1), size };
            let refused = pin.map(at(0), pfn(FRAME + 1), size, RWX);
            assert_eq!(refused, Err(misaligned.into()));
        }
    }

    fn looks_go_on_over_leaves_of_differing_sizes(format: impl Format) {
        let table = mixed(format);
        let all = range(START, BYTES);
        let pin = table.pin();
        let done = pin.map_range(all, pfn(FIRST), RWX);
        assert_eq!(done, Ok(MappedRange { new: BYTES / PAGE, same: 0 }));
        assert_eq!(sizes(&table, START, BYTES), [vec![SMALL; 512], vec![M2, M2, G1]].concat());
        for (gpa, len) in [(START, BYTES), (START + 9, BYTES - 9), (2 * GIB - PAGE, 2 * PAGE)] {
            let run = pin.translate(at(gpa), len, Prot::RWX).unwrap();
            let frame = pfn(FIRST + (gpa - START) / PAGE);
            assert_eq!((run.pfn, run.offset, run.len), (frame, gpa % PAGE, len));
        }
        let run = pin.translate(at(START + 5), u64::MAX, Prot::R).unwrap();
        assert_eq!(run.len, BYTES - 5);
        // It ends where a leaf denies the access.
        let (pages, flush) = pin.protect(range(2 * GIB - 2 * MIB, 2 * MIB), Prot::R).unwrap();
        assert_eq!((pages, flush.range()), (512, Some(range(2 * GIB - 2 * MIB, 2 * MIB))));
        drop(flush);
        let run = pin.translate(at(START), BYTES, Prot::W).unwrap();
        assert_eq!(run.len, 4 * MIB);
        for (start, bytes, pages) in [
            (START, BYTES, BYTES / PAGE),
            (START + PAGE, BYTES - 2 * PAGE, BYTES / PAGE - 2),
            (2 * GIB - 3 * PAGE, 4 * PAGE, 4),
        ] {
            assert_eq!(pin.mapped(range(start, bytes)), Ok(pages));
        }
        let mut found = Vec::new();
        let batch = [START, 2 * GIB - PAGE, 2 * GIB, START + BYTES].map(at);
        pin.lookup_many(batch, |_, leaf| found.push(leaf.map(|leaf| leaf.size)));
        assert_eq!(found, [Some(SMALL), Some(M2), Some(G1), None]);
    }

    fn one_call_maps_a_range_by_leaves_of_each_granule(format: impl Format) {
        let table = mixed(format);
        let pin = table.pin();
        let all = range(START, BYTES);
        map(&pin, 2 * GIB - PAGE, M2, FRAME - 512);
        map(&pin, START + 5 * PAGE, SMALL, FIRST + 5);
        let done = pin.map_range(all, pfn(FIRST), RWX);
        assert_eq!(done, Ok(MappedRange { new: BYTES / PAGE - 513, same: 513 }));
        crate::maps_on(&table, START, BYTES, FIRST);
        let mut gone = Vec::new();
        let (pages, flush) = pin.unmap_range(all, |leaf| gone.push(leaf.size)).unwrap();
        assert_eq!((pages, flush.range()), (BYTES / PAGE, Some(all)));
        assert_eq!(gone, [vec![SMALL; 512], vec![M2, M2, G1]].concat());
    }

    fn a_range_that_does_not_suit_the_room_is_refused_whole(format: impl Format) {
        let table = mixed(format);
        let pin = table.pin();
        let before = dump(&table);
        let wrong = |gpa, granule| MapError::WrongSize { gpa: at(gpa), granule };
        let misaligned = |frame, size| EncodeError::Misaligned { pfn: pfn(frame), size }.into();
        let none = |gpa| MapError::NotPopulated { gpa: at(gpa) };
        for (start, end, frame, why) in [
            // It begins, or ends, in the room for a large leaf.
            (START, 2 * GIB - PAGE, FIRST, wrong(2 * GIB - 2 * MIB, M2)),
            (START, START + 2 * MIB + PAGE, FIRST, wrong(START + 2 * MIB, M2)),
            (2 * GIB - 2 * MIB - PAGE, 2 * GIB, FRAME - 513, wrong(2 * GIB - 2 * MIB - PAGE, M2)),
            (2 * GIB, 2 * GIB + MIB, FRAME, wrong(2 * GIB, G1)),
            (2 * GIB + PAGE, 3 * GIB, FRAME + 1, wrong(2 * GIB + PAGE, G1)),
            // The frames are aligned for none of it, for small pages, or for 2 MiB.
            (START, START + BYTES, FIRST + 1, misaligned(FIRST + 513, M2)),
            (START, START + BYTES, FIRST + 512, misaligned(FRAME + 512, G1)),
            // It goes past the room.
            (START, 3 * GIB + PAGE, FIRST, none(3 * GIB)),
            (START - PAGE, 3 * GIB, FIRST - 1, none(START - PAGE)),
        ] {
            let part = range(start, end - start);
            let refused = pin.map_range(part, pfn(frame), RWX);
            let done = MappedRange::default();
            assert_eq!(refused, Err(MapRangeError::Page { done, source: why }), "{part}");
        }
        assert!(dump(&table) == before);
        // What is in the way comes before what would not fit.
        map(&pin, START + 2 * MIB, M2, FRAME);
        let there = MapError::Occupied(fresh(START + 2 * MIB, M2, FRAME));
        for frame in [FIRST, FIRST + 1, FIRST + 512] {
            let refused = pin.map_range(range(START, BYTES), pfn(frame), RWX);
            let done = MappedRange::default();
            assert_eq!(refused, Err(MapRangeError::Page { done, source: there }));
        }
    }

    fn a_range_cuts_leaves_at_its_two_ends_only(format: impl Format) {
        let table = mixed(format);
        let pin = table.pin();
        assert_eq!(pin.map_range(range(START, BYTES), pfn(FIRST), RWX).unwrap().same, 0);
        let before = dump(&table);
        for (start, end, cut) in [
            (START + 3 * MIB, 3 * GIB, START + 2 * MIB),
            (START, 2 * GIB + PAGE, 2 * GIB),
            (START, 2 * GIB - PAGE, 2 * GIB - 2 * MIB),
            (2 * GIB - PAGE, 3 * GIB - PAGE, 2 * GIB - 2 * MIB),
        ] {
            let part = range(start, end - start);
            let refused = pin.unmap_range(part, |leaf| panic!("{leaf:?}")).unwrap_err();
            assert_eq!(refused, UnmapRangeError::CutsLarge { gpa: at(cut) });
            let refused = pin.protect(part, Prot::R).unwrap_err();
            assert_eq!(refused, ProtectError::CutsLarge { gpa: at(cut) });
        }
        assert!(dump(&table) == before);
        let (pages, _) = pin.unmap_range(range(START + PAGE, 2 * GIB - START - PAGE), drop).unwrap();
        assert_eq!(pages, 6 * 256 - 1);
        assert_eq!(frame_at(&pin, START), Some(FIRST));
        assert_eq!(sizes(&table, START, BYTES), [SMALL, G1]);
    }

    fn unmap_many_takes_each_large_leaf_once(format: impl Format) {
        let table = mixed(format);
        let pin = table.pin();
        assert_eq!(pin.map_range(range(START, BYTES), pfn(FIRST), RWX).unwrap().same, 0);
        let pages = [START, 2 * GIB - PAGE, 2 * GIB + 5 * PAGE, 2 * GIB - 2 * MIB, 3 * GIB - 1];
        let mut gone = Vec::new();
        let flush = pin.unmap_many(pages.map(at), |gpa, leaf| {
            gone.push(leaf.map(|leaf| (leaf.gpa, leaf.size)).map_err(|_| gpa));
        });
        assert_eq!(gone, [
            Ok((at(START), SMALL)),
            Ok((at(2 * GIB - 2 * MIB), M2)),
            Ok((at(2 * GIB), G1)),
            Err(at(2 * GIB - 2 * MIB)),
            Err(at(3 * GIB - 1)),
        ]);
        assert_eq!(flush.range(), Some(range(START, BYTES)));
    }
}
