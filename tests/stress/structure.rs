//! Populate against itself, against the fault path, and short of frames.

use slat::{
    Format, FrameSource, Kind, Level, MapError, Mapped, PageSize, PopulateError, Prot,
    UnmapRangeError,
};

use crate::{
    common::{
        BASE, Checked, Frames, GIB, Hostage, MIB, PAGE, RWX, SMALL, at, every_format, pfn,
        populated, range, table_frame,
    },
    crew::{Crew, rounds},
};

every_format! {
    /// Invariant 6.
    fn of_racing_populates_of_a_page_exactly_one_succeeds(format: impl Format) {
        for round in 0..rounds(64) {
            let table = Checked::new(format, 64);
            // Staircases over 1 GiB that all overlap their neighbours, in differing order.
            let step = |index: u64| range(GIB - 3 * MIB + index * 300 * PAGE, 301 * PAGE);
            let steps = 6;
            let mut crew = Crew::new();
            for thread in 0..3 {
                let table = &table;
                crew.worker(move || {
                    let order = (0..steps).map(|index| (index * 5 + thread * 2 + round) % steps);
                    let results = order.map(|index| (index, table.populate(step(index), SMALL)));
                    results.collect::<Vec<_>>()
                });
            }
            let results = crew.run().concat();
            let mut won: Vec<u64> = results
                .iter()
                .filter_map(|(index, result)| match result {
                    Ok(()) => Some(*index),
                    Err(PopulateError::Overlap { gpa }) => {
                        assert!(step(*index).contains(*gpa));
                        None
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            won.sort_unstable();
            let total: u64 = populated(&table).iter().map(|(_, count)| count).sum();
            assert_eq!(total, won.len() as u64 * 301);
            assert!(won.windows(2).all(|pair| pair[1] > pair[0] + 1), "{won:?} overlap");
            assert!(won.len() >= 2);
        }
    }

    /// Invariants 6 and 9.
    fn racing_populates_that_run_out_of_frames_leave_nothing_behind(format: impl Format) {
        for round in 0..rounds(64) {
            let table = Checked::new(format, 40);
            let few = Hostage::leaving(table.source(), 12 + round % 8);
            let mut crew = Crew::new();
            for thread in 0..3 {
                let table = &table;
                crew.worker(move || {
                    let areas = (0..6).map(|index| {
                        range((index * 3 + thread) * GIB + GIB - PAGE, 2 * MIB)
                    });
                    let results = areas.map(|area| match table.populate(area, SMALL) {
                        Ok(()) => area.pages(),
                        Err(PopulateError::OutOfFrames(_) | PopulateError::Overlap { .. }) => 0,
                        other => panic!("{other:?}"),
                    });
                    results.sum::<u64>()
                });
            }
            let won: u64 = crew.run().into_iter().sum();
            let total: u64 = populated(&table).iter().map(|(_, count)| count).sum();
            assert_eq!(total, won);
            drop(few);
            table.populate_pages(100 * GIB, MIB);
        }
    }

    fn the_fault_path_sees_tables_only_when_they_are_complete(format: impl Format) {
        let areas = rounds(800);
        // Two leaf tables an area, and a table above them for each GiB.
        let source = Frames::with_base(BASE, areas * 2 + areas / 256 + 16);
        let table = Checked::with(format, source);
        let area_at = |index: u64| index * 4 * MIB;
        let mut crew = Crew::new();
        // Each area spans two leaf tables: partly empty, then mapped at once.
        crew.worker(|| {
            for index in 0..areas {
                table.populate_pages(area_at(index) + MIB, MIB);
                let mapped = range(area_at(index) + 2 * MIB, MIB);
                table.populate_mapped(mapped, SMALL, pfn(index * 256), RWX).unwrap();
            }
            0
        });
        for first in [0, 1] {
            let table = &table;
            crew.meanwhile(move |working| {
                let reader = table.reader();
                let mut new = 0;
                let mut index = 0;
                while working.go_on() || index < areas {
                    let pin = reader.pin();
                    let start = area_at(index);
                    check_walk(table.format(), &pin.walk(at(start + MIB), Level::L1));
                    // Meets the tables at any moment of their making.
                    let gpa = at(start + MIB + (first + 2) * PAGE);
                    let mapped = match index % 2 {
                        0 => pin.map(gpa, pfn(first), SMALL, RWX),
                        _ => pin.slot(gpa).unwrap().map(pfn(first), SMALL, RWX),
                    };
                    let outside = pin.map(at(start), pfn(1), SMALL, RWX);
                    assert_eq!(outside, Err(MapError::NotPopulated { gpa: at(start) }));
                    let last = pin.lookup(at(start + 3 * MIB - PAGE));
                    if let Some(there) = pin.lookup(at(start + 2 * MIB)) {
                        assert_eq!(there.pfn, pfn(index * 256));
                        let last = pin.lookup(at(start + 3 * MIB - PAGE)).unwrap();
                        assert_eq!(last.pfn, pfn(index * 256 + 255));
                    }
                    assert!(last.is_none_or(|there| there.pfn == pfn(index * 256 + 255)));
                    match mapped {
                        Ok(Mapped::New) => new += 1,
                        Err(MapError::NotPopulated { .. }) if working.go_on() => continue,
                        other => assert!(matches!(other, Err(MapError::NotPopulated { .. }))),
                    }
                    index = (index + 1).min(areas);
                }
                new
            });
        }
        let new: u64 = crew.run().into_iter().sum();
        let found = table.pin().mapped(range(0, areas * 4 * MIB)).unwrap();
        assert_eq!(found, areas * 256 + new);
    }

    fn a_large_leaf_that_comes_meanwhile_is_neither_cut_nor_a_reason_to_stop(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 2 * MIB);
        let parent = table_frame(&table, at(0), Level::L2);
        // SAFETY: read from the live tree, which stays.
        let parent = unsafe { table.source().table(parent) };
        // SAFETY: nobody uses the tree yet, and the entry is no table's.
        unsafe { parent.plant(1, slat::Entry::EMPTY) };
        let cutting = range(0, 2 * MIB + PAGE);
        let mut crew = Crew::new();
        crew.worker(|| {
            let reader = table.reader();
            for _ in 0..rounds(16_000) {
                let pin = reader.pin();
                pin.map_range(range(0, 4 * PAGE), pfn(0), RWX).unwrap();
                let mut unmapped = 0;
                let result = pin.unmap_range(cutting, |mapping| {
                    assert_eq!(mapping.size, SMALL, "cut");
                    unmapped += 1;
                });
                match result {
                    Ok((pages, flush)) => {
                        assert_eq!((unmapped, pages), (4, 4));
                        assert_eq!(flush.range(), Some(range(0, 4 * PAGE)));
                    }
                    Err(UnmapRangeError::CutsLarge { gpa }) => {
                        assert_eq!((gpa, unmapped), (at(2 * MIB), 0), "something changed");
                        assert_eq!(pin.unmap_range(range(0, MIB), drop).unwrap().0, 4);
                    }
                    Err(error) => panic!("{error}"),
                }
                let _ = pin.protect(cutting, Prot::R);
            }
        });
        crew.meanwhile(|working| {
            let reader = table.reader();
            while working.go_on() {
                let pin = reader.pin();
                let mapped = pin.map(at(2 * MIB), pfn(512), PageSize::Size2M, RWX);
                assert_eq!(mapped, Ok(Mapped::New));
                std::thread::yield_now();
                let (mapping, _) = pin.unmap(at(2 * MIB)).unwrap();
                assert_eq!((mapping.size, mapping.attr), (PageSize::Size2M, RWX), "cut");
            }
        });
        crew.run();
    }
}

/// A walk shows the entries that it followed: tables', and one that ends it.
fn check_walk(format: &impl Format, walk: &slat::Walk) {
    let (last, above) = walk.split_last().unwrap();
    for step in above {
        assert!(matches!(format.kind(step.level, step.entry), Kind::Table(_)), "{step:?}");
    }
    assert!(!matches!(format.kind(last.level, last.entry), Kind::Table(_) | Kind::Stray));
}
