//! In the middle of a change: when what is to go is unmapped, and vCPUs know it still.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use slat::{
    Answer, Attr, Backing, BackingError, Contiguous, CopyOnWrite, DiscardError, Due, Fault, Format,
    HostPfn, OnDemand, PageSize, Prot, Tracking, Want,
};

use crate::{
    common::{GIB, Hostage, MIB, PAGE, RWX, SMALL, at, every_format, range},
    rig::{Audited, Gate, Rig, Scripted, nth, part, refused},
};

/// Does `work` beside a vCPU that is inside, comes out when it is kicked, and enters again.
fn beside_a_vcpu<F: Format>(rig: &Rig<F>, work: impl FnOnce()) {
    struct Over<'o>(&'o AtomicBool);

    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let (gate, over) = (Gate::new(), &AtomicBool::new(false));
    let at_gate = gate.clone();
    thread::scope(|scope| {
        let mut vcpu = rig.vcpu();
        let kicked = rig.kicks.enlist(vcpu.id());
        scope.spawn(move || {
            let mut is_first = true;
            while !over.load(Ordering::SeqCst) {
                let inside = vcpu.enter(Tracking::Off);
                if is_first {
                    is_first = false;
                    at_gate.pass();
                }
                while !kicked.load(Ordering::SeqCst) && !over.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                drop(inside);
                kicked.swap(false, Ordering::SeqCst);
            }
        });
        gate.await_one();
        gate.open();
        let over = Over(over);
        work();
        drop(over);
    });
}

/// A copy of 8 pages, with 100 and more in them, and the frames of its base.
fn copied<F: Format>(rig: &Rig<F>) -> (Arc<Audited>, HostPfn) {
    let shared = rig.memory.fixed(8);
    (0..8).for_each(|page| rig.memory.write(shared.checked_add(page).unwrap(), 100 + page));
    let base = Arc::new(Contiguous::new(shared, 8).unwrap());
    (Audited::over(CopyOnWrite::new(base, Arc::clone(&rig.memory) as _)), shared)
}

