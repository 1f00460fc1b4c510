//! That there is a cache that goes stale, and what makes KVM forget.

use std::thread;

use slat::{Gpa, PAGE_BYTES, PageSize, Prot};

use super::rig::{Rig, add, gpa, load, pfn, range, with_guest};
use crate::kvm::{
    cpu::{Cpu, Exit},
    signal_kicks,
};

/// Marks the first frames, so that what is read tells which frame was reached.
fn mark(rig: &Rig) {
    (0..4).for_each(|frame| rig.data.store((frame * PAGE_BYTES) as usize, 0x100 + frame));
}

#[test]
fn kvm_a_translation_is_stale_until_a_vcpu_is_told() {
    with_guest(1, 8, |rig| {
        mark(rig);
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        assert_eq!(rig.seen(&mut cpu, 0), 0x100);
        let old = rig.unmap(0);
        assert_eq!(old, pfn(0));
        rig.map(0, 1, Prot::RW);
        assert_eq!(rig.seen(&mut cpu, 0), 0x100, "nobody told KVM: it must still have the old one");
        rig.tell();
        assert_eq!(rig.seen(&mut cpu, 0), 0x101);
        assert_eq!(rig.vm.zaps(), 2, "one is the first entry's");
    });
}

#[test]
fn kvm_rights_are_stale_until_a_vcpu_is_told() {
    with_guest(1, 8, |rig| {
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        rig.run_through(&mut cpu, &[add(0, 1)]);
        rig.protect(0, Prot::R);
        rig.run_through(&mut cpu, &[add(0, 1)]);
        assert_eq!(rig.data.load(0), 2, "nobody told KVM: it must still be able to write");
        rig.tell();
        rig.run_into(&mut cpu, &[add(0, 1)]);
        assert_eq!(rig.data.load(0), 2);
    });
}

#[test]
fn kvm_a_dirty_bit_that_was_cleared_stays_so_until_a_vcpu_is_told() {
    with_guest(1, 8, |rig| {
        let mut cpu = rig.cpu(0);
        rig.map(0, 0, Prot::RW);
        let slot_is_dirty = |gpa: Gpa| rig.table.pin().lookup(gpa).expect("it is mapped").dirty;
        rig.run_through(&mut cpu, &[add(0, 1)]);
        assert!(rig.table.pin().slot(gpa(0)).expect("it is mapped").clear_dirty());
        rig.run_through(&mut cpu, &[add(0, 1)]);
        assert!(!slot_is_dirty(gpa(0)), "nobody told KVM: it must still know it as dirty");
        rig.tell();
        rig.run_through(&mut cpu, &[add(0, 1)]);
        assert!(slot_is_dirty(gpa(0)));
    });
}

/// What a vCPU finds at a page whose tables are now another page's.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Fault,
    /// This value, in a frame of the other page's.
    Value(u64),
}

