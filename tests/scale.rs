//! Frames that run out, and costs: what a call touches follows what it changes.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::sync::Arc;

use common::{
    BASE, Checked, Counting, GIB, Hostage, MIB, PAGE, RWX, SMALL, TIB, at, census, dump,
    every_format, frame_at, pfn, populated, range, tables_visited,
};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use slat::{FrameSource, HeapFrames, OutOfFrames, PopulateError, Prot, VacateError};

every_format! {
    /// S10.
    fn populate_that_runs_out_of_frames_changes_nothing(format: impl Format) {
        // Into existing tables, across 1 GiB, with whole leaf tables and without.
        let ranges = [(GIB - 3 * MIB, 8 * MIB), (GIB - PAGE, 2 * PAGE), (512 * GIB, PAGE)];
        for (start, bytes) in ranges {
            let wanted = range(start, bytes);
            for mapped in [false, true] {
                let populate = |table: &Checked<_>| match mapped {
                    true => table.populate_mapped(wanted, SMALL, pfn(9), RWX),
                    false => table.populate(wanted, SMALL),
                };
                let table = Checked::new(format, 40);
                table.populate_pages(GIB - 4 * MIB, MIB);
                table.map(GIB - 4 * MIB, 5);
                let before = dump(&table);
                let needed = {
                    let _none = Hostage::leaving(table.source(), 0);
                    match populate(&table) {
                        Err(PopulateError::OutOfFrames(error)) if error.free == 0 => error.needed,
                        other => panic!("{other:?}"),
                    }
                };
                assert!((1..40).contains(&needed));
                for free in 0..needed {
                    let _few = Hostage::leaving(table.source(), free);
                    match populate(&table) {
                        Err(PopulateError::OutOfFrames(error)) => {
                            assert_eq!((error.needed, error.free), (needed, free));
                        }
                        other => panic!("{other:?}"),
                    }
                    assert_eq!(dump(&table), before);
                    assert_eq!(table.source().free_frames(), free);
                }
                let tables = census(&table).tables;
                let _just_enough = Hostage::leaving(table.source(), needed);
                assert_eq!(populate(&table), Ok(()));
                assert_eq!(census(&table).tables, tables + needed);
                assert_eq!(table.source().free_frames(), 0);
                assert_eq!(frame_at(&table.pin(), start), mapped.then_some(9));
            }
        }
    }

    /// S10.
    fn an_allocation_that_fails_changes_nothing(format: impl Format) {
        let table = Checked::with(format, HeapFrames::with_base(BASE, 40).unwrap());
        table.populate_pages(2 * MIB, PAGE);
        let (before, free) = (dump(&table), table.source().free_frames());
        let wanted = range(MIB, 2 * GIB / 256);
        for nth in [0, 1] {
            table.source().fail_allocation(nth);
            // Across 1 GiB, so that both leaf tables and others are wanted.
            let across = range(GIB - 2 * MIB, 4 * MIB);
            let refused = table.populate(across, SMALL);
            assert!(matches!(refused, Err(PopulateError::OutOfFrames(_))), "{nth}: {refused:?}");
            assert_eq!(dump(&table), before);
            assert_eq!(table.source().free_frames(), free);
        }
        let overlap = Err(PopulateError::Overlap { gpa: at(2 * MIB) });
        assert_eq!(table.populate(wanted, SMALL), overlap);
        table.populate_pages(GIB - 2 * MIB, 4 * MIB);
    }

    /// S10.
    fn creation_without_a_frame_is_an_error(format: impl Format) {
        let empty = slat::PageTable::new(format, HeapFrames::new(0));
        let none = OutOfFrames::new(1, 0);
        assert_eq!(empty.err(), Some(slat::CreateError::OutOfFrames(none)));
    }

    fn a_source_whose_frames_do_not_fit_the_width_is_refused(format: impl Format) {
        let beyond = 1_u64 << (format.phys_width().bits() - 12);
        let source = HeapFrames::with_base(pfn(beyond), 4).unwrap();
        let refused = slat::PageTable::new(format, Arc::new(source)).err();
        let width = format.phys_width().bits();
        assert_eq!(refused, Some(slat::CreateError::BadFrame { pfn: pfn(beyond), width }));
        // The root fits, other tables do not.
        let source = HeapFrames::with_base(pfn(beyond - 3), 40).unwrap();
        let table = Checked::with(format, source);
        let (before, free) = (dump(&table), table.source().free_frames());
        let refused = table.populate(range(0, 16 * MIB), SMALL);
        assert!(matches!(refused, Err(PopulateError::BadFrame { .. })), "{refused:?}");
        assert_eq!((dump(&table), table.source().free_frames()), (before, free));
    }

    fn a_table_in_frames_that_others_used_begins_empty(format: impl Format) {
        let frames = Arc::new(HeapFrames::with_base(BASE, 12).unwrap());
        for round in 0..3 {
            let table = Checked::with(format, Arc::clone(&frames));
            // Whole leaf tables, which are linked as they come.
            let area = range(round * GIB, 6 * MIB);
            table.populate(area, SMALL).unwrap();
            assert_eq!(populated(&table), [(round * GIB / PAGE, 1536)]);
            assert_eq!(table.pin().mapped(area).unwrap(), 0);
            assert_eq!(table.pin().map_range(area, pfn(1), RWX).unwrap().new, 1536);
        }
        assert_eq!(frames.free_frames(), 12);
    }

    fn tables_in_one_source_share_no_frame(format: impl Format) {
        let frames = Arc::new(HeapFrames::with_base(BASE, 64).unwrap());
        let tables: Vec<_> = (0..3)
            .map(|_| slat::PageTable::new(format, Arc::clone(&frames)).unwrap())
            .collect();
        std::thread::scope(|scope| {
            for (table, gpa) in tables.iter().zip([0, GIB - MIB, 0]) {
                scope.spawn(move || {
                    table.populate(range(gpa, 4 * MIB), SMALL).unwrap();
                    table.pin().map_range(range(gpa, 4 * MIB), pfn(gpa / PAGE), RWX).unwrap();
                });
            }
        });
        let used: Vec<_> = tables.iter().flat_map(dump).map(|line| line.1).collect();
        let of_each: u64 = tables.iter().map(|table| census(table).tables).sum();
        let distinct: std::collections::BTreeSet<_> = used.into_iter().collect();
        assert_eq!(distinct.len() as u64, of_each);
        drop(tables);
        assert_eq!(frames.free_frames(), 64);
    }

    /// S11.
    fn a_page_in_every_2_mib_costs_the_same_whatever_its_siblings(format: impl Format) {
        let pages = if cfg!(debug_assertions) { 1 << 9 } else { 1 << 15 };
        sparse(format, 2 * MIB, pages);
    }

    /// S11.
    fn a_page_in_every_1_gib_costs_the_same_whatever_its_siblings(format: impl Format) {
        sparse(format, GIB, 512);
    }

    /// S12.
    fn range_operations_over_100_tib_visit_only_the_tables_that_exist(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(32)));
        let hundred = range(0, 100 * TIB);
        let pages = [5 * PAGE, 33 * TIB + GIB, 100 * TIB - PAGE];
        for gpa in pages {
            table.populate_pages(gpa, PAGE);
            table.map(gpa, gpa / PAGE & 0xffff);
        }
        let tables = census(&table).tables;
        let pin = table.pin();
        let walks = 4 * u64::from(table.format().levels().count());
        let cost = |work: &mut dyn FnMut()| {
            let visited = tables_visited(work);
            // Each existing table a bounded number of times, and the walks to both ends.
            assert!(visited <= 8 * tables + 8 * 3 + walks, "{visited} visits of {tables} tables");
        };
        cost(&mut || assert_eq!(pin.mapped(hundred).unwrap(), 3));
        cost(&mut || assert!(pin.mappings(hundred).unwrap().map(|found| found.gpa.get()).eq(pages)));
        cost(&mut || assert_eq!(pin.protect(hundred, Prot::R).unwrap().0, 3));
        let hole = range(PAGE * 6, 33 * TIB);
        cost(&mut || assert_eq!(pin.unmap_range(hole, drop).unwrap().0, 0));
        let mut unmapped = Vec::new();
        cost(&mut || {
            let (count, flush) = pin
                .unmap_range(hundred, |mapping| unmapped.push(mapping.gpa.get()))
                .unwrap();
            assert_eq!(count, 3);
            assert_eq!(flush.range(), Some(range(5 * PAGE, 100 * TIB - 5 * PAGE)));
        });
        assert_eq!(unmapped, pages);
        cost(&mut || assert_eq!(pin.mapped(hundred).unwrap(), 0));
        let refused = slat::MapError::NotPopulated { gpa: at(0) };
        cost(&mut || match pin.map_range(range(0, TIB / 2), pfn(0), RWX) {
            Err(slat::MapRangeError::Page { source, .. }) => assert_eq!(source, refused),
            other => panic!("{other:?}"),
        });
        let refused = Err(PopulateError::Overlap { gpa: at(5 * PAGE) });
        cost(&mut || assert_eq!(table.populate(hundred, SMALL), refused));
        drop(pin);
        let refused = |gpa| Err(VacateError::NotPopulated { gpa: at(gpa) });
        cost(&mut || assert_eq!(table.vacate(hundred), refused(0)));
        let rest = range(5 * PAGE, 100 * TIB - 5 * PAGE);
        cost(&mut || assert_eq!(table.vacate(rest), refused(6 * PAGE)));
        for gpa in pages {
            cost(&mut || table.vacate_pages(gpa, PAGE));
        }
        assert_eq!(census(&table).tables, 1);
    }

    /// S12.
    fn vacate_visits_each_table_once_and_no_page(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(600)));
        // Over 1 GiB, from the middle of a leaf table to that of another.
        let (start, bytes) = (33 * TIB + GIB / 2 + MIB, GIB);
        table.populate_pages(start, bytes);
        table.populate_pages(99 * TIB, PAGE);
        let tables = census(&table).tables;
        assert!((514..530).contains(&tables));
        let levels = u64::from(table.format().levels().count());
        let cost = |work: &mut dyn FnMut()| {
            let visited = tables_visited(work);
            assert!(visited <= tables + 4 * levels, "{visited} visits of {tables} tables");
        };
        table.map(start + bytes - PAGE, 1);
        let last = at(start + bytes - PAGE);
        let refused = Err(VacateError::StillMapped { gpa: last });
        cost(&mut || assert_eq!(table.vacate(range(start, bytes)), refused));
        let _ = table.pin().unmap(last).unwrap();
        cost(&mut || table.vacate_pages(start, bytes));
        assert_eq!(populated(&table), [(99 * TIB / PAGE, 1)]);
    }

    /// S12.
    fn range_operations_over_full_tables_walk_once_a_table(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(32)));
        // Three leaf tables, on both sides of 1 GiB.
        let full = range(GIB - 2 * MIB, 6 * MIB);
        table.populate(full, SMALL).unwrap();
        let pin = table.pin();
        let levels = u64::from(table.format().levels().count());
        let cost = |work: &mut dyn FnMut()| {
            let visited = tables_visited(work);
            assert!(visited <= 8 * levels, "{visited} visits for three leaf tables");
        };
        cost(&mut || assert_eq!(pin.map_range(full, pfn(7), RWX).unwrap().new, 1536));
        cost(&mut || assert_eq!(pin.mapped(full).unwrap(), 1536));
        cost(&mut || assert_eq!(pin.mappings(full).unwrap().count(), 1536));
        cost(&mut || assert_eq!(pin.translate(full.start(), GIB, Prot::R).unwrap().len, 6 * MIB));
        cost(&mut || assert_eq!(pin.protect(full, Prot::R).unwrap().0, 1536));
        cost(&mut || assert_eq!(pin.unmap_range(full, drop).unwrap().0, 1536));
        cost(&mut || assert_eq!(table.vacate(full), Ok(())));
    }

    fn a_kept_slot_costs_no_walk(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::new(32)));
        table.populate_pages(GIB, PAGE);
        let pin = table.pin();
        let slot = pin.slot(at(GIB)).unwrap();
        let levels = u64::from(table.format().levels().count());
        assert_eq!(tables_visited(|| assert!(slot.map(pfn(3), SMALL, RWX).is_ok())), 0);
        // What software sets, it sets above as well, as the MMU would have.
        let visited = tables_visited(|| assert!(!slot.set_accessed() && !slot.set_dirty()));
        assert!(visited <= 4 * levels, "{visited}");
        let visited = tables_visited(|| {
            assert!(slot.clear_accessed() && slot.clear_dirty());
            assert!(!slot.accessed() && slot.mapping().is_some());
        });
        assert_eq!(visited, 0);
    }
}

