//! VMX with EPT (Intel SDM vol. 3C, chapters 24 to 29).

use core::{
    arch::{asm, global_asm},
    ptr,
};

use alloc::vec::Vec;

use slat::{Due, Ept, EptCaps, Gpa, Levels, PhysWidth, mmu::Fault};
use x86::{
    controlregs::{Cr4, cr0, cr3, cr4, cr4_write},
    cpuid::CpuId,
    msr::{self, rdmsr, wrmsr},
    vmx::vmcs::{control, guest, host, ro},
};

use super::{CR0, CR0_PAGING, CR4, Exit, Registers, Virt};
use crate::machine::{apic, interrupts, memory::control_page};

global_asm!(include_str!("vmx.S"), options(att_syntax));

unsafe extern "C" {
    fn vmx_run(launched: u64, registers: *mut Registers) -> u64;
}

/// Executes an instruction of VMX that takes a page by its physical address.
///
/// # Safety
/// As the instruction wants it.
macro_rules! with_page {
    ($instruction:literal, $page:expr) => {{
        let page: u64 = $page;
        let failed: u8;
        asm!(concat!($instruction, " [{}]"), "setna {}", in(reg) &page, out(reg_byte) failed);
        assert!(failed == 0, "{} failed", $instruction);
    }};
}

/// IA32_FEATURE_CONTROL: locked, with VMX outside of SMX.
const LOCKED: u64 = 1 << 0;
const VMX_ALLOWED: u64 = 1 << 2;
/// IA32_VMX_EPT_VPID_CAP: five levels.
const FIVE_LEVELS: u64 = 1 << 7;
/// IA32_VMX_BASIC: the TRUE registers are there.
const TRUE_CONTROLS: u64 = 1 << 55;

/// A leaf, in a table of another level than the first.
const LARGE: u64 = 1 << 7;

/// Exits on interrupts.
const PIN_INTERRUPT: u64 = 1 << 0;
/// Exits on HLT; there are secondary controls.
const PRIMARY: u64 = 1 << 7 | 1 << 31;
/// EPT, VPIDs, guests without paging.
const SECONDARY: u64 = 1 << 1 | 1 << 5 | 1 << 7;
/// The host is in long mode; which interrupt it was is told; the host's EFER is loaded, the guest's saved.
const ON_EXIT: u64 = 1 << 9 | 1 << 15 | 1 << 20 | 1 << 21;
/// The guest's EFER is loaded.
const ON_ENTRY: u64 = 1 << 15;

const REASON_INTERRUPT: u64 = 1;
const REASON_CALL: u64 = 18;
const REASON_VIOLATION: u64 = 48;
const REASON_MISCONFIGURATION: u64 = 49;
/// The entry failed.
const REASON_FAILED: u64 = 1 << 31;

/// The bits of a qualification that [`Fault`] holds: without mode-based execute control bit 6 means nothing.
const QUALIFICATION: u64 = 0x1bf;

/// Of a processor with VMX.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vmx {
    levels: Levels,
    width: PhysWidth,
    caps: EptCaps,
}

/// A guest's processor.
#[derive(Debug)]
pub(crate) struct VmxVcpu {
    /// Its control structure.
    page: u64,
    is_launched: bool,
}

impl VmxVcpu {
    /// Makes its control structure this processor's current one.
    fn make_current(&self) {
        // SAFETY: VMX is on, and the page is a control structure that only this processor has loaded.
        unsafe { with_page!("vmptrld", self.page) };
    }
}

fn vmwrite(field: u32, value: u64) {
    let failed: u8;
    // SAFETY: the processor has a current control structure, which is this image's own.
    unsafe {
        asm!("vmwrite {}, {}", "setna {}", in(reg) u64::from(field), in(reg) value, lateout(reg_byte) failed);
    }
    assert!(failed == 0, "field {field:#x} cannot be written");
}

fn vmread(field: u32) -> u64 {
    let (value, failed): (_, u8);
    // SAFETY: as in `vmwrite`.
    unsafe {
        asm!("vmread {}, {}", "setna {}", out(reg) value, in(reg) u64::from(field), lateout(reg_byte) failed);
    }
    assert!(failed == 0, "field {field:#x} cannot be read");
    value
}

/// Drops what the processor has cached of the tables at `eptp`, or of all tables.
fn invept(eptp: Option<u64>) {
    const ONE: u64 = 1;
    const ALL: u64 = 2;
    let (kind, descriptor) = (if eptp.is_some() { ONE } else { ALL }, [eptp.unwrap_or(0), 0]);
    // SAFETY: only drops what is cached.
    unsafe { asm!("invept {}, [{}]", in(reg) kind, in(reg) &descriptor) };
}

/// Reads a register of capabilities.
fn capability(number: u32) -> u64 {
    // SAFETY: the processor has VMX, and so the register.
    unsafe { rdmsr(number) }
}

/// Returns what is wanted of controls, with what has to be set, without what cannot be.
fn controls(number: u32, wanted: u64) -> u64 {
    let allowed = capability(number);
    (wanted | (allowed & 0xffff_ffff)) & (allowed >> 32)
}

