//! What a space does beside its regions: counters of each vCPU, tables that wait for vCPUs, and whom it leaves
//! alone.

#![cfg(not(any(loom, shuttle)))]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

use slat::{
    Attr, Contiguous, Ept, EptCaps, Fault, FaultError, Gpa, GpaRange, HeapFrames, HostPfn, Levels,
    ObserverId, PageTable, PhysWidth, Prot, Space, Tracking,
};

/// A table with so many frames.
fn table(frames: u64) -> PageTable<Ept, HeapFrames> {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    PageTable::new(ept, HeapFrames::new(frames)).unwrap()
}

/// Sixteen pages from `start` on.
fn range(start: u64) -> GpaRange {
    GpaRange::from_pages(Gpa::new(start), 16).unwrap()
}

fn map(space: &Space<Ept, HeapFrames>, range: GpaRange) {
    let memory = Contiguous::new(HostPfn::new(0x1000), range.pages()).unwrap();
    space.map_region(range, Arc::new(memory), 0, Attr::new(Prot::RWX)).unwrap();
}

#[test]
fn a_vcpu_counts_what_was_done_through_it_alone() {
    let space = Space::new(table(8), |_: ObserverId| ());
    map(&space, range(0));
    let first = space.vcpu();
    assert_eq!(first.fault(Gpa::new(0), Prot::W).unwrap(), Fault::Resolved);
    assert_eq!(first.fault(Gpa::new(0), Prot::W).unwrap(), Fault::Resolved);
    let nowhere = Gpa::new(0x10_0000);
    assert!(matches!(first.fault(nowhere, Prot::R), Err(FaultError::NoRegion { .. })));
    let stats = first.stats();
    assert_eq!((stats.faults, stats.mapped, stats.spurious, stats.refused), (3, 1, 1, 1));

    let other = space.vcpu();
    assert_eq!(other.fault(Gpa::new(0x1000), Prot::R).unwrap(), Fault::Resolved);
    assert_eq!((first.stats(), other.stats().faults), (stats, 1));

    drop(first);
    let next = space.vcpu();
    assert_eq!(next.stats().faults, 0, "what another did before is not its own");
    assert_eq!((space.stats().faults, space.resident()), (4, 2));
}

#[test]
fn a_region_is_given_rights_without_a_kick() {
    let kicks = Arc::new(Mutex::new(0));
    let count = Arc::clone(&kicks);
    let space = Space::new(table(8), move |_: ObserverId| *count.lock().unwrap() += 1);
    map(&space, range(0));
    space.protect_region(range(0), Prot::R).unwrap();
    let (entered, inside) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel();
    let mut vcpu = space.vcpu();
    vcpu.fault(Gpa::new(0), Prot::R).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _stay = vcpu.enter(Tracking::On);
            entered.send(()).unwrap();
            let _: Result<(), _> = may_leave.recv();
        });
        inside.recv().unwrap();
        // Who kicked would wait, and for ever.
        space.protect_region(range(0), Prot::RW).unwrap();
        leave.send(()).unwrap();
    });
    assert_eq!(*kicks.lock().unwrap(), 0);
    assert_eq!(space.vcpu().fault(Gpa::new(0), Prot::W).unwrap(), Fault::Resolved);
}

/// What the vCPU of a test is to do when it is inside.
enum Next {
    ComeOut,
    End,
}

/// The tables of a region that went are still walked by a vCPU that is inside; another region needs them.
#[test]
fn a_region_gets_the_tables_that_a_vcpu_inside_still_holds() {
    let (ask, asked) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let await_entry = Arc::new({
        let inside = Mutex::new(inside);
        move || inside.lock().unwrap().recv().unwrap()
    });
    // Whoever kicks returns when the vCPU has been out, and is inside again.
    let kick = {
        let (ask, await_entry) = (ask.clone(), Arc::clone(&await_entry));
        move |_: ObserverId| {
            ask.send(Next::ComeOut).unwrap();
            await_entry();
        }
    };
    // The root, and one table of each level below.
    let space = Space::new(table(4), kick);
    map(&space, range(0));
    let mut vcpu = space.vcpu();
    thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let stay = vcpu.enter(Tracking::On);
                let _ = stay.due();
                entered.send(()).unwrap();
                if matches!(asked.recv(), Ok(Next::End)) {
                    return;
                }
            }
        });
        await_entry();
        for start in [0, 1 << 39, 0, 1 << 39] {
            space.unmap_region(range(start)).unwrap();
            assert_eq!(space.stats().table.waiting, 3, "else the test shows nothing");
            map(&space, range(start ^ 1 << 39));
            assert_eq!(space.stats().table.waiting, 0);
        }
        ask.send(Next::End).unwrap();
    });
}
