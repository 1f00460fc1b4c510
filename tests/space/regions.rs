//! Which regions can be made and taken away, and what is refused (D8).

use std::sync::Arc;

use slat::{
    Attr, Backing, Contiguous, DiscardError, Format, GpaRange, MapRegionError, MemType,
    PopulateError, Prot, ProtectRegionError, ReplaceBackingError, ResizeRegionError,
    UnmapRegionError,
};

use crate::{
    common::{GIB, MIB, PAGE, RWX, SMALL, Space as Inputs, at, dump, every_format, pfn, range},
    rig::{Rig, nth, part, refused},
};

fn ranges<F: Format>(rig: &Rig<F>) -> Vec<GpaRange> {
    rig.regions().iter().map(|region| region.range).collect()
}

every_format! {
    /// D8.
    fn a_region_that_overlaps_another_is_refused(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        rig.cpu().writes(GIB, 1);
        let before = dump(rig.table());
        let overlapping = [(0, 8), (0, 1), (7, 1), (3, 2), (7, 9)];
        let others = overlapping.map(|(first, pages)| part(area, first, pages));
        for other in others.into_iter().chain([range(GIB - PAGE, 2 * PAGE), range(0, 2 * GIB)]) {
            let refused = rig.map_region(other, rig.watch(&rig.demand(1 << 20)), 0, RWX);
            assert_eq!(refused, Err(MapRegionError::Overlap { region: area }), "{other}");
        }
        assert!(dump(rig.table()) == before);
        assert_eq!(ranges(&rig), [area]);
        rig.audit();
    }

    /// D8.
    fn only_a_whole_region_is_found(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB, 8 * PAGE);
        rig.map_demand(GIB + 8 * PAGE, PAGE);
        rig.cpu().writes(GIB + PAGE, 1);
        let before = dump(rig.table());
        let no_regions = [
            part(area, 0, 7),
            part(area, 1, 7),
            part(area, 0, 9),
            part(area, 3, 1),
            range(GIB - PAGE, PAGE),
            range(0, PAGE),
            range(0, 4 * GIB),
        ];
        for range in no_regions {
            assert_eq!(rig.unmap_region(range), Err(UnmapRegionError::NotFound { range }));
            let refused = rig.protect_region(range, Prot::R);
            assert_eq!(refused, Err(ProtectRegionError::NotFound { range }));
            let refused = rig.replace_backing(range, Arc::clone(&backing) as Arc<dyn Backing>, 0);
            assert_eq!(refused, Err(ReplaceBackingError::NotFound { range }));
            let refused = rig.resize_region(range, range);
            assert_eq!(refused, Err(ResizeRegionError::NotFound { range }));
        }
        let holes = [(range(0, PAGE), 0), (range(GIB - PAGE, 2 * PAGE), GIB - PAGE)];
        let gap = (part(area, 4, 8), GIB + 9 * PAGE);
        for (range, hole) in holes.into_iter().chain([gap]) {
            assert_eq!(rig.discard(range), Err(DiscardError::NoRegion { gpa: at(hole) }));
        }
        assert!(dump(rig.table()) == before);
        rig.audit();
    }

    /// D8.
    fn regions_reach_to_both_ends_of_the_space(format: impl Format) {
        let rig = Rig::new(format);
        let inputs = Inputs::of(&format);
        let mut cpu = rig.cpu();
        for pages in [1, 3] {
            let bytes = pages * PAGE;
            let mut all = vec![range(0, bytes), range(inputs.last_page() - (bytes - PAGE), bytes)];
            if inputs.is_split() {
                all.push(range(inputs.last_low_page() + PAGE - bytes, bytes));
                all.push(range(inputs.upper, bytes));
            }
            for &area in &all {
                rig.map_demand(area.start().get(), bytes);
            }
            for (value, &area) in all.iter().enumerate() {
                (0..pages).for_each(|page| cpu.writes(nth(area, page), value as u64));
            }
            for (value, &area) in all.iter().enumerate() {
                (0..pages).for_each(|page| cpu.reads(nth(area, page), value as u64));
                let hold = cpu.vcpu.hold_range(area.start(), bytes, Prot::R).unwrap();
                assert_eq!(hold.pages().len() as u64, pages);
            }
            rig.track();
            cpu.writes(inputs.last_page(), 5);
            let last = *all.iter().max_by_key(|area| area.start()).unwrap();
            assert_eq!(rig.look(last), [inputs.last_page()]);
            rig.track_dirty(slat::Tracking::Off).unwrap();
            rig.audit();
            assert_eq!(rig.discard(last), Ok(pages));
            rig.clear();
        }
    }

    /// D8.
    fn what_the_space_does_not_have_is_refused(format: impl Format) {
        let rig = Rig::new(format);
        let inputs = Inputs::of(&format);
        for outside in inputs.outside() {
            let start = outside & !(PAGE - 1);
            let area = GpaRange::from_pages(at(start), 1).unwrap();
            let refused = rig.map_region(area, rig.watch(&rig.demand(1)), 0, RWX);
            refused!(refused, MapRegionError::Table(PopulateError::OutOfRange { .. }));
        }
        let over = range(inputs.last_low_page(), 2 * PAGE);
        let refused = rig.map_region(over, rig.watch(&rig.demand(2)), 0, RWX);
        refused!(refused, MapRegionError::Table(PopulateError::OutOfRange { .. }));
        assert!(rig.regions().is_empty());
        let (area, _) = rig.map_demand(inputs.last_low_page(), PAGE);
        let refused = rig.resize_region(area, over);
        refused!(refused, ResizeRegionError::BackingTooSmall { have: 1, needed: 2 });
        rig.clear();
        rig.map(area, &rig.demand(2));
        let refused = rig.resize_region(area, over);
        refused!(refused, ResizeRegionError::Populate(PopulateError::OutOfRange { .. }));
        assert_eq!(ranges(&rig), [area]);
    }

    /// D8.
    fn adjacent_regions_are_apart(format: impl Format) {
        let rig = Rig::new(format);
        let areas: Vec<_> = (0..6)
            .map(|index| rig.map_demand(2 * MIB - 9 * PAGE + index * 3 * PAGE, 3 * PAGE).0)
            .collect();
        let mut cpu = rig.cpu();
        for (value, &area) in areas.iter().enumerate() {
            (0..3).for_each(|page| cpu.writes(nth(area, page), 10 * value as u64 + page));
        }
        assert_eq!((ranges(&rig), rig.resident()), (areas.clone(), 18));
        for gone in [2, 5, 0] {
            rig.unmap(areas[gone]);
            refused!(cpu.read(nth(areas[gone], 1)), slat::FaultError::NoRegion { .. });
        }
        rig.protect_region(areas[3], Prot::R).unwrap();
        for (value, stays) in [(1, true), (3, true), (4, true)] {
            assert!(stays);
            (0..3).for_each(|page| cpu.reads(nth(areas[value], page), 10 * value as u64 + page));
        }
        refused!(cpu.write(nth(areas[3], 0), 1), slat::FaultError::Denied { .. });
        cpu.writes(nth(areas[4], 0), 1);
        // The range may be mapped again, by others.
        rig.map_demand(areas[2].start().get(), 3 * PAGE);
        cpu.reads(nth(areas[2], 1), 0);
        assert_eq!(rig.resident(), 10);
        rig.audit();
    }

    /// D8.
    fn a_backing_that_does_not_suit_is_refused(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        let backing: Arc<dyn Backing> = Arc::new(Contiguous::new(pfn(0x5000), 6).unwrap());
        let map = |offset| rig.map_region(area, Arc::clone(&backing), offset, RWX);
        for offset in [1, 0x800, PAGE + 1, u64::MAX] {
            assert_eq!(map(offset), Err(MapRegionError::Misaligned { offset }));
        }
        for offset in [3 * PAGE, 6 * PAGE, GIB, u64::MAX - 0xfff] {
            let needed = offset / PAGE + 4;
            let few = MapRegionError::BackingTooSmall { have: 6, needed };
            assert_eq!(map(offset), Err(few));
        }
        assert!(rig.regions().is_empty());
        assert_eq!(map(2 * PAGE), Ok(()));
        rig.cpu().faults(GIB + PAGE, Prot::W);
        assert_eq!(rig.frame(GIB + PAGE), pfn(0x5003));
        let info = rig.region_at(area.start()).unwrap();
        assert_eq!((info.offset, info.backing.pages(), info.held), (2 * PAGE, 6, 0));
        let replace = |offset| rig.replace_backing(area, Arc::clone(&backing), offset);
        assert_eq!(replace(5), Err(ReplaceBackingError::Misaligned { offset: 5 }));
        let few = ReplaceBackingError::BackingTooSmall { have: 6, needed: 7 };
        assert_eq!(replace(3 * PAGE), Err(few));
        assert_eq!(rig.frame(GIB + PAGE), pfn(0x5003));
        assert_eq!(replace(PAGE), Ok(()));
        assert!(rig.leaf(GIB + PAGE).is_none());
        rig.cpu().faults(GIB + PAGE, Prot::W);
        assert_eq!(rig.frame(GIB + PAGE), pfn(0x5002));
    }

    /// D8.
    fn attributes_that_cannot_be_encoded_are_refused(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        for prot in [Prot::empty(), Prot::W, Prot::W | Prot::X] {
            let refused = rig.map_region(area, rig.watch(&rig.demand(4)), 0, Attr::new(prot));
            refused!(refused, MapRegionError::Unencodable(_));
        }
        rig.map_as(area, &rig.demand(4), Attr::new(Prot::RW));
        rig.cpu().writes(GIB, 5);
        for prot in [Prot::empty(), Prot::W, Prot::W | Prot::X] {
            refused!(rig.protect_region(area, prot), ProtectRegionError::Unencodable(_));
        }
        assert_eq!(rig.region_at(area.start()).unwrap().attr, Attr::new(Prot::RW));
        assert_eq!(rig.leaf(GIB).unwrap().attr.prot(), Prot::RW);
        assert_eq!(rig.leaf(GIB).unwrap().attr.mem_type(), MemType::WB);
        rig.audit();
    }

    fn a_region_for_which_there_are_no_tables_is_refused(format: impl Format) {
        for tables in 0..u64::from(format.levels().count()) + 3 {
            // The root is there.
            let rig = Rig::with_tables(format, 1 + tables);
            // On both sides of a gigabyte: two tables at each level but the highest.
            let area = range(GIB - 4 * PAGE, 8 * PAGE);
            let before = dump(rig.table());
            let mapped = rig.map_region(area, rig.watch(&rig.demand(8)), 0, RWX);
            let needed = format.levels().tables_for(area);
            if tables < needed {
                refused!(mapped, MapRegionError::Table(PopulateError::OutOfFrames(_)));
                assert!(dump(rig.table()) == before && rig.regions().is_empty());
            } else {
                assert_eq!(mapped, Ok(()));
                rig.cpu().writes(GIB, 1);
            }
        }
    }

    fn what_somebody_populated_by_hand_is_refused(format: impl Format) {
        let rig = Rig::new(format);
        let theirs = range(GIB + 2 * PAGE, PAGE);
        rig.table().populate(theirs, SMALL).unwrap();
        let refused = rig.map_region(range(GIB, 4 * PAGE), rig.watch(&rig.demand(4)), 0, RWX);
        refused!(refused, MapRegionError::Table(PopulateError::Overlap { .. }));
        assert!(rig.regions().is_empty());
        rig.table().vacate(theirs).unwrap();
        rig.map_demand(GIB, 4 * PAGE);
        rig.audit();
    }

    fn many_regions_come_and_go(format: impl Format) {
        let rig = Rig::new(format);
        let mut cpu = rig.cpu();
        let area = |index: u64| range(GIB + index * 16 * PAGE, (index % 15 + 1) * PAGE);
        for round in 0..2 {
            // In an order of its own.
            for index in (0..40).map(|index| index * 7 % 40) {
                rig.map_demand(area(index).start().get(), area(index).pages() * PAGE);
                cpu.writes(nth(area(index), index % 15), index);
            }
            assert!(ranges(&rig).into_iter().eq((0..40).map(area)));
            for index in 0..40 {
                cpu.reads(nth(area(index), index % 15), index);
            }
            for index in (0..40).map(|index| index * 11 % 40) {
                rig.unmap(area(index));
            }
            assert_eq!((rig.resident(), rig.stats().regions), (0, 0), "in round {round}");
        }
    }
}