/// A page as VMX wants its own to be: with the revision in front.
fn revised_page() -> u64 {
    let page = control_page();
    let revision = capability(msr::IA32_VMX_BASIC) as u32 & 0x7fff_ffff;
    // SAFETY: the page is new, and mapped one to one.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(page as usize).write_volatile(revision) };
    page
}

impl Vmx {
    fn set_controls() {
        let has_true = capability(msr::IA32_VMX_BASIC) & TRUE_CONTROLS != 0;
        let number = |old, new| if has_true { new } else { old };
        let pin = number(msr::IA32_VMX_PINBASED_CTLS, msr::IA32_VMX_TRUE_PINBASED_CTLS);
        let primary = number(msr::IA32_VMX_PROCBASED_CTLS, msr::IA32_VMX_TRUE_PROCBASED_CTLS);
        let exit = number(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS);
        let entry = number(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS);
        vmwrite(control::PINBASED_EXEC_CONTROLS, controls(pin, PIN_INTERRUPT));
        vmwrite(control::PRIMARY_PROCBASED_EXEC_CONTROLS, controls(primary, PRIMARY));
        let secondary = controls(msr::IA32_VMX_PROCBASED_CTLS2, SECONDARY);
        vmwrite(control::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary);
        vmwrite(control::VMEXIT_CONTROLS, controls(exit, ON_EXIT));
        vmwrite(control::VMENTRY_CONTROLS, controls(entry, ON_ENTRY));
        vmwrite(control::VPID, 1);
        for field in [
            control::EXCEPTION_BITMAP,
            control::PAGE_FAULT_ERR_CODE_MASK,
            control::PAGE_FAULT_ERR_CODE_MATCH,
            control::CR3_TARGET_COUNT,
            control::VMEXIT_MSR_STORE_COUNT,
            control::VMEXIT_MSR_LOAD_COUNT,
            control::VMENTRY_MSR_LOAD_COUNT,
            control::VMENTRY_INTERRUPTION_INFO_FIELD,
            control::CR0_GUEST_HOST_MASK,
            control::CR4_GUEST_HOST_MASK,
        ] {
            vmwrite(field, 0);
        }
    }

    /// Flat, 32 bits, no paging.
    fn set_guest() {
        const SEGMENTS: [(u64, u64); 8] = [
            (16, 0xc093),
            (8, 0xc09b),
            (16, 0xc093),
            (16, 0xc093),
            (16, 0xc093),
            (16, 0xc093),
            (0, 0x1_0000),
            (0x20, 0x8b),
        ];
        for (index, (selector, rights)) in (0..).zip(SEGMENTS) {
            let is_task = index == 7;
            vmwrite(guest::ES_SELECTOR + 2 * index, selector);
            vmwrite(guest::ES_LIMIT + 2 * index, if is_task { 0x67 } else { 0xffff_ffff });
            vmwrite(guest::ES_ACCESS_RIGHTS + 2 * index, rights);
            vmwrite(guest::ES_BASE + 2 * index, 0);
        }
        for (field, value) in [
            (guest::LINK_PTR_FULL, u64::MAX),
            (guest::GDTR_LIMIT, 0xffff),
            (guest::IDTR_LIMIT, 0xffff),
            (guest::GDTR_BASE, 0),
            (guest::IDTR_BASE, 0),
            (guest::CR4, CR4 | Cr4::CR4_ENABLE_VMX.bits() as u64),
            (control::CR4_READ_SHADOW, CR4),
            (guest::DR7, 0x400),
            (guest::RSP, 0x8000),
            (guest::RFLAGS, 2),
            (guest::IA32_EFER_FULL, 0),
            (guest::IA32_PAT_FULL, 0x0007_0406_0007_0406),
            (guest::IA32_DEBUGCTL_FULL, 0),
            (guest::INTERRUPTIBILITY_STATE, 0),
            (guest::ACTIVITY_STATE, 0),
            (guest::PENDING_DBG_EXCEPTIONS, 0),
            (guest::IA32_SYSENTER_CS, 0),
            (guest::IA32_SYSENTER_ESP, 0),
            (guest::IA32_SYSENTER_EIP, 0),
        ] {
            vmwrite(field, value);
        }
    }

    fn set_host() {
        // SAFETY: they read registers.
        let (cr0, cr3, cr4) = unsafe { (cr0().bits() as u64, cr3(), cr4().bits() as u64) };
        let bases = interrupts::bases();
        for (field, value) in [
            (host::ES_SELECTOR, 16),
            (host::CS_SELECTOR, 8),
            (host::SS_SELECTOR, 16),
            (host::DS_SELECTOR, 16),
            (host::FS_SELECTOR, 16),
            (host::GS_SELECTOR, 16),
            (host::TR_SELECTOR, u64::from(interrupts::TASK.bits())),
            (host::CR0, cr0),
            (host::CR3, cr3),
            (host::CR4, cr4),
            (host::IA32_EFER_FULL, capability(msr::IA32_EFER)),
            (host::GDTR_BASE, bases.segments),
            (host::FS_BASE, 0),
            (host::GS_BASE, 0),
            (host::TR_BASE, bases.task),
            (host::IDTR_BASE, bases.gates),
            (host::IA32_SYSENTER_CS, 0),
            (host::IA32_SYSENTER_ESP, 0),
            (host::IA32_SYSENTER_EIP, 0),
        ] {
            vmwrite(field, value);
        }
    }
}

