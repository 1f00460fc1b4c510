//! Guests that cannot go on, and what is said of them.

use slat::{Gpa, Prot};

use super::rig::{Rig, gpa, load, with_guest};
use crate::kvm::{
    cpu::{Cpu, Kind, RawOp},
    crash::Cause,
};

/// Runs one operation, which must end the guest; returns the crash's cause, and its text.
fn crash(
    rig: &Rig,
    cpu: &mut Cpu<'_>,
    op: RawOp,
    prepare: impl FnOnce(&mut Cpu<'_>),
) -> (Cause, String) {
    cpu.load(&[op]).expect("it is short");
    prepare(cpu);
    let crash = rig.stay(cpu).expect_err("it must not come so far");
    let text = crash.to_string();
    println!("{text}");
    for part in ["rip ", "rflags ", "cr3 ", "efer ", "walk of cr2, ", "walk of rip, "] {
        assert!(text.contains(part), "{part:?} is missing");
    }
    assert!(text.contains("    L4 0x"), "there is no walk");
    (crash.into_cause(), text)
}

/// The letters of the page at `page`, as crashes show them.
fn leaf(rig: &Rig, page: u64) -> String {
    format!("    L1 {:#018x} ", rig.path(page)[3])
}

#[test]
fn kvm_a_triple_fault_is_a_crash() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        // The page fault finds no gate, and neither do those that come of that.
        let no_idt = |cpu: &mut Cpu<'_>| cpu.vcpu.set_sregs(|sregs| sregs.idt.limit = 0);
        let (cause, text) = crash(rig, &mut cpu, load(0), no_idt);
        assert!(matches!(cause, Cause::TripleFault), "{cause:?}");
        assert!(text.contains(&leaf(rig, 0)), "where CR2 points is not there");
    });
}

#[test]
fn kvm_an_exception_is_a_crash_with_its_name() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        let beyond = RawOp::new(Kind::Load, Gpa::new(1 << 62), 0);
        let (cause, text) = crash(rig, &mut cpu, beyond, |_| {});
        assert!(matches!(cause, Cause::Exception { vector: 13, error_code: 0 }), "{cause:?}");
        assert!(text.contains("#GP, general protection, with error code 0x0\n"));
        assert!(text.contains("    rax 4000000000000000"), "that is the address");
        assert!(text.contains("     cs 000000000000001b"), "it was the worker's");
    });
}

#[test]
fn kvm_code_that_is_none_is_a_crash_at_its_place() {
    with_guest(1, 1, |rig| {
        rig.map(0, 0, Prot::RX);
        rig.data.store(0, 0x0b0f); // UD2
        let mut cpu = rig.cpu(0);
        let (cause, text) = crash(rig, &mut cpu, RawOp::new(Kind::Fetch, gpa(0), 0), |_| {});
        assert!(matches!(cause, Cause::Exception { vector: 6, .. }), "{cause:?}");
        assert!(text.contains("#UD, invalid opcode\n"));
        assert!(text.contains(&format!("walk of rip, {}:", gpa(0))), "it was interrupted there");
        assert!(text.contains(&leaf(rig, 0)));
    });
}

#[test]
fn kvm_a_page_fault_of_the_kernel_is_a_crash() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        let in_ring_0 = |cpu: &mut Cpu<'_>| {
            cpu.vcpu.set_sregs(|sregs| {
                (sregs.cs.selector, sregs.cs.dpl) = (0x08, 0);
                (sregs.ss.selector, sregs.ss.dpl) = (0x10, 0);
            });
            cpu.vcpu.set_regs(|regs| regs.rip = gpa(0).get());
        };
        let (cause, text) = crash(rig, &mut cpu, load(0), in_ring_0);
        assert!(matches!(cause, Cause::KernelFault(fault) if fault.address == gpa(0)), "{cause:?}");
        assert!(text.contains(&format!("walk of rip, {}:", gpa(0))));
    });
}

#[test]
fn kvm_registers_that_kvm_refuses_are_a_crash() {
    with_guest(1, 1, |rig| {
        let mut cpu = rig.cpu(0);
        let reserved = |cpu: &mut Cpu<'_>| cpu.vcpu.set_sregs(|sregs| sregs.cr4 = u64::MAX);
        let (cause, text) = crash(rig, &mut cpu, load(0), reserved);
        assert!(matches!(cause, Cause::Run(_)), "{cause:?}");
        assert!(text.starts_with("KVM_RUN failed: Invalid argument"));
    });
}