every_format! {
    #![and_without_bits]
    fn faults_in_what_is_being_replaced_are_to_be_tried_again_and_others_are_resolved(format: impl Format) {
        for way in ["replace", "discard"] {
            let rig = Rig::new(format);
            let (area, _) = rig.map_demand(GIB, 8 * PAGE);
            let (other, _) = rig.map_demand(GIB + 8 * PAGE, 8 * PAGE);
            let mut cpu = rig.cpu();
            (0..4).for_each(|page| cpu.writes(nth(area, page), page + 1));
            let seen = Arc::new(Mutex::new(Vec::new()));
            beside_a_vcpu(&rig, || {
                let (vcpu, told) = (rig.vcpu(), Arc::clone(&seen));
                rig.kicks.once(move || {
                    let gpas = [(area, 0), (area, 7), (other, 0)].map(|(area, page)| nth(area, page));
                    let faults = gpas.map(|gpa| vcpu.fault(at(gpa), Prot::W).unwrap());
                    told.lock().unwrap().extend(faults);
                });
                match way {
                    "discard" => assert_eq!(rig.discard(area), Ok(4)),
                    _ => rig.replace_backing(area, rig.watch(&rig.demand(8)), 0).unwrap(),
                }
            });
            let seen = seen.lock().unwrap().clone();
            assert_eq!(seen, [Fault::Retry, Fault::Retry, Fault::Resolved], "{way}");
            (0..8).for_each(|page| cpu.reads(nth(area, page), 0));
            rig.audit();
        }
    }

    fn a_fault_nearby_does_not_bring_back_what_is_given_up(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let (view, _) = copied(&rig);
        rig.map(area, &view);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 2), 7);
        beside_a_vcpu(&rig, || {
            let mut vcpu = rig.vcpu();
            vcpu.set_fault_around(8).unwrap();
            let next = at(nth(area, 3));
            rig.kicks.once(move || assert_eq!(vcpu.fault(next, Prot::R).unwrap(), Fault::Resolved));
            assert_eq!(rig.discard(part(area, 2, 1)), Ok(1));
        });
        assert!(rig.leaf(nth(area, 3)).is_some());
        cpu.reads(nth(area, 2), 102);
        rig.audit();
    }

    fn a_large_leaf_nearby_does_not_cover_what_is_given_up(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        let rig = Rig::new(format);
        let area = range(4 * MIB, 2 * MIB);
        rig.map(area, &rig.demand_up_to(512, PageSize::Size2M));
        beside_a_vcpu(&rig, || {
            let vcpu = rig.vcpu();
            let far = at(nth(area, 300));
            rig.kicks.once(move || assert_eq!(vcpu.fault(far, Prot::R).unwrap(), Fault::Retry));
            assert_eq!(rig.discard(part(area, 2, 1)), Ok(0));
        });
        assert_eq!(rig.resident(), 0);
        rig.cpu().faults(nth(area, 300), Prot::R);
        assert_eq!(rig.resident(), 512);
        rig.audit();
    }

    fn no_table_to_split_what_a_late_fault_mapped_is_an_error(format: impl Format) {
        if !format.supports(PageSize::Size2M) {
            return;
        }
        let rig = Rig::new(format);
        let area = range(4 * MIB, 2 * MIB);
        let gate = Gate::new();
        let (at_gate, waits) = (gate.clone(), Arc::new(AtomicBool::new(true)));
        let memory = OnDemand::new(Arc::clone(&rig.memory) as _, 512, PageSize::Size2M);
        let backing = Scripted::answering(memory, move |want: &Want, over| {
            if want.access == Prot::X {
                // Who only looks.
                return Answer::Failed(BackingError::new("not yet"));
            }
            if waits.swap(false, Ordering::SeqCst) {
                at_gate.pass();
            }
            over.frame(want)
        });
        rig.map(area, &backing);
        let all = Hostage::leaving(&**rig.frames(), 0);
        thread::scope(|scope| {
            let late = rig.cpu();
            let late = scope.spawn(move || late.vcpu.fault(at(nth(area, 300)), Prot::W));
            // It has seen the space as it was, and has not mapped its leaf.
            gate.await_one();
            let discard = scope.spawn(|| rig.discard(part(area, 2, 1)));
            let looks = rig.cpu();
            // Until the range is closed.
            while looks.vcpu.fault(at(nth(area, 2)), Prot::X).is_err() {
                thread::yield_now();
            }
            gate.open();
            assert_eq!(late.join().unwrap().unwrap(), Fault::Resolved);
            refused!(discard.join().unwrap(), DiscardError::CutsLarge(_));
        });
        // Nothing has changed, and nothing is closed.
        assert_eq!(rig.resident(), 512);
        rig.cpu().reads(nth(area, 2), 0);
        drop(all);
        assert_eq!(rig.discard(part(area, 2, 1)), Ok(1));
        rig.audit();
    }

    fn no_frame_comes_back_while_a_pin_reaches_it(format: impl Format) {
        let rig = Rig::new(format);
        // Unmapped in two steps.
        let area = range(GIB - PAGE, 2 * PAGE);
        let (area, _) = rig.map_demand(area.start().get(), 2 * PAGE);
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 0), 1);
        cpu.writes(nth(area, 1), 2);
        let over = Arc::new(AtomicBool::new(false));
        let (gate, is_over) = (Gate::new(), Arc::clone(&over));
        thread::scope(|scope| {
            let (at_gate, memory, reader) = (gate.clone(), &rig.memory, rig.table().reader());
            scope.spawn(move || {
                // Until the first step is done.
                at_gate.pass();
                let pin = reader.pin();
                let leaf = pin.lookup(at(nth(area, 1))).unwrap();
                at_gate.pass();
                for _ in 0..2000 {
                    assert_eq!(memory.read(leaf.pfn), 2);
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    thread::yield_now();
                }
            });
            beside_a_vcpu(&rig, || {
                let gate = gate.clone();
                rig.kicks.once(move || {
                    for _ in 0..2 {
                        gate.await_one();
                        gate.open();
                    }
                });
                assert_eq!(rig.discard(area), Ok(2));
                over.store(true, Ordering::SeqCst);
            });
        });
        rig.audit();
    }

    fn caches_forget_just_what_changed(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let (other, _) = rig.map_demand(4 * GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        (0..8).for_each(|page| cpu.writes(nth(area, page), page));
        let mut vcpu = rig.vcpu();
        assert_eq!(*vcpu.enter(Tracking::Off).due(), Due::All);
        for step in 0..4 {
            match step {
                0 => drop(rig.discard(part(area, 2, 2)).unwrap()),
                1 => rig.protect_region(area, Prot::R).unwrap(),
                2 => rig.replace_backing(area, rig.watch(&rig.demand(8)), 0).unwrap(),
                _ => rig.unmap(area),
            }
            let inside = vcpu.enter(Tracking::Off);
            match inside.due() {
                Due::Ranges(ranges) => {
                    let apart = |stale: &slat::Stale| !stale.range.overlaps(other);
                    assert!(ranges.iter().all(apart), "step {step}: {ranges:?}");
                }
                due => panic!("step {step}: {due:?}"),
            }
        }
        rig.audit();
    }

    fn a_written_page_that_moves_to_another_frame_is_reported(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        // At the first fetch of code each page moves, with what is in it.
        let first = rig.memory.fixed(8);
        let moved = Arc::new(AtomicBool::new(false));
        let (looks, moves, memory) = (Arc::clone(&moved), Arc::clone(&moved), Arc::clone(&rig.memory));
        let place = move |page: u64, is_moved| first.checked_add(page + if is_moved { 4 } else { 0 });
        let backing = Scripted::fetching(
            Contiguous::new(first, 4).unwrap(),
            move |want, _| {
                let is_moved = looks.load(Ordering::SeqCst);
                if want.access.contains(Prot::X) && !is_moved {
                    return Answer::Wait;
                }
                Answer::Frame(place(want.page, is_moved).unwrap(), Prot::all())
            },
            move |want, _| {
                let word = memory.read(want.present.unwrap());
                memory.write(place(want.page, true).unwrap(), word);
                moves.store(true, Ordering::SeqCst);
                Ok(())
            },
        );
        rig.map_as(area, &backing, Attr::new(Prot::RWX));
        let mut cpu = rig.cpu();
        cpu.writes(nth(area, 1), 5);
        rig.track();
        cpu.writes(nth(area, 1), 6);
        rig.protect_region(area, Prot::RW).unwrap();
        rig.protect_region(area, Prot::RWX).unwrap();
        assert_eq!(cpu.fetch(nth(area, 1)).unwrap(), 6);
        assert!(moved.load(Ordering::SeqCst));
        assert_eq!(rig.look(area), [nth(area, 1)]);
        // Where software keeps the dirty bits the new leaf counted as written, too; no more than once.
        assert!(rig.look(area).is_empty());
        rig.audit();
    }

    fn a_base_that_is_being_copied_never_becomes_writable(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 8 * PAGE);
        let shared = rig.memory.fixed(8);
        let base = Arc::new(Contiguous::new(shared, 8).unwrap());
        let view = Arc::new(CopyOnWrite::new(base, Arc::clone(&rig.memory) as _));
        rig.map_region(area, Arc::clone(&view) as Arc<dyn Backing>, 0, RWX).unwrap();
        let mut cpu = rig.cpu();
        cpu.reads(nth(area, 1), 0);
        // Somebody was told to wait, and did not fetch yet.
        assert!(matches!(view.frame(&Want::new(1, SMALL, Prot::W)), Answer::Wait));
        if rig.protect_region(area, Prot::X).is_ok() {
            rig.protect_region(area, Prot::RW).unwrap();
        }
        let have = rig.leaf(nth(area, 1)).map(|leaf| leaf.attr.prot());
        assert!(!have.is_some_and(|have| have.contains(Prot::W)), "{have:?}");
        rig.protect_region(area, Prot::RW).unwrap();
        cpu.writes(nth(area, 1), 9);
        assert_eq!(rig.memory.read(shared.checked_add(1).unwrap()), 0);
        cpu.reads(nth(area, 1), 9);
    }

    fn all_comes_back_when_the_space_is_dropped(format: impl Format) {
        let mut rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB, 8 * PAGE);
        let other = range(2 * GIB, 8 * PAGE);
        let (view, _) = copied(&rig);
        rig.map(other, &view);
        let mut cpu = rig.cpu();
        (0..5).for_each(|page| cpu.writes(nth(area, page), page));
        (0..3).for_each(|page| cpu.writes(nth(other, page), page));
        cpu.reads(nth(other, 5), 105);
        cpu.vcpu.hold(at(nth(area, 1)), Prot::W).unwrap().defer_written();
        let clone = (*rig).clone();
        let hold = cpu.vcpu.hold(at(nth(area, 2)), Prot::W).unwrap();
        let table = clone.table().clone();
        drop(clone);
        drop(cpu);
        rig.drop_space();
        // A hold keeps it.
        assert_eq!(rig.memory.read(hold.frame()), 2);
        drop(hold);
        backing.check();
        view.check();
        assert_eq!(rig.memory.free(), crate::rig::DATA);
        assert!(table.pin().lookup(at(nth(area, 1))).is_none());
    }
}
