//! Pages that are given up: the balloon.

use slat::{DiscardError, PageSize, Prot};

use crate::{
    common::{GIB, MIB, PAGE, at, every_format, range},
    rig::{Rig, go_on, nth, part},
};

every_format! {
    #![and_without_bits]
    fn pages_that_are_given_up_are_wiped_and_the_others_are_not(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(2 * MIB - 20 * PAGE, 40 * PAGE);
        let mut cpu = rig.cpu();
        for (first, pages) in [(0, 1), (39, 1), (5, 10), (15, 10), (0, 40)] {
            (0..40).for_each(|page| cpu.writes(nth(area, page), page + 1));
            let before = backing.counts().unmapped;
            assert_eq!(rig.discard(part(area, first, pages)), Ok(pages));
            assert_eq!(backing.counts().unmapped - before, pages);
            assert_eq!(rig.discard(part(area, first, pages)), Ok(0));
            assert_eq!(rig.resident(), 40 - pages);
            rig.audit();
            for page in 0..40 {
                let gone = (first..first + pages).contains(&page);
                cpu.reads(nth(area, page), if gone { 0 } else { page + 1 });
            }
        }
    }

    fn parts_of_two_regions_are_given_up_at_once(format: impl Format) {
        let rig = Rig::new(format);
        let all = range(GIB - 8 * PAGE, 16 * PAGE);
        let (left, right) = (part(all, 0, 8), part(all, 8, 8));
        let (one, other) = (rig.demand(8), rig.demand(8));
        rig.map(left, &one);
        rig.map(right, &other);
        let mut cpu = rig.cpu();
        (0..16).for_each(|page| cpu.writes(nth(all, page), page + 1));
        assert_eq!(rig.discard(part(all, 6, 5)), Ok(5));
        assert_eq!((one.counts().unmapped, other.counts().unmapped), (2, 3));
        for page in 0..16 {
            let gone = (6..11).contains(&page);
            cpu.reads(nth(all, page), if gone { 0 } else { page + 1 });
        }
        assert_eq!(rig.discard(all), Ok(16));
        rig.audit();
    }

    fn a_hole_is_refused_and_nothing_is_given_up(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 4 * PAGE);
        rig.map_demand(GIB + 6 * PAGE, 4 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 3), 1);
        cpu.writes(nth(area, 6), 1);
        let ranges = [(3, 4, 4), (0, 5, 4), (5, 2, 5), (6, 5, 10), (4, 2, 4), (20, 1, 20)];
        for (first, pages, hole) in ranges {
            let refused = rig.discard(part(area, first, pages));
            assert_eq!(refused, Err(DiscardError::NoRegion { gpa: at(nth(area, hole)) }));
        }
        assert_eq!(rig.resident(), 2);
        rig.audit();
    }

    fn edges_within_large_leaves_split_them(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        let rig = Rig::new(format);
        let area = range(4 * MIB, 6 * MIB);
        rig.map(area, &rig.demand_up_to(1536, PageSize::Size2M));
        let mut cpu = rig.cpu();
        for (first, pages) in [(1, 1), (511, 2), (512, 512), (700, 600), (0, 513), (1535, 1)] {
            for page in (0..1536).step_by(37).chain([first, first + pages - 1]) {
                cpu.writes(nth(area, page), page + 1);
            }
            rig.prefault(area, go_on).unwrap();
            assert_eq!(rig.discard(part(area, first, pages)), Ok(pages), "{first}, {pages}");
            assert_eq!(rig.resident(), 1536 - pages);
            rig.audit();
            for page in (0..1536).step_by(37) {
                let gone = (first..first + pages).contains(&page);
                cpu.reads(nth(area, page), if gone { 0 } else { page + 1 });
            }
            // All of it, so that there is room for large leaves again where no table is.
            rig.discard(area).unwrap();
        }
    }

    fn a_page_that_is_given_up_while_writes_are_tracked_is_reported(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 16 * PAGE);
        let mut cpu = rig.cpu();
        (0..16).for_each(|page| cpu.writes(nth(area, page), page));
        rig.track();
        cpu.writes(nth(area, 2), 1);
        rig.discard(part(area, 2, 3)).unwrap();
        // Parts of it, by several looks; and those that were written as well count once.
        assert_eq!(rig.look(part(area, 0, 3)), [nth(area, 2)]);
        rig.discard(part(area, 4, 1)).unwrap();
        cpu.writes(nth(area, 4), 1);
        cpu.faults(nth(area, 9), Prot::R);
        assert_eq!(rig.look(area), [3, 4].map(|page| nth(area, page)));
        assert!(rig.look(area).is_empty());
        rig.replace_backing(area, rig.watch(&rig.demand(16)), 0).unwrap();
        assert_eq!(rig.look(part(area, 3, 9)).len(), 9);
        assert_eq!(rig.look(area).len(), 7);
        rig.audit();
    }

    fn a_page_that_comes_back_with_another_region_is_reported(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        (0..8).for_each(|page| cpu.writes(nth(area, page), page + 1));
        rig.track();
        rig.discard(part(area, 1, 1)).unwrap();
        rig.unmap(area);
        assert!(rig.look(area).is_empty(), "there is no page");
        let (less, _) = rig.map_demand(GIB, 4 * PAGE);
        assert_eq!(rig.look(area), [0, 1, 2, 3].map(|page| nth(area, page)));
        assert!(rig.look(area).is_empty());
        rig.unmap(less);
        rig.map(area, &rig.demand(8));
        assert_eq!(rig.look(area).len(), 8);
        rig.resize_region(area, less).unwrap();
        rig.resize_region(less, area).unwrap();
        assert_eq!(rig.look(area), [4, 5, 6, 7].map(|page| nth(area, page)));
        // Where there was none before, nothing but what is written.
        rig.map_demand(2 * GIB, 4 * PAGE);
        assert!(rig.look(range(2 * GIB, 4 * PAGE)).is_empty());
        rig.audit();
    }
}
