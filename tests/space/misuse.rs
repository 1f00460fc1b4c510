//! What callers should not do: it is an error, and harms nobody.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use slat::{
    Answer, Backing, Bitmap, Contiguous, DirtyError, DiscardError, Fault, FaultError, Format,
    GpaRange, MapRegionError, OnDemand, PageSize, PageTable, Prot, ProtectRegionError, Released,
    ReplaceBackingError, ResizeRegionError, TrackError, Tracking, UnmapRegionError, VacateError,
};

use crate::{
    common::{GIB, MIB, PAGE, RWX, SMALL, at, dump, every_format, pfn, range},
    rig::{Audited, Frames, Gate, Rig, Scripted, go_on, nth, part, refused},
};

/// Memory for `area` that somebody does something to the table for, when the first frame is asked for.
fn meanwhile<F: Format>(
    rig: &Rig<F>,
    area: GpaRange,
    somebody: impl Fn(&PageTable<F, Frames>) + Send + Sync + 'static,
) -> Arc<Audited> {
    let memory = OnDemand::new(Arc::clone(&rig.memory) as _, area.pages(), PageSize::Size2M);
    let table = Mutex::new(Some(rig.table().clone()));
    Scripted::answering(memory, move |want, over| {
        let answer = over.frame(want);
        if let Some(table) = table.lock().unwrap().take() {
            somebody(&table);
        }
        answer
    })
}

