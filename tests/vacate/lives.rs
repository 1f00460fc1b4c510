//! Pages between two lives: what they answer, and what was kept from the life before.

use slat::{
    Due, Format, FrameSource, MapError, Mapped, PopulateError, Prot, Scope, SlotRef, Tracking,
    TranslateError, UnmapError, VacateError,
};

use crate::{
    common::{
        Checked, GIB, MIB, PAGE, RWX, SMALL, at, census, dump, every_format, frame_at, pfn,
        populated, range,
    },
    not_populated,
};

every_format! {
    fn every_operation_finds_a_vacated_page_without_memory(format: impl Format) {
        let table = Checked::new(format, 32);
        table.populate_pages(GIB - 3 * MIB, 6 * MIB);
        let gone = range(GIB - 2 * MIB - PAGE, 3 * MIB);
        table.pin().map_range(gone, pfn(0), RWX).unwrap();
        assert_eq!(table.pin().unmap_range(gone, drop).unwrap().0, gone.pages());
        table.vacate(gone).unwrap();
        let pin = table.pin();
        for gpa in [gone.start(), at(GIB - 2 * MIB), at(GIB - 1), at(GIB), gone.last()] {
            let none = MapError::NotPopulated { gpa };
            assert_eq!(pin.map(gpa, pfn(1), SMALL, RWX), Err(none));
            assert_eq!(pin.slot(gpa).unwrap().map(pfn(1), SMALL, RWX), Err(none));
            let mut sunk = None;
            pin.map_many([(gpa, pfn(1))], RWX, |_, mapped| sunk = Some(mapped));
            assert_eq!(sunk, Some(Err(none)));
            assert_eq!(pin.lookup(gpa), None);
            pin.lookup_many([gpa], |_, found| assert_eq!(found, None));
            assert_eq!(pin.unmap(gpa).unwrap_err(), UnmapError::NotMapped { gpa });
            let translated = pin.translate(gpa, 1, Prot::R);
            assert_eq!(translated, Err(TranslateError::NotMapped { gpa }));
            let page = gpa.page_base().get();
            assert_eq!(table.vacate(range(page, PAGE)), Err(not_populated(page)));
        }
        let refused = pin.map_range(range(GIB - 3 * MIB, 6 * MIB), pfn(0), RWX).unwrap_err();
        let source = MapError::NotPopulated { gpa: gone.start() };
        assert_eq!(refused, slat::MapRangeError::Page { done: Default::default(), source });
        assert_eq!(pin.mapped(range(0, 2 * GIB)).unwrap(), 0);
        assert_eq!(pin.protect(gone, Prot::R).unwrap().0, 0);
        assert_eq!(pin.unmap_range(gone, drop).unwrap().0, 0);
    }

    fn a_range_is_not_mapped_across_a_table_that_was_vacated(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 6 * MIB);
        table.vacate_pages(2 * MIB, 2 * MIB);
        let pin = table.pin();
        let refused = pin.map_range(range(0, 6 * MIB), pfn(0), RWX).unwrap_err();
        let source = MapError::NotPopulated { gpa: at(2 * MIB) };
        assert_eq!(refused, slat::MapRangeError::Page { done: Default::default(), source });
        assert_eq!(pin.mapped(range(0, 6 * MIB)).unwrap(), 0);
    }

    /// O2.
    fn all_that_was_vacated_is_due_as_structure_though_nothing_was_unmapped(format: impl Format) {
        let table = Checked::new(format, 64);
        table.populate_pages(0, 8 * MIB);
        let mut observer = table.observer();
        observer.enter(Tracking::On).due();
        for area in [range(MIB, 6 * MIB), range(0, MIB), range(7 * MIB, MIB)] {
            table.vacate(area).unwrap();
            let inside = observer.enter(Tracking::On);
            let Due::Ranges(ranges) = inside.due() else { panic!("{:?}", inside.due()) };
            let stale: Vec<_> = ranges.iter().map(|it| (it.range, it.scope)).collect();
            assert_eq!(stale, [(area, Scope::Structure)]);
        }
    }

    /// S5.
    fn pages_that_were_vacated_and_only_those_can_be_populated_again(format: impl Format) {
        let table = Checked::new(format, 32);
        table.populate_pages(0, 6 * MIB);
        table.vacate_pages(MIB, 4 * MIB);
        for (start, bytes, gpa) in [
            (0, 6 * MIB, 0), (MIB - PAGE, 2 * PAGE, MIB - PAGE), (MIB, 4 * MIB + PAGE, 5 * MIB),
        ] {
            let overlap = PopulateError::Overlap { gpa: at(gpa) };
            assert_eq!(table.populate(range(start, bytes), SMALL), Err(overlap));
        }
        let (first, rest) = (range(MIB, 2 * MIB), range(3 * MIB, 2 * MIB));
        table.populate_mapped(first, SMALL, pfn(0x100), RWX).unwrap();
        table.populate(rest, SMALL).unwrap();
        assert_eq!(populated(&table), [(0, 1536)]);
        assert_eq!(frame_at(&table.pin(), MIB + PAGE), Some(0x101));
        assert_eq!(table.pin().mapped(range(0, 6 * MIB)).unwrap(), 512);
    }

    fn pages_are_vacated_and_populated_again_and_again(format: impl Format) {
        let table = Checked::new(format, 400);
        for round in 0..24_u64 {
            // In the middle of leaf tables, at their edges, and over 1 GiB.
            let start = GIB - 3 * MIB + round % 3 * MIB;
            let area = range(start, (1 + round % 4) * MIB + round * PAGE);
            table.populate(area, SMALL).unwrap();
            assert_eq!(table.pin().mapped(area).unwrap(), 0, "nothing is left of an earlier life");
            assert_eq!(table.pin().map_range(area, pfn(round), RWX).unwrap().new, area.pages());
            let mut pages = 0;
            let unmapped = table.pin().unmap_range(area, |mapping| {
                assert!(!mapping.accessed && !mapping.dirty, "{mapping:?}");
                assert_eq!(mapping.pfn, pfn(round + pages));
                pages += 1;
            });
            assert_eq!(unmapped.unwrap().0, area.pages());
            table.vacate(area).unwrap();
            assert_eq!(census(&table).tables, 1);
        }
    }

    /// L8.
    fn a_slot_kept_over_vacate_finds_no_memory(format: impl Format) {
        let table = Checked::new(format, 64);
        // A leaf table that lives on, one that goes as an end, and one that goes whole.
        let (shared, end, whole) = (MIB, GIB + PAGE, 512 * GIB + 2 * MIB);
        table.populate_pages(0, 2 * MIB);
        table.map(0, 9);
        table.populate_pages(end, PAGE);
        table.populate_pages(512 * GIB, 4 * MIB);
        let pin = table.pin();
        let slots = [shared, end, whole].map(|gpa| pin.slot(at(gpa)).unwrap());
        for slot in &slots {
            assert_eq!(slot.map(pfn(3), SMALL, RWX), Ok(Mapped::New));
            assert!(!slot.set_dirty() && !slot.set_accessed());
            let _ = pin.unmap(slot.gpa()).unwrap();
        }
        table.vacate_pages(shared, PAGE);
        table.vacate_pages(end, PAGE);
        table.vacate_pages(512 * GIB, 4 * MIB);
        // Somebody else takes the frames, if any came back.
        table.populate_mapped(range(5 * GIB, 5 * MIB), SMALL, pfn(0x100), RWX).unwrap();
        let before = dump(&table);
        for slot in &slots {
            is_dead(slot);
        }
        assert!(dump(&table) == before, "a kept slot changed something");
    }

    /// L8.
    fn a_slot_kept_over_vacate_works_in_the_pages_next_life(format: impl Format) {
        let table = Checked::new(format, 64);
        table.populate_pages(0, PAGE);
        for (start, bytes) in [(MIB, PAGE), (GIB, PAGE), (512 * GIB - 2 * MIB, 4 * MIB)] {
            table.populate_pages(start, bytes);
            let pin = table.pin();
            let gpa = at(start + bytes - PAGE);
            let slot = pin.slot(gpa).unwrap();
            assert_eq!(slot.map(pfn(3), SMALL, RWX), Ok(Mapped::New));
            for life in 4..7 {
                let _ = pin.unmap(gpa).unwrap();
                table.vacate_pages(start, bytes);
                is_dead(&slot);
                table.populate_pages(start, bytes);
                assert_eq!(slot.mapping(), None);
                assert!(!slot.set_dirty() && !slot.set_accessed() && !slot.dirty());
                assert_eq!(slot.map(pfn(life), SMALL, RWX), Ok(Mapped::New));
                assert_eq!(slot.map(pfn(life), SMALL, RWX), Ok(Mapped::Same));
                assert_eq!(slot.mapping(), pin.lookup(gpa));
                assert!(!slot.set_dirty() && pin.lookup(gpa).unwrap().dirty);
                assert_eq!(pin.mapped(range(0, 513 * GIB)).unwrap(), 1, "it appeared elsewhere");
            }
            // And in a life in which another mapped it.
            let _ = pin.unmap(gpa).unwrap();
            table.vacate_pages(start, bytes);
            table.populate_mapped(range(start, bytes), SMALL, pfn(0x100), RWX).unwrap();
            let there = pin.lookup(gpa).unwrap();
            assert_eq!(slot.mapping(), Some(there));
            assert_eq!(slot.map(there.pfn, SMALL, RWX), Ok(Mapped::Same));
            assert_eq!(slot.map(pfn(7), SMALL, RWX), Err(MapError::Occupied(there)));
            assert_eq!(pin.unmap_range(range(start, bytes), drop).unwrap().0, bytes / PAGE);
            table.vacate_pages(start, bytes);
        }
    }

    /// L8.
    fn a_slot_kept_over_vacates_of_others_keeps_its_page(format: impl Format) {
        let table = Checked::new(format, 64);
        table.populate_pages(GIB - 2 * MIB, 4 * MIB);
        let pin = table.pin();
        let (gpa, none) = (at(GIB + MIB), at(2 * GIB));
        let (slot, hole) = (pin.slot(gpa).unwrap(), pin.slot(none).unwrap());
        let refused = |start| table.refuses_to_vacate(range(start, 8 * PAGE), not_populated(start));
        table.vacate_pages(GIB - 2 * MIB, 2 * MIB);
        assert_eq!(slot.map(pfn(5), SMALL, RWX), Ok(Mapped::New));
        table.vacate_pages(GIB, MIB);
        assert!(!slot.set_dirty());
        refused(GIB);
        assert!(slot.dirty() && slot.clear_dirty());
        let why = VacateError::StillMapped { gpa };
        table.refuses_to_vacate(range(GIB + MIB, MIB), why);
        table.vacate_pages(GIB + MIB + PAGE, MIB - PAGE);
        assert_eq!(slot.mapping(), pin.lookup(gpa));
        assert_eq!(frame_at(&pin, GIB + MIB), Some(5));
        assert_eq!(hole.map(pfn(6), SMALL, RWX), Err(MapError::NotPopulated { gpa: none }));
        table.populate_pages(2 * GIB, PAGE);
        assert_eq!(hole.map(pfn(6), SMALL, RWX), Ok(Mapped::New));
        assert_eq!(frame_at(&pin, 2 * GIB), Some(6));
    }

    fn an_iterator_that_is_overtaken_by_vacate_names_no_vacated_page(format: impl Format) {
        let table = Checked::new(format, 64);
        let (start, bytes) = (GIB - 4 * MIB, 8 * MIB);
        table.populate_mapped(range(start, bytes), SMALL, pfn(0), RWX).unwrap();
        let pin = table.pin();
        let mut mappings = pin.mappings(range(start, bytes)).unwrap();
        assert_eq!(mappings.next().map(|mapping| mapping.gpa), Some(at(start)));
        // The table that it is in, and the next one.
        let gone = range(start, 4 * MIB);
        assert_eq!(pin.unmap_range(gone, drop).unwrap().0, 1024);
        table.vacate(gone).unwrap();
        table.populate_pages(8 * GIB, 4 * MIB);
        let rest: Vec<_> = mappings.map(|mapping| mapping.gpa.get()).collect();
        assert!(rest.into_iter().eq((GIB..GIB + 4 * MIB).step_by(PAGE as usize)));
    }
}

/// Checks that the slot's page has no memory, and that the slot changes nothing.
#[track_caller]
fn is_dead<F: Format, S: FrameSource>(slot: &SlotRef<'_, F, S>) {
    assert_eq!(slot.mapping(), None);
    assert!(!slot.set_accessed() && !slot.set_dirty());
    assert!(!slot.clear_accessed() && !slot.clear_dirty());
    assert!(!slot.accessed() && !slot.dirty());
    let none = MapError::NotPopulated { gpa: slot.gpa() };
    assert_eq!(slot.map(pfn(1), SMALL, RWX), Err(none));
    assert_eq!(slot.mapping(), None);
}
