//! Regions that get another size, other rights, or another backing.

use std::sync::Arc;

use slat::{Attr, Backing, Contiguous, CopyOnWrite, FaultError, PageSize, Prot, ResizeRegionError};

use crate::{
    common::{GIB, MIB, PAGE, SMALL, at, every_format, range},
    rig::{Audited, Rig, go_on, nth, part, refused},
};

every_format! {
    #![and_without_bits]
    fn a_region_grows_where_there_is_room(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(2 * MIB - 8 * PAGE, 4 * PAGE);
        rig.map(area, &rig.demand(600));
        let (next, _) = rig.map_demand(4 * MIB, 4 * PAGE);
        let mut cpu = rig.cpu();
        (0..4).for_each(|page| cpu.writes(nth(area, page), page + 1));
        refused!(cpu.read(nth(area, 4)), FaultError::NoRegion { .. });
        let mut now = area;
        for pages in [5, 8, 9, 520] {
            let more = part(area, 0, pages);
            rig.resize_region(now, more).unwrap();
            now = more;
            (0..4).for_each(|page| cpu.reads(nth(area, page), page + 1));
            cpu.reads(nth(now, pages - 1), 0);
            if pages < 520 {
                refused!(cpu.read(nth(now, pages)), FaultError::NoRegion { .. });
            }
        }
        // Up to its neighbour, and no further.
        let over = part(area, 0, 521);
        let refused = rig.resize_region(now, over);
        assert_eq!(refused, Err(ResizeRegionError::Overlap { region: next }));
        let moved = part(area, 1, 4);
        let refused = rig.resize_region(now, moved);
        assert_eq!(refused, Err(ResizeRegionError::OtherStart { start: area.start() }));
        rig.unmap(next);
        let few = ResizeRegionError::BackingTooSmall { have: 600, needed: 601 };
        assert_eq!(rig.resize_region(now, part(area, 0, 601)), Err(few));
        assert_eq!(rig.resize_region(now, now), Ok(()));
        rig.resize_region(now, part(area, 0, 600)).unwrap();
        cpu.writes(nth(area, 599), 1);
        (0..4).for_each(|page| cpu.reads(nth(area, page), page + 1));
        rig.audit();
    }

    fn what_is_gone_of_a_region_is_unmapped_and_can_be_mapped_again(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(2 * MIB - 8 * PAGE, 600 * PAGE);
        let backing = rig.demand(600);
        rig.map(area, &backing);
        let free = rig.free_tables();
        let mut cpu = rig.cpu();
        for page in [0, 3, 7, 8, 100, 519, 520, 599] {
            cpu.writes(nth(area, page), page + 1);
        }
        let mut now = area;
        for (pages, resident) in [(521, 7), (520, 6), (9, 4), (8, 3), (1, 1)] {
            let less = part(area, 0, pages);
            rig.resize_region(now, less).unwrap();
            now = less;
            assert_eq!(rig.resident(), resident);
            refused!(cpu.read(nth(area, pages)), FaultError::NoRegion { .. });
            rig.audit();
        }
        cpu.reads(area.start().get(), 1);
        // Others can be there; and the region can come back, with other pages.
        rig.map_demand(nth(area, 1), PAGE);
        cpu.reads(nth(area, 1), 0);
        rig.unmap(part(area, 1, 1));
        rig.resize_region(now, area).unwrap();
        assert_eq!(rig.free_tables(), free);
        cpu.reads(nth(area, 599), 0);
        cpu.reads(area.start().get(), 1);
        rig.audit();
    }

    fn a_region_with_room_for_large_leaves_shrinks_to_any_page(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        for is_mapped in [true, false] {
            for pages in [512, 513, 700, 1023, 1024, 1025, 1, 511] {
                let rig = Rig::new(format);
                let area = range(4 * MIB, 6 * MIB);
                rig.map(area, &rig.demand_up_to(1536, PageSize::Size2M));
                let mut cpu = rig.cpu();
                if is_mapped {
                    (0..3).for_each(|leaf| cpu.writes(nth(area, leaf * 512 + 511), leaf + 1));
                    assert_eq!(rig.resident(), 1536);
                    assert_eq!(rig.leaf(nth(area, 0)).unwrap().size, PageSize::Size2M);
                }
                let less = part(area, 0, pages);
                rig.resize_region(area, less).unwrap();
                assert_eq!(rig.resident(), if is_mapped { pages } else { 0 });
                refused!(cpu.read(nth(area, pages)), FaultError::NoRegion { .. });
                rig.audit();
                // The rest is large where it can be.
                assert_eq!(rig.prefault(less, go_on).unwrap(), pages);
                assert_eq!(rig.resident(), pages);
                if is_mapped {
                    for page in [511, 1023, 1535].into_iter().filter(|&page| page < pages) {
                        cpu.reads(nth(area, page), page / 512 + 1);
                    }
                }
                // And another can begin right there.
                let (rest, _) = rig.map_demand(nth(area, pages), PAGE);
                cpu.writes(rest.start().get(), 9);
                rig.unmap(rest);
                rig.resize_region(less, area).unwrap();
                assert_eq!(rig.prefault(area, go_on).unwrap(), 1536);
                rig.audit();
            }
        }
    }

    fn no_tables_to_cut_a_large_leaf_is_an_error_and_changes_nothing(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        for is_mapped in [true, false] {
            let rig = Rig::new(format);
            let area = range(4 * MIB, 4 * MIB);
            rig.map(area, &rig.demand_up_to(1024, PageSize::Size2M));
            let mut cpu = rig.cpu();
            if is_mapped {
                cpu.writes(nth(area, 0), 1);
                cpu.writes(nth(area, 1000), 2);
            }
            let all = crate::common::Hostage::leaving(&**rig.frames(), 0);
            let refused = rig.resize_region(area, part(area, 0, 700));
            if is_mapped {
                refused!(refused, ResizeRegionError::CutsLarge(_));
                let refused = rig.discard(part(area, 3, 5));
                refused!(refused, slat::DiscardError::CutsLarge(_));
                assert_eq!(rig.resident(), 1024);
                cpu.reads(nth(area, 1000), 2);
            } else {
                refused!(refused, ResizeRegionError::CutsRoom(_));
                assert_eq!(rig.discard(part(area, 3, 5)), Ok(0));
            }
            assert_eq!(rig.regions()[0].range, area);
            // Whole leaves need none.
            assert_eq!(rig.resize_region(area, part(area, 0, 512)), Ok(()));
            rig.audit();
            drop(all);
        }
    }

    fn rights_are_taken_at_once_and_given_when_they_are_needed(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB - 4 * PAGE, 8 * PAGE);
        let mut cpu = rig.cpu();
        (0..6).for_each(|page| cpu.writes(nth(area, page), page));
        let code = Prot::R | Prot::X;
        for prot in [Prot::RW, Prot::R, code, Prot::RWX, code, Prot::RW, Prot::RWX] {
            rig.protect_region(area, prot).unwrap();
            assert_eq!(rig.region_at(area.start()).unwrap().attr.prot(), prot);
            for page in 0..6 {
                let have = rig.leaf(nth(area, page)).unwrap().attr.prot();
                assert!(prot.contains(have), "{have:?} of {prot:?}");
                cpu.reads(nth(area, page), page);
                let written = cpu.write(nth(area, page), page);
                assert_eq!(written.is_ok(), prot.contains(Prot::W));
                assert_eq!(cpu.fetch(nth(area, page)).is_ok(), prot.contains(Prot::X));
            }
            assert_eq!(rig.resident(), 6);
            rig.audit();
        }
        // What comes later has them, too.
        rig.protect_region(area, Prot::R).unwrap();
        cpu.reads(nth(area, 7), 0);
        assert_eq!(rig.leaf(nth(area, 7)).unwrap().attr.prot(), Prot::R);
        refused!(cpu.write(nth(area, 7), 1), FaultError::Denied { have: Prot::R, .. });
    }

    fn rights_that_have_nothing_in_common_are_exchanged(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        if rig.map_region(area, rig.watch(&rig.demand(4)), 0, Attr::new(Prot::X)).is_err() {
            // The format has no pages that can be executed only.
            return;
        }
        let mut cpu = rig.cpu();
        for page in 0..3 {
            cpu.fetch(nth(area, page)).unwrap();
        }
        for prot in [Prot::RW, Prot::X, Prot::R, Prot::X] {
            rig.protect_region(area, prot).unwrap();
            for page in 0..3 {
                let have = rig.leaf(nth(area, page)).unwrap().attr.prot();
                assert!(prot.contains(have), "{have:?} of {prot:?}");
                for (access, done) in [
                    (Prot::R, cpu.read(nth(area, page)).is_ok()),
                    (Prot::W, cpu.write(nth(area, page), 1).is_ok()),
                    (Prot::X, cpu.fetch(nth(area, page)).is_ok()),
                ] {
                    assert_eq!(done, prot.contains(access), "{access:?} of {prot:?}");
                }
            }
        }
        rig.audit();
    }

    fn the_base_of_a_copy_never_becomes_writable(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let shared = rig.memory.fixed(8);
        let base = Arc::new(Contiguous::new(shared, 8).unwrap());
        let view = Audited::over(CopyOnWrite::new(base, Arc::clone(&rig.memory) as _));
        rig.map(area, &view);
        (0..8).for_each(|page| rig.memory.write(shared.checked_add(page).unwrap(), 100 + page));
        let mut cpu = rig.cpu();
        let is_base = |page: u64| rig.frame(nth(area, page)) == shared.checked_add(page).unwrap();
        (0..6).for_each(|page| cpu.reads(nth(area, page), 100 + page));
        cpu.writes(nth(area, 1), 1);
        let code = Prot::R | Prot::X;
        let mut all = vec![Prot::R, Prot::RW, code, Prot::RWX, Prot::R, Prot::RWX];
        if rig.protect_region(area, Prot::X).is_ok() {
            all.extend([Prot::X, Prot::RW, Prot::X, Prot::RWX]);
        }
        for prot in all {
            rig.protect_region(area, prot).unwrap();
            for page in 0..6 {
                if let Some(leaf) = rig.leaf(nth(area, page)) {
                    assert!(prot.contains(leaf.attr.prot()));
                    assert!(!is_base(page) || !leaf.attr.prot().contains(Prot::W), "{prot:?}");
                }
                let _ = (cpu.fetch(nth(area, page)), cpu.read(nth(area, page)));
            }
        }
        cpu.writes(nth(area, 0), 7);
        for page in 0..8 {
            assert_eq!(rig.memory.read(shared.checked_add(page).unwrap()), 100 + page);
        }
        cpu.reads(nth(area, 0), 7);
        cpu.reads(nth(area, 1), 1);
        cpu.reads(nth(area, 5), 105);
        rig.audit();
    }

    fn a_region_gets_another_backing(format: impl Format) {
        let rig = Rig::new(format);
        let (area, old) = rig.map_demand(GIB - 4 * PAGE, 8 * PAGE);
        let mut cpu = rig.cpu();
        (0..6).for_each(|page| cpu.writes(nth(area, page), page + 1));
        let next = rig.fixed(10);
        rig.memory.write(rig.memory.fixed(10).checked_add(2 + 3).unwrap(), 33);
        rig.replace_backing(area, rig.watch(&next), 2 * PAGE).unwrap();
        assert_eq!(rig.resident(), 0);
        old.check();
        cpu.reads(nth(area, 3), 33);
        cpu.writes(nth(area, 0), 9);
        // What was asked for stays, whatever the last backing made of it.
        let rom = Audited::over(Contiguous::rom(rig.memory.fixed(8), 8).unwrap());
        rig.replace_backing(area, rig.watch(&rom), 0).unwrap();
        next.check();
        refused!(cpu.write(nth(area, 0), 1), FaultError::Denied { .. });
        cpu.reads(nth(area, 2), 9);
        rig.replace_backing(area, rig.watch(&rig.demand(8)), 0).unwrap();
        cpu.writes(nth(area, 0), 1);
        assert_eq!(rig.region_at(area.start()).unwrap().attr.prot(), Prot::RWX);
        rig.audit();
    }

    fn large_leaves_are_unmapped_whole_with_their_backing(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(4 * MIB, 4 * MIB + 16 * PAGE);
        rig.map(area, &rig.demand_up_to(1040, PageSize::Size2M));
        let mut cpu = rig.cpu();
        for page in [0, 600, 1030] {
            cpu.writes(nth(area, page), 1);
        }
        let small = Audited::over(Contiguous::new(rig.memory.fixed(1040), 1040).unwrap());
        assert_eq!(small.largest(0, area.start()), PageSize::Size2M);
        let next = rig.demand_up_to(1040, SMALL);
        rig.replace_backing(area, rig.watch(&next), 0).unwrap();
        for page in [0, 600, 1030] {
            cpu.reads(nth(area, page), 0);
        }
        assert_eq!((rig.resident(), rig.leaf(nth(area, 0)).unwrap().size), (3, SMALL));
        rig.replace_backing(area, rig.watch(&small), 0).unwrap();
        assert_eq!(rig.prefault(area, go_on).unwrap(), 1040);
        assert_eq!(rig.leaf(at(nth(area, 0)).get()).unwrap().pfn, rig.memory.fixed(1040));
        rig.audit();
    }
}
