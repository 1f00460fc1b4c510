//! Faults: which are refused, which are spurious, and several at once (D9, D10, D11).

use std::{
    sync::{Arc, Barrier},
    thread,
};

use slat::{
    Answer, Attr, Content, Contiguous, EncodeError, Fault, FaultError, Format, FrameSource, Hint,
    MemType, OnDemand, PageSize, Prot, RefineError, SplitError, mmu::Cause,
};

use crate::{
    common::{GIB, MIB, PAGE, Space as Inputs, at, dump, every_format, pfn, range},
    rig::{Audited, FETCH, READ, Rig, Scripted, WRITE, nth, part, refused},
};

/// What a leaf's memory type is, where that is the format's to say.
fn type_at<F: Format>(rig: &Rig<F>, gpa: u64) -> MemType {
    rig.leaf(gpa).unwrap().attr.mem_type()
}

every_format! {
    #![and_without_bits]
    /// D9.
    fn a_fault_in_a_hole_finds_no_region(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 4 * PAGE);
        rig.map_demand(GIB + 8 * PAGE, 4 * PAGE);
        let cpu = rig.cpu();
        let holes = [0, GIB - 1, GIB + 4 * PAGE, GIB + 8 * PAGE - 1, GIB + 12 * PAGE, 2 * GIB];
        let outside = Inputs::of(&format).outside();
        for hole in holes.into_iter().chain(outside) {
            for access in [Prot::empty(), Prot::R, Prot::W, Prot::X] {
                refused!(
                    cpu.vcpu.fault(at(hole), access),
                    FaultError::NoRegion { gpa } if gpa == at(hole)
                );
                refused!(cpu.vcpu.fault_and_wait(at(hole), access), FaultError::NoRegion { .. });
                refused!(cpu.vcpu.hold(at(hole), access), FaultError::NoRegion { .. });
            }
        }
        assert_eq!(rig.stats().refused, rig.stats().faults);
        for page in [0, 3] {
            cpu.faults(nth(area, page), Prot::R);
        }
        rig.audit();
    }

    /// D9.
    fn a_write_to_what_is_read_only_is_denied(format: impl Format) {
        let rig = Rig::new(format);
        let (low, rom) = (range(0, 8 * PAGE), range(8 * PAGE, 8 * PAGE));
        // By the region, and by the backing.
        rig.map_as(low, &rig.fixed(8), Attr::new(Prot::R | Prot::X));
        let backing = Audited::over(Contiguous::rom(rig.memory.fixed(8), 8).unwrap());
        rig.map(rom, &backing);
        let mut cpu = rig.cpu();
        for area in [low, rom] {
            for is_there in [false, true] {
                if is_there {
                    cpu.reads(nth(area, 3), 0);
                    cpu.fetch(nth(area, 3)).unwrap();
                }
                let have = Prot::R | Prot::X;
                for access in [Prot::W, Prot::RW, Prot::RWX] {
                    refused!(
                        cpu.vcpu.fault(at(nth(area, 3)), access),
                        FaultError::Denied { have: allowed, .. } if allowed == have
                    );
                }
                refused!(cpu.write(nth(area, 3), 1), FaultError::Denied { .. });
                refused!(cpu.vcpu.hold(at(nth(area, 3)), Prot::W), FaultError::Denied { .. });
            }
        }
        assert_eq!(rig.resident(), 2);
        rig.audit();
    }

    /// D9.
    fn a_fetch_of_what_is_no_code_is_denied(format: impl Format) {
        let rig = Rig::new(format);
        let (data, device) = (range(GIB, 2 * PAGE), range(GIB + 2 * PAGE, 2 * PAGE));
        rig.map_as(data, &rig.fixed(2), Attr::new(Prot::RW));
        let backing = Audited::over(Contiguous::device(rig.memory.fixed(2), 2).unwrap());
        rig.map(device, &backing);
        let mut cpu = rig.cpu();
        for area in [data, device] {
            for page in 0..2 {
                let gpa = nth(area, page);
                if page == 1 {
                    cpu.writes(gpa, 7);
                }
                refused!(cpu.fetch(gpa), FaultError::Denied { have: Prot::RW, .. });
                refused!(cpu.vcpu.fault(at(gpa), Prot::RWX), FaultError::Denied { .. });
                cpu.reads(gpa, if page == 1 { 7 } else { 0 });
            }
        }
        rig.audit();
    }

    fn a_spurious_fault_is_resolved_and_changes_nothing(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB - 2 * PAGE, 4 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 1), 5);
        let before = (rig.leaf(nth(area, 1)), backing.counts());
        for access in [Prot::empty(), Prot::R, Prot::W, Prot::X, Prot::RWX] {
            cpu.faults(nth(area, 1), access);
        }
        assert_eq!((rig.leaf(nth(area, 1)), backing.counts()), before);
        assert_eq!(rig.stats().spurious, 5);
        cpu.reads(nth(area, 1), 5);
        rig.audit();
    }

    /// D9.
    fn of_two_vcpus_at_once_both_are_resolved_and_one_page_is_resident(format: impl Format) {
        const PAGES: u64 = 200;
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(2 * MIB - 9 * PAGE, PAGES * PAGE);
        let barrier = &Barrier::new(2);
        thread::scope(|scope| {
            for thread in 0..2 {
                let mut cpu = rig.cpu();
                scope.spawn(move || {
                    for page in 0..PAGES {
                        barrier.wait();
                        let access = if thread == page % 2 { Prot::R } else { Prot::W };
                        cpu.faults(nth(area, page), access);
                        cpu.access(nth(area, page), WRITE, |memory, pfn| memory.add(pfn, 1))
                            .unwrap();
                        barrier.wait();
                    }
                });
            }
        });
        let mut cpu = rig.cpu();
        for page in 0..PAGES {
            cpu.reads(nth(area, page), 2);
        }
        let counts = backing.counts();
        assert_eq!((rig.resident(), counts.given), (PAGES, PAGES + counts.unused));
        // As two that race for a page of two.
        assert!(rig.stats().lost <= counts.unused);
        rig.audit();
    }

    /// D10.
    fn regions_of_all_kinds_have_the_rights_and_types_that_were_asked_for(format: impl Format) {
        let rig = Rig::new(format);
        let low = range(0, 160 * PAGE);
        let device = range(160 * PAGE, 32 * PAGE);
        let rom = range(192 * PAGE, 64 * PAGE);
        let fixed = rig.memory.fixed(64);
        let code = Prot::R | Prot::X;
        for through in ["faults", "prefault"] {
            let memory = rig.demand(160);
            rig.map(low, &memory);
            rig.map(rom, &Audited::over(Contiguous::rom(fixed, 64).unwrap()));
            rig.map(device, &Audited::over(Contiguous::device(fixed, 32).unwrap()));
            let kinds = [
                (low, Prot::RWX, MemType::WB),
                (device, Prot::RW, MemType::UC),
                (rom, code, MemType::WB),
            ];
            let infos = rig.regions();
            let told = infos.iter().map(|info| (info.range, info.attr.prot(), info.attr.mem_type()));
            assert!(told.eq(kinds));
            let cpu = rig.cpu();
            if through == "faults" {
                for (area, _, _) in kinds {
                    (0..area.pages()).for_each(|page| cpu.faults(nth(area, page), Prot::R));
                }
            } else {
                let all = range(0, 256 * PAGE);
                let go_on = |_| std::ops::ControlFlow::Continue(());
                assert_eq!(rig.prefault(all, go_on).unwrap(), 256);
            }
            for (area, prot, mem_type) in kinds {
                for page in 0..area.pages() {
                    let gpa = nth(area, page);
                    assert_eq!(rig.leaf(gpa).unwrap().attr.prot(), prot, "{through}: {gpa:#x}");
                    assert_eq!(type_at(&rig, gpa), mem_type, "{through}: {gpa:#x}");
                }
            }
            let mut cpu = rig.cpu();
            for (area, prot, _) in kinds {
                for (access, right) in [(READ, Prot::R), (WRITE, Prot::W), (FETCH, Prot::X)] {
                    let done = cpu.attempt(nth(area, 5), access, |_, pfn| pfn);
                    match done {
                        Ok(frame) => assert_eq!(frame, rig.frame(nth(area, 5))),
                        Err(fault) => assert_eq!(fault.cause(), Cause::Rights),
                    }
                    assert_eq!(done.is_ok(), prot.contains(right), "{area} {right:?}");
                }
            }
            assert_eq!(rig.resident(), 256);
            rig.audit();
            rig.clear();
        }
    }

    /// D11.
    fn the_resident_count_is_what_a_scan_counts(format: impl Format) {
        const PAGES: u64 = 640;
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB - 300 * PAGE, PAGES * PAGE);
        let (other, _) = rig.map_demand(3 * GIB, 16 * PAGE);
        for round in 0..4 {
            let barrier = &Barrier::new(3);
            thread::scope(|scope| {
                for thread in 0..2 {
                    let cpu = rig.cpu();
                    scope.spawn(move || {
                        barrier.wait();
                        for page in (0..PAGES).filter(|page| page % 3 != thread) {
                            cpu.vcpu.fault_and_wait(at(nth(area, page)), Prot::W).unwrap();
                        }
                    });
                }
                barrier.wait();
                for step in 0..8 {
                    rig.discard(part(area, step * 80, 7 + round)).unwrap();
                    rig.prefault(other, |_| std::ops::ControlFlow::Continue(())).unwrap();
                    rig.discard(part(other, step, 4)).unwrap();
                }
            });
            rig.audit();
        }
        rig.unmap(other);
        rig.audit();
        assert!(rig.resident() > 500);
        rig.unmap(area);
        assert_eq!(rig.resident(), 0);
    }

    fn a_frame_that_does_not_fit_is_refused_and_comes_back(format: impl Format) {
        let rig = Rig::new(format);
        // Beyond every processor's physical addresses.
        let frames = Audited::over(Contiguous::new(pfn(1 << 40), 4).unwrap());
        rig.map(range(GIB, 4 * PAGE), &frames);
        let cpu = rig.cpu();
        refused!(
            cpu.vcpu.fault(at(GIB), Prot::R),
            FaultError::Unencodable { source: EncodeError::BadFrame { .. }, .. }
        );
        assert_eq!((frames.counts().given, frames.counts().unused), (1, 1));
        rig.audit();
    }

    fn a_retry_and_a_refusal_are_counted(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 4 * PAGE);
        let cpu = rig.cpu();
        for (gpa, access) in [(GIB, Prot::R), (GIB, Prot::R), (GIB + PAGE, Prot::W)] {
            assert_eq!(cpu.vcpu.fault(at(gpa), access).unwrap(), Fault::Resolved);
        }
        refused!(cpu.vcpu.fault(at(0), Prot::R), FaultError::NoRegion { .. });
        let stats = rig.stats();
        assert_eq!((stats.faults, stats.spurious, stats.refused, stats.retries), (4, 1, 1, 0));
        assert_eq!((stats.regions, stats.pages, stats.resident, stats.fetches), (1, 4, 2, 0));
        assert_eq!(rig.region_at(at(GIB + 3 * PAGE)).unwrap().range, area);
        assert!(rig.region_at(at(GIB + 4 * PAGE)).is_none());
    }

    fn a_fault_that_lacks_a_frame_for_a_table_says_so_and_is_resolved_when_there_is_one(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * MIB);
        let large = PageSize::Size2M;
        let memory = OnDemand::new(Arc::clone(&rig.memory) as _, area.pages(), large);
        // The first two megabytes have small pages alone. The others are one page, until somebody writes there.
        let backing = Scripted::answering(memory, move |want, over| {
            let is_large = want.size == large;
            if is_large && (want.page < 512 || want.present.is_some()) {
                return Answer::Smaller;
            }
            match over.frame(want) {
                Answer::Frame(frame, _) if is_large => Answer::Frame(frame, Prot::R),
                other => other,
            }
        });
        rig.map(area, &backing);
        let mut cpu = rig.cpu();
        cpu.reads(nth(area, 600), 0);
        let before = dump(rig.table());
        let mut hoard = Vec::new();
        rig.frames().allocate(rig.free_tables(), Hint::new(at(GIB)), &mut hoard).unwrap();
        let fault = |page, access| cpu.vcpu.fault(at(nth(area, page)), access);
        for _ in 0..2 {
            refused!(
                fault(3, Prot::R),
                FaultError::Refine { source: RefineError::OutOfFrames(_), .. }
            );
            refused!(
                fault(600, Prot::W),
                FaultError::Split { source: SplitError::OutOfFrames(_), .. }
            );
        }
        assert!(dump(rig.table()) == before);
        for run in hoard {
            // SAFETY: they were allocated above, and nobody has written to them.
            unsafe { rig.frames().free(run, Content::Zero) };
        }
        assert_eq!(fault(3, Prot::R).unwrap(), Fault::Resolved);
        assert_eq!(fault(600, Prot::W).unwrap(), Fault::Resolved);
        rig.audit();
    }
}
