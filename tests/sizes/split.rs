//! Split: a large leaf becomes a table of equal leaves.

use slat::{
    Attr, Ept, EptCaps, Format, Gpa, LeafFlags, Level, Levels, Mapped, Mapping, MemType,
    OutOfFrames, PageSize, Prot, SoftBits, SplitError, SplitRangeError,
};

use crate::{
    FRAME, G1, LARGE, M2, STEPS,
    common::{
        self, Checked, Counting, GIB, Hostage, MIB, PAGE, RWX, SMALL, Space, TIB, at, census, dump,
        every_format, pfn, range, tables_visited,
    },
    fresh, map, mapped, maps_on, nobody, room, sizes,
};

/// Attributes of every kind, as far as the format has them.
fn attrs(format: &impl Format) -> impl Iterator<Item = Attr> {
    let prots = [Prot::R, Prot::RW, Prot::RX, Prot::RWX, Prot::X].map(|prot| RWX.with_prot(prot));
    let types = MemType::ALL.map(|kind| RWX.with_mem_type(kind));
    let soft = [SoftBits::S0, SoftBits::S1, SoftBits::all()].map(|soft| RWX.with_soft(soft));
    let flags = [LeafFlags::USER, LeafFlags::GLOBAL, LeafFlags::IGNORE_PAT];
    let flags = flags.map(|flags| RWX.with_flags(flags));
    let all = prots.into_iter().chain(types).chain(soft).chain(flags);
    all.filter(|&attr| format.leaf(SMALL, pfn(0), attr).is_ok())
}