/// Populates and maps one page in every `stride` bytes, in random order, and unmaps and vacates
/// them again; no call visits more tables than the first ones did.
fn sparse(format: impl slat::Format, stride: u64, count: u64) {
    let mut order: Vec<u64> = (0..count).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(stride));
    let frames = HeapFrames::with_base(BASE, count * 2 + 8).unwrap();
    let table = Checked::with(format, Counting(frames));
    let levels = u64::from(table.format().levels().count());
    for &index in &order {
        let gpa = index * stride + (index % 511) * PAGE;
        let visited = tables_visited(|| table.populate_pages(gpa, PAGE));
        assert!(visited <= 6 * levels, "{visited} to populate {gpa:#x}");
        let visited = tables_visited(|| table.map(gpa, index + 1));
        assert!(visited <= 2 * levels, "{visited} to map {gpa:#x}");
    }
    assert_eq!(populated(&table).len() as u64, count);
    order.reverse();
    let pin = table.pin();
    for &index in &order {
        let gpa = index * stride + (index % 511) * PAGE;
        let mut unmapped = None;
        let visited = tables_visited(|| unmapped = pin.unmap(at(gpa)).ok());
        assert_eq!(unmapped.map(|(mapping, _)| mapping.pfn), Some(pfn(index + 1)));
        assert!(visited <= 2 * levels, "{visited} to unmap {gpa:#x}");
    }
    drop(pin);
    order.shuffle(&mut SmallRng::seed_from_u64(stride + 1));
    // Not each call by itself: one may free what others retired.
    let visited = tables_visited(|| {
        for &index in &order {
            table.vacate_pages(index * stride + (index % 511) * PAGE, PAGE);
        }
    });
    assert!(visited <= 4 * levels * count, "{visited} to vacate {count} pages");
    assert_eq!(census(&table).tables, 1);
}

