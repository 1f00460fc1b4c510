//! Backings that fail, panic, or want to be waited for (D12).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use slat::{
    Answer, BackingError, Fault, FaultError, Format, OnDemand, OutOfMemory, PageSize, Prot, Want,
};

use crate::{
    common::{GIB, PAGE, SMALL, at, every_format, range},
    rig::{Audited, Gate, Rig, Scripted, go_on, nth, part, refused},
};

fn memory<F: Format>(rig: &Rig<F>, pages: u64) -> OnDemand {
    OnDemand::new(Arc::clone(&rig.memory) as _, pages, SMALL)
}

/// Memory of which page 2 waits for a test, again and again, until that says it is there.
fn slow<F: Format>(rig: &Rig<F>, gate: &Gate, there: &Arc<AtomicBool>) -> Arc<Audited> {
    let (gate, looked, comes) = (gate.clone(), Arc::clone(there), Arc::clone(there));
    Scripted::fetching(
        memory(rig, 8),
        move |want, over| {
            if want.page == 2 && want.present.is_none() && !looked.load(Ordering::SeqCst) {
                return Answer::Wait;
            }
            over.frame(want)
        },
        move |_, _| {
            gate.pass();
            comes.store(true, Ordering::SeqCst);
            Ok(())
        },
    )
}