every_format! {
    fn the_small_leaves_say_what_the_large_one_said(format: impl Format) {
        for (size, below) in STEPS {
            let gpa = 4 * GIB;
            for (round, attr) in (0..).zip(attrs(&format)) {
                let table = Checked::new(format, 16);
                let (accessed, dirty) = (round % 2 == 0, round % 4 < 2);
                table.populate_mapped(range(gpa, size.bytes()), size, pfn(FRAME), attr).unwrap();
                let pin = table.pin();
                let slot = pin.slot(at(gpa)).unwrap();
                let _ = (accessed && slot.set_accessed(), dirty && slot.set_dirty());
                let tables = census(&table).tables;
                assert_eq!(table.split(at(gpa + round * PAGE), below, &nobody), Ok(()));
                let leaves: Vec<_> = pin.mappings(range(gpa, size.bytes())).unwrap().collect();
                assert_eq!(leaves.len(), 512);
                for (index, leaf) in (0..).zip(leaves) {
                    let (gpa, pfn) = (gpa + index * below.bytes(), FRAME + index * below.pages());
                    let whole = fresh(gpa, below, pfn);
                    assert_eq!(leaf, Mapping { attr, accessed, dirty, ..whole });
                }
                assert_eq!(census(&table).tables, tables + 1);
                // The large leaf may be cached, so what is below counts as accessed.
                let walk = pin.walk(at(gpa), Level::L1);
                let above = walk.iter().find(|step| step.level == size.level()).unwrap();
                assert!(above.entry.has(format.accessed_bit()));
            }
        }
    }

    fn one_call_splits_as_often_as_it_takes(format: impl Format) {
        let table = Checked::new(format, 16);
        mapped(&table, GIB, G1, 2, FRAME);
        let inside = GIB + 7 * MIB + 3 * PAGE;
        assert_eq!(table.split(at(inside), SMALL, &nobody), Ok(()));
        maps_on(&table, GIB, 2 * GIB, FRAME);
        let mut wanted = vec![M2; 3];
        wanted.extend(vec![SMALL; 512]);
        wanted.extend(vec![M2; 508]);
        wanted.push(G1);
        assert_eq!(sizes(&table, GIB, 2 * GIB), wanted);
        // Small enough, whatever is asked for.
        let before = dump(&table);
        for size in PageSize::ALL {
            assert_eq!(table.split(at(inside), size, &nobody), Ok(()));
        }
        assert_eq!(table.split(at(2 * GIB), G1, &nobody), Ok(()));
        assert!(dump(&table) == before);
        let (old, flush) = table.pin().unmap(at(inside)).unwrap();
        assert_eq!(old, fresh(inside, SMALL, FRAME + (inside - GIB) / PAGE));
        drop(flush);
    }

    fn nothing_is_split_where_nothing_is_mapped(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 16);
        room(&table, GIB, G1, 1);
        room(&table, 2 * GIB, M2, 2);
        map(&table.pin(), 2 * GIB, M2, FRAME);
        let before = dump(&table);
        for gpa in [0, GIB, 2 * GIB + 2 * MIB, 2 * GIB + 4 * MIB, space.last_page()] {
            for size in PageSize::ALL {
                let none = Err(SplitError::NotMapped { gpa: at(gpa) });
                assert_eq!(table.split(at(gpa), size, &nobody), none, "{gpa:#x}");
            }
        }
        for gpa in space.outside().into_iter().map(Gpa::new) {
            assert_eq!(table.split(gpa, SMALL, &nobody), Err(SplitError::OutOfRange { gpa }));
        }
        assert!(dump(&table) == before);
    }

    /// S10.
    fn a_leaf_for_which_there_is_no_table_stays_whole(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            mapped(&table, 0, size, 1, FRAME);
            let before = dump(&table);
            let hostage = Hostage::leaving(table.source(), 0);
            match table.split(at(0), SMALL, &nobody) {
                Err(SplitError::OutOfFrames(OutOfFrames { needed, free, waiting, .. })) => {
                    assert_eq!((needed, free, waiting), (1, 0, 0));
                }
                other => panic!("{other:?}"),
            }
            assert!(dump(&table) == before);
            drop(hostage);
            // With one, a leaf of 1 GiB becomes leaves of 2 MiB.
            let hostage = Hostage::leaving(table.source(), 1);
            let split = table.split(at(0), SMALL, &nobody);
            maps_on(&table, 0, size.bytes(), FRAME);
            if size == M2 {
                assert_eq!(split, Ok(()));
            } else {
                assert!(matches!(split, Err(SplitError::OutOfFrames(_))), "{split:?}");
                assert_eq!(sizes(&table, 0, GIB), [M2; 512]);
            }
            drop(hostage);
            assert_eq!(table.split(at(0), SMALL, &nobody), Ok(()));
        }
    }

    fn a_range_is_split_no_further_than_it_goes(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, GIB, G1, 2, FRAME);
        table.populate_pages(3 * GIB + 6 * MIB, MIB);
        let part = range(2 * GIB - 3 * PAGE, GIB + 8 * MIB);
        assert_eq!(table.split_range(part, M2, &nobody, |_| ()), Ok(2));
        assert_eq!(sizes(&table, GIB, 2 * GIB), [M2; 1024]);
        let part = range(2 * GIB - 3 * PAGE, 2 * MIB);
        assert_eq!(table.split_range(part, SMALL, &nobody, |_| ()), Ok(2));
        let around = sizes(&table, 2 * GIB - 4 * MIB, 8 * MIB);
        assert_eq!(around, [vec![M2], vec![SMALL; 1024], vec![M2]].concat());
        assert_eq!(table.split_range(part, SMALL, &nobody, |_| ()), Ok(0), "again");
        maps_on(&table, GIB, 2 * GIB, FRAME);
    }

    /// S10.
    fn a_range_with_too_few_tables_is_split_as_far_as_it_goes(format: impl Format) {
        let table = Checked::new(format, 200);
        mapped(&table, 0, M2, 150, FRAME);
        let hostage = Hostage::leaving(table.source(), 70);
        let mut told = Vec::new();
        let all = range(0, 300 * MIB);
        let error = table.split_range(all, SMALL, &nobody, |pages| told.push(pages)).unwrap_err();
        let SplitRangeError { leaves, gpa, source } = error;
        assert_eq!((leaves, gpa), (70, at(140 * MIB)));
        assert!(matches!(source, SplitError::OutOfFrames(few) if few.needed == 1));
        assert!(told.is_sorted() && told.iter().all(|&pages| pages <= 140 * 256), "{told:?}");
        assert_eq!(sizes(&table, 0, 140 * MIB).len(), 70 * 512);
        assert_eq!(sizes(&table, 140 * MIB, 160 * MIB), [M2; 80]);
        drop(hostage);
        // It goes on from there.
        told.clear();
        let rest = range(gpa.get(), 160 * MIB);
        assert_eq!(table.split_range(rest, SMALL, &nobody, |pages| told.push(pages)), Ok(80));
        assert!(told.len() > 1, "in chunks");
        assert!(told.is_sorted() && told.last() == Some(&rest.pages()), "{told:?}");
        maps_on(&table, 0, 300 * MIB, FRAME);
    }

    /// S12.
    fn holes_are_passed_at_the_cost_of_tables(format: impl Format) {
        let frames = slat::HeapFrames::with_base(common::BASE, 64).unwrap();
        let table = Checked::with(format, Counting(frames));
        let bytes = (100 * TIB).min(Space::of(&format).part);
        let leaves = [0, 50 * TIB + 7 * GIB, bytes - GIB];
        for (leaf, gpa) in (0..).zip(leaves) {
            mapped(&table, gpa, G1, 1, FRAME + leaf * G1.pages());
        }
        // Small pages are not looked at one by one.
        table.populate_pages(2 * GIB, 32 * MIB);
        let all = range(0, bytes);
        let levels = u64::from(format.levels().count());
        let visited = tables_visited(|| {
            let mut last = 0;
            let done = table.split_range(all, M2, &nobody, |pages| {
                assert!(pages > last, "it comes nearer to the end");
                last = pages;
            });
            assert_eq!((done, last), (Ok(3), all.pages()));
        });
        // Slots of tables that exist: the root's, and of a table of each other level beside each leaf.
        let slots = 512 * 4 * levels;
        assert!(visited < 4 * levels * slots, "{visited}");
        let visited = tables_visited(|| assert_eq!(table.split_range(all, M2, &nobody, |_| ()), Ok(0)));
        assert!(visited < 4 * levels * slots, "{visited}");
    }
}

#[test]
fn a_size_that_the_processor_does_not_have_stops_the_split() {
    for levels in [Levels::Four, Levels::Five] {
        let width = slat::PhysWidth::new(46).unwrap();
        let table = Checked::new(Ept::new(levels, width, EptCaps::PAGES_1G), 8);
        mapped(&table, 0, G1, 1, FRAME);
        let before = dump(&table);
        for size in [SMALL, M2] {
            assert_eq!(table.split(at(0), size, &nobody), Err(SplitError::BadSize { size: M2 }));
            let stopped = table.split_range(range(0, GIB), size, &nobody, |_| ()).unwrap_err();
            let source = SplitError::BadSize { size: M2 };
            assert_eq!(stopped, SplitRangeError { leaves: 0, gpa: at(0), source });
        }
        assert_eq!(table.split(at(0), G1, &nobody), Ok(()));
        assert!(dump(&table) == before);
        let _ = table.pin().unmap(at(0)).unwrap();
        let again = table.pin().map(at(0), pfn(FRAME), G1, RWX);
        assert_eq!(again, Ok(Mapped::New));
        table.reclaim(&nobody);
    }
}