impl Virt for Vmx {
    type Format = Ept;
    type Vcpu = VmxVcpu;
    const CALL: [u8; 3] = [0x0f, 0x01, 0xc1];

    fn find() -> Option<Self> {
        let cpuid = CpuId::new();
        cpuid.get_feature_info().filter(|features| features.has_vmx())?;
        let width = cpuid.get_processor_capacity_feature_info()?.physical_address_bits();
        let ept = capability(msr::IA32_VMX_EPT_VPID_CAP);
        let levels = if ept & FIVE_LEVELS != 0 { Levels::Five } else { Levels::Four };
        Some(Self { levels, width: PhysWidth::new(width).ok()?, caps: EptCaps::from_msr(ept) })
    }

    fn enable(&self) {
        if capability(msr::IA32_FEATURE_CONTROL) & LOCKED == 0 {
            // SAFETY: the processor has VMX, and so the register.
            unsafe { wrmsr(msr::IA32_FEATURE_CONTROL, LOCKED | VMX_ALLOWED) };
        }
        // SAFETY: reads a register.
        let with_vmx = unsafe { cr4() } | Cr4::CR4_ENABLE_VMX;
        // SAFETY: the processor has VMX.
        unsafe { cr4_write(with_vmx) };
        let page = revised_page();
        // SAFETY: the page is nobody else's, and CR0 and CR4 have what VMX demands.
        unsafe { with_page!("vmxon", page) };
    }

    fn format(&self) -> Ept {
        Ept::new(self.levels, self.width, self.caps)
    }

    fn keeps_bits(&self) -> bool {
        self.caps.contains(EptCaps::ACCESSED_DIRTY)
    }

    fn vcpu(&self) -> VmxVcpu {
        let vcpu = VmxVcpu { page: revised_page(), is_launched: false };
        // SAFETY: VMX is on, and the page is nobody else's.
        unsafe { with_page!("vmclear", vcpu.page) };
        vcpu.make_current();
        Self::set_controls();
        Self::set_guest();
        Self::set_host();
        vcpu
    }

    fn variants(&self, entry: u64, is_leaf: bool) -> Vec<u64> {
        let mut made = super::variants(entry, self.width, [0, 1, 2]);
        if is_leaf {
            made.extend((0..8).map(|memory| entry & !(7 << 3) | memory << 3));
        } else {
            // One of a large leaf would be memory of the guest's.
            made.retain(|changed| changed & LARGE == entry & LARGE);
        }
        made
    }

    fn is_known(_: Option<Fault>, _: Option<Fault>) -> bool {
        false
    }

    fn start(vcpu: &mut VmxVcpu, at: Gpa, directory: Option<Gpa>) {
        vcpu.make_current();
        vmwrite(guest::RIP, at.get());
        let cr0 = if directory.is_some() { CR0_PAGING } else { CR0 };
        vmwrite(guest::CR0, cr0);
        vmwrite(control::CR0_READ_SHADOW, cr0);
        vmwrite(guest::CR3, directory.map_or(0, Gpa::get));
    }

    fn run(vcpu: &mut VmxVcpu, root: u64, due: &Due, registers: &mut Registers) -> Exit {
        vcpu.make_current();
        vmwrite(control::EPTP_FULL, root);
        match due {
            Due::None => {}
            Due::Ranges(_) => invept(Some(root)),
            Due::All => invept(None),
        }
        // SAFETY: the control structure is whole, and what the guest reaches is its own memory.
        let failed = unsafe { vmx_run(u64::from(vcpu.is_launched), registers) };
        if failed != 0 {
            let error = vmread(ro::VM_INSTRUCTION_ERROR);
            return Exit::Other { code: REASON_FAILED, info: [error, 0] };
        }
        vcpu.is_launched = true;
        let gpa = Gpa::new(vmread(ro::GUEST_PHYSICAL_ADDR_FULL));
        let qualification = vmread(ro::EXIT_QUALIFICATION);
        match vmread(ro::EXIT_REASON) {
            REASON_INTERRUPT => {
                // Acknowledged by the exit.
                apic::end_of_interrupt();
                Exit::Interrupt
            }
            REASON_CALL => {
                vmwrite(guest::RIP, vmread(guest::RIP) + Self::CALL.len() as u64);
                Exit::Call
            }
            REASON_VIOLATION => Exit::Fault(Fault::EptViolation {
                gpa,
                qualification: qualification & QUALIFICATION,
            }),
            REASON_MISCONFIGURATION => Exit::Fault(Fault::EptMisconfiguration { gpa }),
            code => Exit::Other { code, info: [qualification, gpa.get()] },
        }
    }
}
