//! Faults, what operations do, and kicks.

use std::{
    iter,
    sync::{Arc, Barrier},
    thread,
};

use slat::{
    AnyFormat, ArenaOptions, Attr, Ept, EptCaps, Gpa, HostPfn, Kick, LeafFlags, Levels, LongMode,
    ObserverId, PAGE_BYTES, PageTable, PhysWidth, Prot, Space,
};

use super::rig::{BASE, add, gpa, load, with_guest, with_host};
use crate::{
    kvm::{
        LoadError, TABLES, Vm, VmError,
        cpu::{Exit, Kind, PageFaultCode, RawOp},
        memory_map::{BATCH, OP_BYTES, region},
        signal_kicks,
    },
    mapping::Mapping,
    stage::Kicks,
};

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const RET: u64 = 0xc3;

#[test]
fn kvm_a_vcpu_faults_in_every_page_once() {
    with_guest(1, 600, |rig| {
        let mut cpu = rig.cpu(0);
        let ops: Vec<_> = (0..600).map(|page| add(page, page + 1)).collect();
        assert_eq!(rig.run(&mut cpu, &ops), 600);
        assert!((0..600).all(|page| rig.data.load((page * PAGE_BYTES) as usize) == page + 1));
        assert_eq!(rig.run(&mut cpu, &ops), 0, "all of it is there now");
        assert!((0..600).all(|page| cpu.result(page) == page as u64 + 1));
    });
}

#[test]
fn kvm_several_vcpus_fault_on_the_same_pages() {
    const VCPUS: usize = 3;
    const PAGES: u64 = 300;
    with_guest(VCPUS, PAGES, |rig| {
        let ready = Barrier::new(VCPUS);
        thread::scope(|scope| {
            for number in 0..VCPUS {
                let (rig, ready) = (&rig, &ready);
                scope.spawn(move || {
                    let mut cpu = rig.cpu(number);
                    let ops: Vec<_> = (0..PAGES).map(|page| add(page, 1)).collect();
                    ready.wait();
                    rig.run(&mut cpu, &ops);
                });
            }
        });
        let all = (0..PAGES).all(|page| rig.data.load((page * PAGE_BYTES) as usize) == 3);
        assert!(all, "an addition was lost");
    });
}

#[test]
fn kvm_each_kind_of_operation_does_what_it_says() {
    with_guest(1, 4, |rig| {
        rig.data.store(0, RET);
        rig.data.store(8, 0x1234_5678_9abc_def0);
        let mut cpu = rig.cpu(0);
        let word = Gpa::new(BASE.get() + 8);
        let ops = [
            RawOp::new(Kind::Load, word, 7),
            RawOp::new(Kind::Add, word, 0x10),
            RawOp::new(Kind::Add, word, u64::MAX),
            RawOp::new(Kind::Fetch, BASE, 7),
            RawOp::new(Kind::Pause, Gpa::new(0), 7),
        ];
        assert_eq!(rig.run(&mut cpu, &ops), 1);
        let results = (0..ops.len()).map(|index| cpu.result(index));
        let first = 0x1234_5678_9abc_def0;
        assert_eq!(Vec::from_iter(results), [first, first, first + 0x10, RET, 0]);
        assert_eq!(rig.data.load(8), first + 0xf);
    });
}

#[test]
fn kvm_a_batch_is_full_at_its_size_and_empty_is_done_at_once() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        assert_eq!(rig.stay(&mut cpu).expect("nothing to do"), Exit::Done);
        assert_eq!(rig.run(&mut cpu, &vec![add(0, 1); BATCH]), 1);
        assert_eq!(cpu.result(BATCH - 1), BATCH as u64 - 1);
        assert_eq!(cpu.load(&vec![load(0); BATCH + 1]), Err(LoadError(BATCH + 1)));
    });
}