#[cfg(feature = "std")]
mod arena {
    use std::{fs::File, os::unix::fs::FileExt};

    use slat::Arena;

    use super::*;

    /// Counts the pages of the arena that exist, as the kernel tells.
    fn resident(arena: &Arena) -> Option<u64> {
        let map = File::open("/proc/self/pagemap").ok()?;
        let mut words = vec![0; arena.capacity() as usize * 8];
        map.read_exact_at(&mut words, arena.as_ptr().addr() as u64 / PAGE * 8).ok()?;
        let present = |word: &&[u8]| word[7] & 0xc0 != 0;
        Some(words.chunks_exact(8).filter(present).count() as u64)
    }

    every_format! {
        /// S1.
        fn populate_of_756_gib_in_one_call_works(format: impl Format) {
            let table = Checked::with(format, Arena::new(1 << 19).unwrap());
            let start = 300 * GIB - PAGE;
            table.populate_pages(start, 756 * GIB);
            for gpa in [start, 512 * GIB - PAGE, 512 * GIB, GIB * 1024, start + 756 * GIB - PAGE] {
                table.map(gpa, gpa / GIB);
                assert_eq!(frame_at(&table.pin(), gpa), Some(gpa / GIB));
            }
            for gpa in [start - PAGE, start + 756 * GIB] {
                assert!(table.pin().map(at(gpa), pfn(1), SMALL, RWX).is_err());
            }
            assert_eq!(table.pin().mapped(range(start, PAGE)).unwrap(), 1);
        }

        /// S1.
        fn vacate_of_756_gib_in_one_call_works(format: impl Format) {
            // Its leaf tables are read, slot by slot.
            let gib = if cfg!(debug_assertions) { 16 } else { 756 };
            let table = Checked::with(format, Arena::new(1 << 19).unwrap());
            let (start, bytes) = (1030 * GIB - gib * GIB - PAGE, gib * GIB);
            table.populate_pages(start, bytes);
            table.map(start, 1);
            let refused = table.vacate(range(start, bytes));
            assert_eq!(refused, Err(VacateError::StillMapped { gpa: at(start) }));
            let _ = table.pin().unmap(at(start)).unwrap();
            table.vacate_pages(start, bytes);
            assert_eq!(census(&table).tables, 1);
        }
    }

    /// Leaf tables that are wholly covered are linked as they come.
    #[test]
    fn populating_1_tib_writes_about_4_mib() {
        let table = Checked::with(common::ept(slat::Levels::Four), Arena::new(1 << 20).unwrap());
        table.populate_pages(TIB, TIB);
        let Some(pages) = resident(table.source()) else { return };
        // 1024 L2 tables, 2 or 3 L3 tables, the root.
        assert!((1027..=1100).contains(&pages), "{pages} pages were written");
        table.map(TIB + 12345 * PAGE, 1);
        assert_eq!(resident(table.source()), Some(pages + 1));
    }
}