/// Takes page 0 away, leaf and tables, and gives its tables, with a frame that was never its own, to the
/// page [`OTHER`]; returns what a vCPU finds then at page 0, if `stay` is how it runs.
fn reuse_tables(rig: &Rig, stay: impl Fn(&mut Cpu<'_>)) -> Found {
    mark(rig);
    let mut cpu = rig.cpu(0);
    rig.map(0, 0, Prot::RW);
    assert_eq!(rig.seen(&mut cpu, 0), 0x100);
    let tables = tables(rig, 0);
    rig.unmap(0);
    rig.table.vacate(range(0, rig.pages)).expect("nothing is mapped");
    rig.table.populate(range(OTHER, rig.pages), PageSize::Size4K).expect("there are tables");
    rig.map(OTHER, 2, Prot::RW);
    assert_eq!(self::tables(rig, OTHER), tables, "these must be the same for the test to tell");

    cpu.load(&[load(OTHER), load(0)]).expect("it is short");
    stay(&mut cpu);
    assert!(cpu.progress() >= 1 && cpu.result(0) == 0x102);
    if cpu.progress() == 1 { Found::Fault } else { Found::Value(cpu.result(1)) }
}

/// A page below another entry of the root.
const OTHER: u64 = 1 << 27;

/// Returns the frames of the tables below the root on the way to a page.
fn tables(rig: &Rig, page: u64) -> Vec<u64> {
    rig.path(page)[..3].iter().map(|entry| entry & 0x000f_ffff_ffff_f000).collect()
}

#[test]
fn kvm_a_table_is_stale_until_a_vcpu_is_told() {
    with_guest(1, 8, |rig| {
        let found = reuse_tables(rig, |cpu| {
            assert!(cpu.stay(|_, _| Ok(())).is_ok());
        });
        match found {
            // It still has the leaf; or goes through the old upper entry, to the other page's.
            Found::Value(value) => assert!([0x100, 0x102].contains(&value), "{value:#x}"),
            Found::Fault => println!("skipped: a_table_is_stale: this KVM has forgotten by itself"),
        }
    });
}

#[test]
fn kvm_a_table_is_gone_when_everything_was_forgotten() {
    with_guest(1, 8, |rig| {
        let found = reuse_tables(rig, |cpu| {
            assert!(matches!(rig.stay(cpu), Ok(Exit::Fault(_))));
        });
        assert_eq!(found, Found::Fault);
    });
}

#[test]
fn kvm_one_zap_serves_all_that_it_can() {
    with_guest(2, 8, |rig| {
        let mut cpus = [0, 1].map(|number| rig.cpu(number));
        let enter = |cpus: &mut [Cpu<'_>; 2]| {
            cpus.iter_mut().for_each(|cpu| assert!(matches!(rig.stay(cpu), Ok(Exit::Done))));
            rig.vm.zaps()
        };
        assert_eq!(enter(&mut cpus), 1, "both must forget all at first");
        assert_eq!(enter(&mut cpus), 1, "nothing is due");
        rig.table.vacate(range(0, rig.pages)).expect("nothing is mapped");
        assert_eq!(enter(&mut cpus), 2);
        // The same for leaves.
        rig.table.populate(range(0, rig.pages), PageSize::Size4K).expect("there are tables");
        rig.map(0, 0, Prot::RW);
        let (_, flush) = rig.table.pin().unmap(gpa(0)).expect("it is mapped");
        flush.shootdown().wait(&|_| unreachable!("all are out")).expect("all are out");
        assert_eq!(enter(&mut cpus), 3);
    });
}

#[test]
fn kvm_nothing_is_lost_when_a_page_moves_under_running_vcpus() {
    const VCPUS: usize = 2;
    const BATCHES: usize = 200;
    const MOVES: u64 = 100;
    with_guest(VCPUS, 4, |rig| {
        let kicks = signal_kicks().expect("the signal is a usual one");
        let kicks = &kicks;
        rig.map(0, 0, Prot::RW);
        let work = move |number| {
            let mut cpu = rig.cpu(number);
            kicks.run(cpu.observer_id(), cpu.arm(), || {
                for _ in 0..BATCHES {
                    cpu.load(&[add(0, 1); 100]).expect("it is short");
                    while rig.stay(&mut cpu).unwrap_or_else(|crash| panic!("{crash}")) != Exit::Done
                    {
                        // It is on its way, and comes back.
                        thread::yield_now();
                    }
                }
            });
        };
        let word = |frame: u64| (frame * PAGE_BYTES) as usize;
        thread::scope(|scope| {
            (0..VCPUS).for_each(|number| drop(scope.spawn(move || work(number))));
            for round in 0..MOVES {
                let [from, to] = [round % 2, (round + 1) % 2];
                let (_, flush) = rig.table.pin().unmap(gpa(0)).expect("it is mapped");
                flush.shootdown().wait(kicks).expect("no observer is this thread's");
                rig.data.store(word(to), rig.data.load(word(from)));
                rig.data.store(word(from), 0);
                rig.map(0, to, Prot::RW);
            }
        });
        let sum = rig.data.load(word(0)) + rig.data.load(word(1));
        assert_eq!(sum, (VCPUS * BATCHES * 100) as u64);
    });
}