#[test]
fn kvm_faults_say_what_was_tried() {
    with_guest(1, 4, |rig| {
        let (present, write) = (PageFaultCode::PRESENT, PageFaultCode::WRITE);
        let (user, fetch) = (PageFaultCode::USER, PageFaultCode::FETCH);
        let mut cpu = rig.cpu(0);
        let call = |page| RawOp::new(Kind::Fetch, gpa(page), 0);
        rig.map(1, 1, Prot::R);
        rig.data.store(PAGE_BYTES as usize, RET);

        for (op, page, code) in [
            (load(0), 0, user),
            (add(0, 1), 0, user | write),
            (call(0), 0, user | fetch),
            (add(1, 1), 1, user | write | present),
            (call(1), 1, user | fetch | present),
        ] {
            let fault = rig.run_into(&mut cpu, &[op]);
            assert_eq!((fault.address, fault.code), (gpa(page), code), "{op:?}");
            assert_eq!(cpu.progress(), 0);
        }
        assert_eq!(rig.seen(&mut cpu, 1), RET);
        // The guest's own memory is none of the worker's business.
        let kernel = region(1).start();
        let fault = rig.run_into(&mut cpu, &[RawOp::new(Kind::Load, kernel, 0)]);
        assert_eq!((fault.address, fault.code), (kernel, user | present));
    });
}

#[test]
fn kvm_accessed_is_set_at_every_level_and_dirty_in_the_leaf() {
    with_guest(1, 4, |rig| {
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        assert!(rig.path(0).iter().all(|entry| entry & (ACCESSED | DIRTY) == 0));
        rig.run_through(&mut cpu, &[load(0)]);
        let path = rig.path(0);
        assert_eq!(path.len(), 4);
        assert!(path.iter().all(|entry| entry & ACCESSED != 0), "{path:x?}");
        assert_eq!(path[3] & DIRTY, 0);
        rig.run_through(&mut cpu, &[add(0, 1)]);
        assert_ne!(rig.path(0)[3] & DIRTY, 0);
    });
}

#[test]
fn kvm_a_kick_ends_a_stay() {
    with_guest(1, 2, |rig| {
        const FOR_EVER: u64 = 0xfeeb; // a jump to itself
        let kicks = Kicks::by_signal(signal_kicks().expect("the signal is a usual one"));
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        rig.map(1, 1, Prot::RX);
        rig.data.store(PAGE_BYTES as usize, FOR_EVER);
        cpu.load(&[add(0, 1), RawOp::new(Kind::Fetch, gpa(1), 0)]).expect("it is short");
        let observer = cpu.observer_id();
        thread::scope(|scope| {
            let kicks = &kicks;
            let vcpu = scope.spawn(move || {
                let exit = kicks.run(observer, cpu.arm(), || rig.stay(&mut cpu));
                assert!(matches!(exit, Ok(Exit::Kicked)));
                assert!(cpu.progress() < 2, "the second never ends");
                rig.run(&mut cpu, &[add(0, 1)]);
            });
            while rig.data.load(0) == 0 && !vcpu.is_finished() {
                thread::yield_now();
            }
            kicks.kick(observer);
            vcpu.join().expect("the vCPU came out");
        });
        assert_eq!((rig.data.load(0), kicks.sent()), (2, 1));
    });
}

#[test]
fn kvm_a_kick_before_the_entry_is_not_lost() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        cpu.load(&[add(0, 1)]).expect("it is short");
        cpu.arm()();
        assert!(matches!(rig.stay(&mut cpu), Ok(Exit::Kicked)));
        assert_eq!((cpu.progress(), rig.data.load(0)), (0, 0), "the guest did not run");
        assert!(matches!(rig.stay(&mut cpu), Ok(Exit::Done)), "and a kick counts once");
        assert_eq!(rig.data.load(0), 1);
    });
}