every_format! {
    #![and_without_bits]
    fn a_leaf_gets_no_rights_that_cannot_be_told_the_mmu(format: impl Format) {
        let rig = Rig::new(format);
        let backing = Scripted::answering(memory(&rig, 1), |want, over| match over.frame(want) {
            Answer::Frame(frame, _) if want.access == Prot::W => Answer::Frame(frame, Prot::W),
            Answer::Frame(frame, _) => Answer::Frame(frame, Prot::R),
            other => other,
        });
        let area = range(GIB, PAGE);
        rig.map(area, &backing);
        let cpu = rig.cpu();
        refused!(cpu.vcpu.fault(at(GIB), Prot::W), FaultError::Unencodable { .. });
        cpu.faults(GIB, Prot::R);
        refused!(cpu.vcpu.fault(at(GIB), Prot::W), FaultError::Unencodable { .. });
        rig.audit();
    }

    fn a_backing_that_fails_is_the_faults_error_and_nothing_else(format: impl Format) {
        let rig = Rig::new(format);
        let fails = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&fails);
        let backing = Scripted::answering(memory(&rig, 8), move |want, over| {
            if want.page == 2 && told.load(Ordering::SeqCst) {
                return Answer::Failed(BackingError::new("the disk is gone"));
            }
            over.frame(want)
        });
        let area = range(GIB, 8 * PAGE);
        rig.map(area, &backing);
        let mut cpu = rig.cpu();
        for _ in 0..2 {
            let error = cpu.vcpu.fault(at(nth(area, 2)), Prot::R).unwrap_err();
            let FaultError::Backing { gpa, source } = error else { panic!("{error:?}") };
            assert_eq!((gpa, source.to_string().as_str()), (at(nth(area, 2)), "the disk is gone"));
            refused!(cpu.vcpu.fault_and_wait(at(nth(area, 2)), Prot::W), FaultError::Backing { .. });
            refused!(cpu.vcpu.hold(at(nth(area, 2)), Prot::W), FaultError::Backing { .. });
            assert!(rig.leaf(nth(area, 2)).is_none());
            for page in [0, 1, 3, 7] {
                cpu.writes(nth(area, page), page);
            }
            rig.audit();
        }
        let error = rig.prefault(area, go_on).unwrap_err();
        assert_eq!(error.done, 2);
        refused!(Err::<(), _>(error.source), FaultError::Backing { .. });
        fails.store(false, Ordering::SeqCst);
        cpu.reads(nth(area, 2), 0);
        assert_eq!(rig.prefault(area, go_on).unwrap(), 8);
        rig.audit();
    }

    fn a_pool_that_is_empty_fails_until_it_is_not(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        let others = rig.memory.leave(2);
        cpu.writes(nth(area, 0), 1);
        cpu.writes(nth(area, 5), 2);
        let error = cpu.vcpu.fault(at(nth(area, 3)), Prot::W).unwrap_err();
        let FaultError::Backing { source, .. } = error else { panic!("{error:?}") };
        let cause = source.get().downcast_ref::<OutOfMemory>().unwrap();
        assert_eq!(cause.page, 3);
        // A page that is given up is there for another.
        assert_eq!(rig.discard(part(area, 5, 1)), Ok(1));
        cpu.writes(nth(area, 3), 3);
        drop(others);
        cpu.reads(nth(area, 5), 0);
        cpu.reads(nth(area, 0), 1);
        rig.audit();
    }

    fn a_backing_that_panics_does_no_harm(format: impl Format) {
        let rig = Rig::new(format);
        let panics = Arc::new(AtomicU64::new(0));
        let (first, second) = (Arc::clone(&panics), Arc::clone(&panics));
        let there = Arc::new(AtomicBool::new(false));
        let (looked, comes) = (Arc::clone(&there), there);
        let backing = Scripted::fetching(
            memory(&rig, 8),
            move |want, over| {
                assert!(want.page != 1 || first.load(Ordering::SeqCst) != 0, "in `frame`, as told");
                if want.page == 2 && !looked.load(Ordering::SeqCst) {
                    return Answer::Wait;
                }
                over.frame(want)
            },
            move |_, _| {
                assert!(second.load(Ordering::SeqCst) == 2, "in `fetch`, as told");
                comes.store(true, Ordering::SeqCst);
                Ok(())
            },
        );
        let area = range(GIB, 8 * PAGE);
        rig.map(area, &backing);
        let mut cpu = rig.cpu();
        for (page, state) in [(1, 0), (2, 1)] {
            panics.store(state, Ordering::SeqCst);
            for _ in 0..3 {
                let gpa = at(nth(area, page));
                let faulted = catch_unwind(AssertUnwindSafe(|| cpu.vcpu.fault(gpa, Prot::W)));
                assert!(faulted.is_err());
                let waited = catch_unwind(AssertUnwindSafe(|| {
                    rig.prefault(part(area, page, 1), go_on)
                }));
                assert!(waited.is_err());
                let held = catch_unwind(AssertUnwindSafe(|| cpu.vcpu.hold(gpa, Prot::W)));
                assert!(held.is_err());
                // Others go on, and so does every change.
                cpu.writes(nth(area, 5), page);
                rig.cpu().reads(nth(area, 5), page);
                rig.discard(part(area, 4, 2)).unwrap();
                rig.audit();
            }
        }
        panics.store(2, Ordering::SeqCst);
        cpu.writes(nth(area, 1), 1);
        cpu.writes(nth(area, 2), 2);
        assert_eq!(rig.prefault(area, go_on).unwrap(), 8);
        cpu.reads(nth(area, 2), 2);
        rig.audit();
    }

    fn a_page_that_is_fetched_holds_up_only_who_needs_it(format: impl Format) {
        let rig = Rig::new(format);
        let (gate, there) = (Gate::new(), Arc::new(AtomicBool::new(false)));
        let area = range(GIB, 8 * PAGE);
        rig.map(area, &slow(&rig, &gate, &there));
        let wanted = at(nth(area, 2));
        thread::scope(|scope| {
            let first = rig.cpu();
            let first = scope.spawn(move || first.vcpu.fault(wanted, Prot::W).unwrap());
            gate.await_one();
            let mut cpu = rig.cpu();
            for _ in 0..3 {
                assert_eq!(cpu.vcpu.fault(wanted, Prot::R).unwrap(), Fault::Retry);
            }
            assert_eq!(rig.stats().retries, 3);
            for page in [0, 1, 3, 7] {
                cpu.writes(nth(area, page), page);
            }
            let waits = rig.cpu();
            let waits = scope.spawn(move || waits.vcpu.fault_and_wait(wanted, Prot::R));
            // Changes do not wait for it, either.
            rig.discard(area).unwrap();
            rig.protect_region(area, Prot::RW).unwrap();
            rig.resize_region(area, part(area, 0, 6)).unwrap();
            gate.open();
            assert_eq!(first.join().unwrap(), Fault::Resolved);
            waits.join().unwrap().unwrap();
        });
        assert_eq!((rig.stats().fetches, rig.resident()), (1, 1));
        rig.audit();
    }

    fn a_region_that_goes_while_a_page_is_fetched_is_not_waited_for(format: impl Format) {
        for way in ["unmapped", "replaced", "shrunk", "again"] {
            let rig = Rig::new(format);
            let (gate, there) = (Gate::new(), Arc::new(AtomicBool::new(false)));
            let area = range(GIB, 8 * PAGE);
            rig.map(area, &slow(&rig, &gate, &there));
            let wanted = at(nth(area, 2));
            thread::scope(|scope| {
                let first = rig.cpu();
                let first = scope.spawn(move || first.vcpu.fault(wanted, Prot::W));
                gate.await_one();
                match way {
                    "shrunk" => rig.resize_region(area, part(area, 0, 2)).unwrap(),
                    "replaced" => {
                        let next = rig.demand(8);
                        rig.replace_backing(area, rig.watch(&next), 0).unwrap();
                    }
                    _ => rig.unmap(area),
                }
                if way == "again" {
                    rig.map_demand(GIB, 8 * PAGE);
                    rig.cpu().writes(wanted.get(), 9);
                }
                gate.open();
                let came = first.join().unwrap();
                match way {
                    "unmapped" | "shrunk" => refused!(came, FaultError::NoRegion { .. }),
                    _ => assert_eq!(came.unwrap(), Fault::Resolved),
                }
            });
            rig.audit();
            if way == "again" {
                rig.cpu().reads(wanted.get(), 9);
            }
        }
    }

    fn who_waits_goes_on_when_a_fetch_fails(format: impl Format) {
        let rig = Rig::new(format);
        let gate = Gate::new();
        let (tries, at_gate) = (Arc::new(AtomicU64::new(0)), gate.clone());
        let counted = Arc::clone(&tries);
        let backing = Scripted::fetching(
            memory(&rig, 8),
            move |want, over| match (want.page, tries.load(Ordering::SeqCst)) {
                (2, ..2) => Answer::Wait,
                _ => over.frame(want),
            },
            move |_, _| {
                if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                    at_gate.pass();
                    return Err(BackingError::new("lost on the wire"));
                }
                Ok(())
            },
        );
        let area = range(GIB, 8 * PAGE);
        rig.map(area, &backing);
        let wanted = at(nth(area, 2));
        thread::scope(|scope| {
            let first = rig.cpu();
            let first = scope.spawn(move || first.vcpu.fault(wanted, Prot::W));
            gate.await_one();
            let waits = rig.cpu();
            let waits = scope.spawn(move || waits.vcpu.fault_and_wait(wanted, Prot::R));
            gate.open();
            refused!(first.join().unwrap(), FaultError::Backing { .. });
            // It asks for itself.
            waits.join().unwrap().unwrap();
        });
        rig.audit();
    }

    fn answers_that_make_no_sense_are_errors(format: impl Format) {
        let rig = Rig::new(format);
        let spare = rig.memory.fixed(1);
        let backing = Scripted::answering(memory(&rig, 8), move |want, over| match want.page {
            // There is nothing smaller.
            0 => Answer::Smaller,
            // Another frame, of a page that is there.
            1 if want.present.is_some() => Answer::Frame(spare, Prot::all()),
            // Nothing is allowed, or nothing that can be said.
            2 => Answer::Frame(spare, Prot::empty()),
            3 => Answer::Frame(spare, Prot::W),
            // It came, and is gone again, always.
            4 => Answer::Wait,
            _ if want.present.is_some() => over.frame(want),
            1 => match over.frame(want) {
                Answer::Frame(frame, _) => Answer::Frame(frame, Prot::R),
                other => other,
            },
            _ => over.frame(want),
        });
        let backing = Scripted::answering(ReleasesOwn(backing, spare), |want, over| over.frame(want));
        let area = range(GIB, 8 * PAGE);
        rig.map(area, &backing);
        let cpu = rig.cpu();
        let fault = |page, access| cpu.vcpu.fault(at(nth(area, page)), access);
        refused!(fault(0, Prot::R), FaultError::Backing { .. });
        assert_eq!(fault(1, Prot::R).unwrap(), Fault::Resolved);
        refused!(fault(1, Prot::W), FaultError::Backing { .. });
        refused!(fault(2, Prot::R), FaultError::Denied { .. });
        refused!(fault(2, Prot::empty()), FaultError::Unencodable { .. });
        refused!(fault(3, Prot::W), FaultError::Unencodable { .. });
        refused!(fault(3, Prot::R), FaultError::Denied { have: Prot::W, .. });
        assert_eq!(fault(4, Prot::R).unwrap(), Fault::Retry);
        assert_eq!(fault(5, Prot::W).unwrap(), Fault::Resolved);
        assert_eq!(rig.resident(), 2);
        rig.audit();
    }
}

/// Gives back to the pool only what came from there.
#[derive(Debug)]
struct ReleasesOwn(Arc<Audited>, slat::HostPfn);

impl slat::Backing for ReleasesOwn {
    fn pages(&self) -> u64 {
        self.0.pages()
    }

    fn largest(&self, _page: u64, _gpa: slat::Gpa) -> PageSize {
        SMALL
    }

    fn frame(&self, want: &Want) -> Answer {
        self.0.frame(want)
    }

    fn release(&self, released: slat::Released) {
        if released.frame != self.1 {
            self.0.release(released);
        }
    }
}