every_format! {
    #![and_without_bits]
    fn changes_from_inside_an_observer_are_refused_and_change_nothing(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(GIB, 5);
        rig.track();
        let before = dump(rig.table());
        let mut other = rig.vcpu();
        let inside = other.enter(Tracking::On);
        let id = inside.id();
        let next: Arc<dyn Backing> = rig.watch(&rig.demand(8));
        let free = range(2 * GIB, 8 * PAGE);
        let mapped = rig.map_region(free, Arc::clone(&next), 0, RWX);
        refused!(mapped, MapRegionError::InsideGuest(by) if by.observer == id);
        refused!(rig.unmap_region(area), UnmapRegionError::InsideGuest(by) if by.observer == id);
        refused!(rig.protect_region(area, Prot::R), ProtectRegionError::InsideGuest(_));
        refused!(rig.replace_backing(area, next, 0), ReplaceBackingError::InsideGuest(_));
        refused!(rig.resize_region(area, part(area, 0, 4)), ResizeRegionError::InsideGuest(_));
        refused!(rig.discard(area), DiscardError::InsideGuest(_));
        refused!(rig.track_dirty(Tracking::Off), TrackError::InsideGuest(_));
        let mut found = Bitmap::new(area);
        refused!(rig.dirty(area, &mut found), DirtyError::InsideGuest(_));
        assert!(dump(rig.table()) == before && found.is_empty());
        assert_eq!(rig.regions().len(), 1);
        // A look is no change.
        assert_eq!((rig.resident(), rig.stats().regions), (1, 1));
        drop(inside);
        assert!(rig.look(area).is_empty());
        cpu.reads(GIB, 5);
        rig.audit();
    }

    fn a_fault_whose_room_is_made_smaller_meanwhile_gives_the_large_frame_back(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 2 * MIB);
        let backing = meanwhile(&rig, area, move |table| {
            table.refine(area, SMALL).unwrap();
        });
        rig.map(area, &backing);
        assert_eq!(rig.cpu().vcpu.fault(at(nth(area, 3)), Prot::W).unwrap(), Fault::Resolved);
        assert_eq!(rig.resident(), 1);
        assert_eq!((backing.counts().given, backing.counts().unused), (513, 512));
        rig.audit();
    }

    fn a_fault_whose_tables_somebody_takes_away_meanwhile_gives_its_frame_back(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 2 * MIB);
        let backing = meanwhile(&rig, area, move |table| {
            table.vacate(area).unwrap();
        });
        rig.map(area, &backing);
        let cpu = rig.cpu();
        for _ in 0..2 {
            refused!(cpu.vcpu.fault(at(nth(area, 3)), Prot::W), FaultError::NotPopulated { .. });
        }
        assert_eq!((rig.resident(), backing.counts().given), (0, 512));
        rig.audit();
        // The region goes as well, and says that its tables are gone.
        refused!(
            rig.unmap_region(area),
            UnmapRegionError::Table(VacateError::NotPopulated { .. })
        );
        assert!(rig.regions().is_empty());
    }

    fn a_fault_from_inside_an_observer_that_would_have_to_wait_is_refused(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let gate = Gate::new();
        let (there, memory) = (Arc::new(AtomicBool::new(false)), rig.memory.fixed(8));
        let (looks, comes, at_gate) = (Arc::clone(&there), there, gate.clone());
        let backing = Scripted::fetching(
            Contiguous::new(memory, 8).unwrap(),
            move |want, over| match want.page {
                2 if !looks.load(Ordering::SeqCst) => Answer::Wait,
                _ => over.frame(want),
            },
            move |_, _| {
                at_gate.pass();
                comes.store(true, Ordering::SeqCst);
                Ok(())
            },
        );
        rig.map(area, &backing);
        let wanted = at(nth(area, 2));
        let cpu = rig.cpu();
        let mut other = rig.vcpu();
        let inside = other.enter(Tracking::Off);
        // It would have to fetch.
        refused!(cpu.vcpu.fault(wanted, Prot::R), FaultError::InsideGuest(_));
        refused!(cpu.vcpu.fault_and_wait(wanted, Prot::R), FaultError::InsideGuest(_));
        thread::scope(|scope| {
            let first = rig.cpu();
            let first = scope.spawn(move || first.vcpu.fault(wanted, Prot::W).unwrap());
            gate.await_one();
            // It would have to wait for who fetches, who may be waiting for it.
            assert_eq!(cpu.vcpu.fault(wanted, Prot::R).unwrap(), Fault::Retry);
            refused!(cpu.vcpu.fault_and_wait(wanted, Prot::R), FaultError::InsideGuest(_));
            refused!(cpu.vcpu.hold(wanted, Prot::R), FaultError::InsideGuest(_));
            gate.open();
            assert_eq!(first.join().unwrap(), Fault::Resolved);
        });
        assert_eq!(cpu.vcpu.fault(wanted, Prot::R).unwrap(), Fault::Resolved);
        drop(inside);
        rig.audit();
    }

    fn a_kick_that_panics_leaves_a_space_that_works(format: impl Format) {
        for way in ["discard", "replace", "protect", "track", "dirty", "shrink", "unmap"] {
            let rig = Rig::new(format);
            let area = range(GIB, 8 * PAGE);
            // Frames that are lost are no loss to this one.
            let backing = || -> Arc<dyn Backing> {
                Arc::new(Contiguous::new(rig.memory.fixed(8), 8).unwrap())
            };
            rig.map_region(area, backing(), 0, RWX).unwrap();
            let mut cpu = rig.cpu();
            (0..8).for_each(|page| cpu.writes(nth(area, page), page));
            if way == "dirty" {
                rig.track();
                cpu.writes(nth(area, 1), 1);
            }
            let mut found = Bitmap::new(area);
            while_inside(&rig, || {
                rig.kicks.once(|| panic!("as told"));
                let done = catch_unwind(AssertUnwindSafe(|| match way {
                    "discard" => drop(rig.discard(part(area, 2, 2)).unwrap()),
                    "replace" => rig.replace_backing(area, backing(), 0).unwrap(),
                    "protect" => rig.protect_region(area, Prot::R).unwrap(),
                    "track" => rig.track_dirty(Tracking::On).unwrap(),
                    "dirty" => drop(rig.dirty(area, &mut found).unwrap()),
                    "shrink" => rig.resize_region(area, part(area, 0, 4)).unwrap(),
                    _ => rig.unmap_region(area).unwrap(),
                }));
                assert!(done.is_err(), "{way}");
            });
            // No fault is told to try again for ever, and every change can be made.
            let last = rig.regions().last().map(|region| region.range);
            for page in 0..last.map_or(0, GpaRange::pages) {
                let faulted = cpu.vcpu.fault(at(nth(area, page)), Prot::R).unwrap();
                assert_eq!(faulted, Fault::Resolved, "{way}: page {page}");
                cpu.reads(nth(area, page), page);
            }
            rig.track_dirty(Tracking::On).unwrap();
            rig.track_dirty(Tracking::Off).unwrap();
            if let Some(last) = last {
                rig.protect_region(last, Prot::RWX).unwrap();
                assert_eq!(rig.discard(last), Ok(last.pages()));
                rig.replace_backing(last, backing(), 0).unwrap();
                cpu.writes(nth(area, 1), 1);
                rig.unmap(last);
            }
            rig.map_region(range(3 * GIB, 8 * PAGE), backing(), 0, RWX).unwrap();
            cpu.writes(3 * GIB, 1);
        }
    }

    fn a_pool_gets_back_what_somebody_else_mapped_in_its_region(format: impl Format) {
        // The space cannot tell whose a leaf is: it is for who does this to see that the pool takes it.
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let memory = Arc::new(OnDemand::new(Arc::clone(&rig.memory) as _, 8, SMALL));
        rig.map_region(area, memory, 0, RWX).unwrap();
        rig.cpu().writes(nth(area, 1), 1);
        let theirs = slat::FramePool::take(&*rig.memory, SMALL).unwrap();
        rig.table().pin().map(at(nth(area, 2)), theirs, SMALL, RWX).unwrap();
        assert_eq!(rig.memory.free(), crate::rig::DATA - 2);
        // It was not counted as resident, and nothing is below zero.
        assert_eq!(rig.resident(), 1);
        rig.unmap(area);
        assert_eq!((rig.resident(), rig.memory.free()), (0, crate::rig::DATA));
    }

    fn a_page_that_somebody_mapped_by_hand_does_no_harm(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let backing = Audited::over(Contiguous::new(rig.memory.fixed(8), 8).unwrap());
        // Of this one every frame may come back: it gives none that anybody else has.
        let forgiving: Arc<dyn Backing> = Arc::new(Contiguous::new(pfn(0x7000), 8).unwrap());
        rig.map_region(area, forgiving, 0, RWX).unwrap();
        let theirs = |page: u64| {
            let frame = rig.memory.fixed(8).checked_add(page).unwrap();
            rig.table().pin().map(at(nth(area, page)), frame, SMALL, RWX).unwrap();
        };
        theirs(3);
        rig.memory.write(rig.memory.fixed(8).checked_add(3).unwrap(), 33);
        let mut cpu = rig.cpu();
        cpu.reads(nth(area, 3), 33);
        assert_eq!(rig.prefault(area, go_on).unwrap(), 8);
        rig.protect_region(area, Prot::R).unwrap();
        rig.protect_region(area, Prot::RWX).unwrap();
        let other = cpu.vcpu.fault(at(nth(area, 3)), Prot::W);
        refused!(other, FaultError::Backing { .. });
        rig.discard(part(area, 3, 1)).unwrap();
        theirs(3);
        rig.track();
        rig.resize_region(area, part(area, 0, 2)).unwrap();
        theirs_is_gone(&rig, nth(area, 3));
        rig.unmap(part(area, 0, 2));
        // What they take away comes back when it is needed.
        rig.map(area, &backing);
        cpu.writes(nth(area, 1), 1);
        let (leaf, flush) = rig.table().pin().unmap(at(nth(area, 1))).unwrap();
        flush.shootdown().wait(&|_| ()).unwrap();
        backing.release(Released::unmapped(1, &leaf));
        cpu.reads(nth(area, 1), 1);
        rig.unmap(area);
        backing.check();
    }

    fn a_region_that_somebody_vacated_is_an_error(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 1), 1);
        rig.table().vacate(part(area, 4, 2)).unwrap();
        for page in [4, 5] {
            let gpa = at(nth(area, page));
            refused!(cpu.vcpu.fault(gpa, Prot::W), FaultError::NotPopulated { gpa: there } if there == gpa);
            refused!(cpu.vcpu.hold(gpa, Prot::R), FaultError::NotPopulated { .. });
        }
        let error = rig.prefault(area, go_on).unwrap_err();
        assert_eq!(error.done, 4);
        cpu.vcpu.set_fault_around(8).unwrap();
        cpu.writes(nth(area, 7), 7);
        assert_eq!(rig.discard(part(area, 3, 3)), Ok(1));
        rig.track();
        rig.protect_region(area, Prot::R).unwrap();
        let shrunk = rig.resize_region(area, part(area, 0, 5));
        assert!(matches!(
            shrunk,
            Err(ResizeRegionError::CutsRoom(_) | ResizeRegionError::Vacate(_))
        ), "{shrunk:?}");
        let now = rig.regions()[0].range;
        refused!(
            rig.unmap_region(now),
            UnmapRegionError::Table(VacateError::NotPopulated { .. })
        );
        assert!(rig.regions().is_empty());
        backing.check();
        refused!(
            rig.map_region(now, rig.watch(&rig.demand(8)), 0, RWX),
            MapRegionError::Table(_)
        );
    }

    fn a_leaf_that_somebody_collapsed_across_two_regions_is_split(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        for way in ["fault", "unmap", "discard", "protect", "replace", "shrink", "track", "hold"] {
            let rig = Rig::new(format);
            let all = range(4 * MIB, 2 * MIB);
            let (left, right) = (part(all, 0, 200), part(all, 200, 312));
            let backing = Audited::over(Contiguous::new(rig.memory.fixed(512), 512).unwrap());
            rig.map(left, &backing);
            let offset = 200 * PAGE;
            rig.map_region(right, rig.watch(&backing), offset, RWX).unwrap();
            let mut cpu = rig.cpu();
            rig.prefault(all, go_on).unwrap();
            for page in [0, 199, 200, 511] {
                cpu.writes(nth(all, page), page + 1);
            }
            if way == "fault" {
                rig.protect_region(left, Prot::R).unwrap();
                rig.protect_region(right, Prot::R).unwrap();
            }
            let kicks = Arc::clone(&rig.kicks);
            rig.table().collapse(all.start(), PageSize::Size2M, &|id| kicks.kick(id)).unwrap();
            assert_eq!(rig.leaf(nth(all, 0)).unwrap().size, PageSize::Size2M);
            assert_eq!(rig.resident(), 512);
            match way {
                "fault" => {
                    rig.protect_region(left, Prot::RW).unwrap();
                    rig.table().collapse(all.start(), PageSize::Size2M, &|id| kicks.kick(id)).unwrap();
                    cpu.reads(nth(all, 511), 512);
                    cpu.writes(nth(all, 100), 1);
                    refused!(cpu.write(nth(all, 300), 1), FaultError::Denied { .. });
                    rig.table().pin().protect(all, Prot::R).unwrap().1.shootdown().wait(&|_| ()).unwrap();
                    rig.protect_region(right, Prot::RW).unwrap();
                    let _ = rig.table().collapse(all.start(), PageSize::Size2M, &|id| kicks.kick(id));
                    cpu.writes(nth(all, 300), 1);
                }
                "unmap" => rig.unmap(right),
                "discard" => assert_eq!(rig.discard(part(all, 190, 20)), Ok(20)),
                "protect" => rig.protect_region(right, Prot::R).unwrap(),
                "replace" => {
                    let next = rig.watch(&rig.demand(512));
                    rig.replace_backing(left, next, 0).unwrap();
                }
                "shrink" => rig.resize_region(right, part(right, 0, 1)).unwrap(),
                "track" => {
                    rig.track();
                    cpu.writes(nth(all, 3), 4);
                    assert_eq!(rig.look(all), [nth(all, 3)]);
                }
                _ => {
                    let hold = cpu.vcpu.hold(at(nth(all, 511)), Prot::RW).unwrap();
                    assert_eq!(hold.frame(), rig.frame(nth(all, 511)));
                    rig.unmap(right);
                    drop(hold);
                }
            }
            match way {
                "replace" => cpu.reads(nth(all, 0), 0),
                _ => cpu.reads(nth(all, 0), 1),
            }
            if !["unmap", "hold"].contains(&way) {
                let gone = way == "discard";
                cpu.reads(nth(all, 200), 201);
                assert!(gone || rig.resident() > 0);
            }
            rig.audit();
        }
    }
}

/// Does `work` while a vCPU is inside on another thread, which comes out when it is kicked in the end.
fn while_inside<F: Format>(rig: &Rig<F>, work: impl FnOnce()) {
    let gate = Gate::new();
    let (at_gate, over) = (gate.clone(), &AtomicBool::new(false));
    thread::scope(|scope| {
        let mut vcpu = rig.vcpu();
        scope.spawn(move || {
            let inside = vcpu.enter(Tracking::Off);
            at_gate.pass();
            while !over.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            drop(inside);
        });
        gate.await_one();
        gate.open();
        let done = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

#[track_caller]
fn theirs_is_gone<F: Format>(rig: &Rig<F>, gpa: u64) {
    assert!(rig.leaf(gpa).is_none());
    refused!(rig.vcpu().fault(at(gpa), Prot::R), FaultError::NoRegion { .. });
}