#[test]
fn kvm_a_batch_can_be_replaced_anywhere() {
    with_guest(1, 2, |rig| {
        let mut cpu = rig.cpu(0);
        rig.map(1, 1, Prot::RW);
        // In the fault handler.
        rig.run_into(&mut cpu, &[RawOp::new(Kind::Fetch, gpa(0), 0)]);
        rig.run_through(&mut cpu, &[add(1, 1)]);
        // Before the first instruction.
        cpu.load(&[add(1, 0x100)]).expect("it is short");
        cpu.arm()();
        assert!(matches!(rig.stay(&mut cpu), Ok(Exit::Kicked)));
        rig.run_through(&mut cpu, &[add(1, 1), load(1)]);
        assert_eq!(cpu.result(1), 2);
    });
}

#[test]
fn kvm_a_guest_that_cannot_run_is_refused() {
    with_guest(1, 1, |rig| {
        assert!(matches!(rig.vm.cpu(1), Err(VmError::NoVcpu { number: 1, vcpus: 1 })));
        let _cpu = rig.cpu(0);
        assert!(matches!(rig.vm.cpu(0), Err(VmError::System { call: "KVM_CREATE_VCPU", .. })));
    });
}

#[test]
fn kvm_a_table_that_no_guest_can_walk_is_refused() {
    with_host(|host| {
        let refused = |format: AnyFormat, base, bytes, vcpus| {
            let arena = ArenaOptions::new(64).with_base(base).create().expect("there is memory");
            let table = PageTable::new(format, arena).expect("the arena is not empty");
            let data = Arc::new(Mapping::anonymous(bytes).expect("there is memory"));
            let space = Space::new(table, |_: ObserverId| ());
            Vm::new(host, &space, data, vcpus).err().expect("it is not one for KVM")
        };
        let long = |levels, width| LongMode::new(levels, width).into();
        let (width, page) = (host.phys_width(), PAGE_BYTES as usize);
        let fit = long(Levels::Four, width);

        let ept = Ept::new(Levels::Four, width, EptCaps::USUAL).into();
        let error = refused(ept, TABLES, page, 1);
        assert!(matches!(error, VmError::Format { name: "ept", levels: 4 }), "{error}");
        let error = refused(long(Levels::Five, width), TABLES, page, 1);
        assert!(matches!(error, VmError::Format { levels: 5, .. }), "{error}");
        if let Ok(wider) = PhysWidth::new(width.bits() + 1) {
            let error = refused(long(Levels::Four, wider), TABLES, page, 1);
            assert!(matches!(error, VmError::PhysWidth { .. }), "{error}");
        }
        let error = refused(fit, HostPfn::new(TABLES.get() + 1), page, 1);
        assert!(matches!(error, VmError::Tables { .. }), "{error}");
        let error = refused(fit, TABLES, page + 8, 1);
        assert!(matches!(error, VmError::Data { .. }), "{error}");
        for vcpus in [0, host.most_vcpus() + 1] {
            let error = refused(fit, TABLES, page, vcpus);
            assert!(matches!(error, VmError::Vcpus { .. }), "{error}");
        }
    });
}

#[test]
fn kvm_a_guest_has_the_least_rights_to_its_own_memory() {
    const VCPUS: usize = 2;
    with_guest(VCPUS, 1, |rig| {
        let (kernel, user) = (LeafFlags::empty(), LeafFlags::USER);
        let batches = BATCH * OP_BYTES / PAGE_BYTES as usize;
        let parts = [
            (1, Prot::RX, kernel),                   // the kernel
            (1, Prot::RX, user),                     // the worker
            (1 + 2 * VCPUS, Prot::RW, kernel),       // descriptors, and the kernel's stacks
            ((1 + batches) * VCPUS, Prot::RW, user), // stacks and batches
        ];
        let expected = parts.into_iter().flat_map(|(pages, prot, flags)| {
            iter::repeat_n(Attr::new(prot).with_flags(flags), pages)
        });
        let pin = rig.table.pin();
        let mapped = pin.mappings(region(VCPUS)).expect("the guest populated it");
        assert!(mapped.map(|mapping| mapping.attr).eq(expected));
    });
}
