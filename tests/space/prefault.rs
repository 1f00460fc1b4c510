//! Many pages at once: before they are needed, and around those that are.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use slat::{Answer, BackingError, BadFaultAround, FaultError, OnDemand, PageSize, Prot};

use crate::{
    common::{GIB, MIB, PAGE, SMALL, at, every_format, range},
    rig::{Rig, Scripted, go_on, nth, part, refused},
};

every_format! {
    #![and_without_bits]
    fn a_prefault_makes_all_resident_and_says_how_far_it_is(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB - 700 * PAGE, 1400 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 800), 8);
        let mut sums = Vec::new();
        let done = rig.prefault(part(area, 100, 1200), |sum| {
            sums.push(sum);
            ControlFlow::Continue(())
        });
        assert_eq!((done.unwrap(), rig.resident()), (1200, 1200));
        assert!(sums.is_sorted_by(|one, next| one < next), "{sums:?}");
        assert_eq!(sums.last(), Some(&1200));
        cpu.reads(nth(area, 800), 8);
        // Once more, and for one page.
        assert_eq!(rig.prefault(area, go_on).unwrap(), 1400);
        assert_eq!(rig.prefault(part(area, 3, 1), go_on).unwrap(), 1);
        rig.audit();
    }

    fn a_prefault_can_be_stopped(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB - 700 * PAGE, 1400 * PAGE);
        let mut calls = 0;
        let done = rig.prefault(area, |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let done = done.unwrap();
        assert!(calls == 2 && done < 1400);
        assert_eq!(rig.resident(), done);
        rig.audit();
    }

    fn a_prefault_stops_at_a_page_that_cannot_be(format: impl Format) {
        let rig = Rig::new(format);
        let memory = OnDemand::new(Arc::clone(&rig.memory) as _, 1400, SMALL);
        let backing = Scripted::answering(memory, |want, over| match want.page {
            777 => Answer::Failed(BackingError::new("a bad block")),
            _ => over.frame(want),
        });
        let area = range(2 * MIB - 5 * PAGE, 1400 * PAGE);
        rig.map(area, &backing);
        let error = rig.prefault(area, go_on).unwrap_err();
        assert_eq!((error.done, rig.resident()), (777, 777));
        refused!(
            Err::<(), _>(error.source),
            FaultError::Backing { gpa, .. } if gpa == at(nth(area, 777))
        );
        let error = rig.prefault(part(area, 778, 700), go_on).unwrap_err();
        assert_eq!((error.done, rig.resident()), (622, 1399));
        refused!(
            Err::<(), _>(error.source),
            FaultError::NoRegion { gpa } if gpa == at(nth(area, 1400))
        );
        rig.audit();
    }

    fn pages_around_a_fault_come_with_it_where_they_can(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(2 * MIB - 11 * PAGE, 24 * PAGE);
        let memory = OnDemand::new(Arc::clone(&rig.memory) as _, 24, SMALL);
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let backing = Scripted::answering(memory, move |want, over| {
            count.fetch_add(1, Ordering::SeqCst);
            match want.page {
                // Not at once, or not at all.
                13 if want.access.is_empty() => Answer::Wait,
                14 if want.access.is_empty() => Answer::Failed(BackingError::new("no")),
                _ => over.frame(want),
            }
        });
        rig.map(area, &backing);
        let mut cpu = rig.cpu();
        for bad in [0, 3, 511, 513, 1024, u64::MAX] {
            assert_eq!(cpu.vcpu.set_fault_around(bad), Err(BadFaultAround(bad)));
        }
        let resident = |pages: &[u64]| {
            let there: Vec<u64> =
                (0..24).filter(|&page| rig.leaf(nth(area, page)).is_some()).collect();
            assert_eq!(there, pages);
            rig.audit();
        };
        cpu.faults(nth(area, 5), Prot::R);
        resident(&[5]);
        // Groups are aligned to themselves: this one begins before the region.
        cpu.vcpu.set_fault_around(8).unwrap();
        cpu.faults(nth(area, 1), Prot::R);
        resident(&[0, 1, 2, 5]);
        cpu.writes(nth(area, 6), 6);
        resident(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let before = asked.load(Ordering::SeqCst);
        cpu.faults(nth(area, 6), Prot::R);
        assert_eq!(asked.load(Ordering::SeqCst), before, "nothing is asked for what is there");
        cpu.vcpu.set_fault_around(512).unwrap();
        cpu.faults(nth(area, 20), Prot::R);
        resident(&(0..24).filter(|page| ![13, 14].contains(page)).collect::<Vec<_>>());
        cpu.faults(nth(area, 13), Prot::R);
        cpu.reads(nth(area, 14), 0);
        cpu.reads(nth(area, 6), 6);
        assert_eq!(rig.resident(), 24);
        rig.audit();
    }

    fn pages_around_a_fault_count_as_dirty_only_if_they_are_written(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 32 * PAGE);
        rig.track();
        let mut cpu = rig.cpu();
        cpu.vcpu.set_fault_around(16).unwrap();
        cpu.writes(nth(area, 3), 1);
        assert!(rig.look(area).contains(&nth(area, 3)));
        cpu.writes(nth(area, 4), 1);
        cpu.writes(nth(area, 20), 1);
        let found = rig.look(area);
        assert!(found.contains(&nth(area, 4)) && found.contains(&nth(area, 20)));
        assert!(rig.look(area).is_empty());
        rig.audit();
    }

    fn leaves_are_as_large_as_the_backing_and_the_region_allow(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        // Congruent; not congruent; ends that are not.
        for (start, pages, shift) in [(0, 1024, 0), (0, 1024, 1), (5, 1024, 5), (511, 514, 511)] {
            let rig = Rig::new(format);
            let area = range(4 * MIB + start * PAGE, pages * PAGE);
            let backing = rig.fixed(pages + shift);
            rig.map_region(area, rig.watch(&backing), shift * PAGE, crate::common::RWX).unwrap();
            let mut cpu = rig.cpu();
            let is_large = start == shift;
            for page in [0, 1, pages / 2, pages - 1] {
                cpu.writes(nth(area, page), page);
                cpu.reads(nth(area, page), page);
                let leaf = rig.leaf(nth(area, page)).unwrap();
                let whole = leaf.size.bytes();
                let first = nth(area, page) & !(2 * MIB - 1);
                let fits = is_large
                    && first >= area.start().get()
                    && first + 2 * MIB - 1 <= area.last().get();
                assert_eq!(whole == 2 * MIB, fits, "page {page} of {area}");
                let fixed = rig.memory.fixed(pages + shift).checked_add(page + shift);
                assert_eq!(leaf.frame_of(at(nth(area, page))), fixed);
            }
            assert_eq!(rig.prefault(area, go_on).unwrap(), pages);
            rig.audit();
        }
    }

    fn a_gigabyte_is_one_leaf(format: impl Format) {
        let rig = Rig::new(format);
        let first = slat::HostPfn::new(1 << 22);
        let memory = slat::Contiguous::new(first, 4 << 18).unwrap();
        let area = range(GIB - 2 * MIB, 2 * GIB + 4 * MIB);
        let offset = GIB - 2 * MIB;
        rig.map_region(area, Arc::new(memory), offset, crate::common::RWX).unwrap();
        let cpu = rig.cpu();
        let sizes = [(0, PageSize::Size2M), (512, PageSize::Size1G), (1 << 19, PageSize::Size1G)];
        for (page, most) in sizes {
            cpu.faults(nth(area, page), Prot::W);
            let leaf = rig.leaf(nth(area, page)).unwrap();
            assert!(leaf.size == most || !format.supports(most), "{leaf:?}");
            let frame = first.checked_add(offset / PAGE + page);
            assert_eq!(leaf.frame_of(at(nth(area, page))), frame);
        }
        if format.supports(PageSize::Size1G) {
            assert_eq!(rig.resident(), 512 + (2 << 18));
            assert_eq!(rig.prefault(area, go_on).unwrap(), 1024 + (2 << 18));
            assert_eq!(rig.discard(range(GIB + 5 * PAGE, PAGE)), Ok(1));
            assert_eq!(rig.resident(), 1023 + (2 << 18));
        }
        rig.audit();
    }

    fn small_pages_are_mapped_where_there_was_room_for_large_ones(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(4 * MIB, 4 * MIB);
        rig.map(area, &rig.demand_up_to(1024, PageSize::Size2M));
        // Frames, but no run of them: the backing has only small pages now.
        let holes: Vec<_> = (0..8)
            .map(|_| slat::FramePool::take(&*rig.memory, PageSize::Size2M).unwrap())
            .collect();
        let spare = [3, 5, 9].map(|index| holes[0].checked_add(index).unwrap());
        spare.iter().for_each(|&frame| slat::FramePool::give_back(&*rig.memory, frame, SMALL));
        let mut cpu = rig.cpu();
        for page in [0, 511, 1023] {
            cpu.writes(nth(area, page), page);
            assert_eq!(rig.leaf(nth(area, page)).unwrap().size, SMALL);
        }
        refused!(cpu.read(nth(area, 7)), FaultError::Backing { .. });
        for frame in holes[0].get()..holes[0].get() + 512 {
            if !spare.iter().any(|spare| spare.get() == frame) {
                slat::FramePool::give_back(&*rig.memory, slat::HostPfn::new(frame), SMALL);
            }
        }
        let back = |&frame| slat::FramePool::give_back(&*rig.memory, frame, PageSize::Size2M);
        holes[1..].iter().for_each(back);
        cpu.reads(nth(area, 511), 511);
        rig.prefault(area, go_on).unwrap();
        assert_eq!(rig.resident(), 1024);
        rig.audit();
    }

    fn large_leaves_are_split_while_writes_are_tracked(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(4 * MIB, 6 * MIB);
        rig.map(area, &rig.demand_up_to(1536, PageSize::Size2M));
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 5), 5);
        cpu.writes(nth(area, 600), 6);
        rig.track();
        for page in 0..3 {
            cpu.writes(nth(area, 512 * page + 7), 7);
        }
        let written: Vec<u64> = (0..3).map(|page| nth(area, 512 * page + 7)).collect();
        assert_eq!(rig.look(area), written);
        assert!((0..1536).filter_map(|page| rig.leaf(nth(area, page))).all(|leaf| leaf.size == SMALL));
        cpu.reads(nth(area, 5), 5);
        cpu.reads(nth(area, 600), 6);
        rig.track_dirty(slat::Tracking::Off).unwrap();
        rig.audit();
        // Regions that come while it is on have small pages to begin with.
        rig.track();
        let other = range(16 * MIB, 2 * MIB);
        rig.map(other, &rig.demand_up_to(512, PageSize::Size2M));
        cpu.writes(nth(other, 9), 9);
        assert_eq!(rig.look(other), [nth(other, 9)]);
        rig.audit();
    }
}

#[cfg(feature = "rayon")]
mod in_parallel {
    use std::sync::Mutex;

    use super::*;

    every_format! {
        #![and_without_bits]
        fn all_threads_make_all_resident(format: impl Format) {
            let rig = Rig::new(format);
            let (area, _) = rig.map_demand(GIB - 1700 * PAGE, 3400 * PAGE);
            let sums = Mutex::new(Vec::new());
            let done = rig.prefault_in_parallel(area, |sum| {
                sums.lock().unwrap().push(sum);
                ControlFlow::Continue(())
            });
            assert_eq!((done.unwrap(), rig.resident()), (3400, 3400));
            let mut sums = sums.into_inner().unwrap();
            sums.sort_unstable();
            assert!(sums.is_sorted_by(|one, next| one < next), "{sums:?}");
            assert_eq!(sums.last(), Some(&3400));
            rig.audit();
        }

        fn it_can_be_stopped_and_stops_where_a_page_cannot_be(format: impl Format) {
            let rig = Rig::new(format);
            let (area, _) = rig.map_demand(GIB - 700 * PAGE, 1400 * PAGE);
            let done = rig.prefault_in_parallel(area, |_| ControlFlow::Break(())).unwrap();
            assert!(done > 0 && done == rig.resident());
            let over = range(area.start().get(), 1500 * PAGE);
            let error = rig.prefault_in_parallel(over, go_on).unwrap_err();
            assert!(error.done <= 1400);
            refused!(Err::<(), _>(error.source), FaultError::NoRegion { .. });
            rig.audit();
        }
    }
}
