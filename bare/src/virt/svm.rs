//! SVM with nested paging (AMD APM vol. 2, chapter 15; the control block: appendix B).

use core::{arch::global_asm, ptr};

use alloc::vec::Vec;

use slat::{Due, Gpa, Levels, Npt, PhysWidth, mmu::Fault};
use x86::{
    controlregs,
    cpuid::CpuId,
    msr::{IA32_EFER, rdmsr, wrmsr},
};

use super::{CR0, CR0_PAGING, CR4, Exit, Registers, Virt};
use crate::machine::{interrupts, memory::control_page};

global_asm!(include_str!("svm.S"), options(att_syntax));

unsafe extern "C" {
    fn svm_run(vmcb: u64, registers: *mut Registers);
}

/// A leaf, in a table of another level than the first.
const LARGE: u64 = 1 << 7;
const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Places in the control block.
pub(crate) mod place {
    pub(crate) const INTERCEPTS: u64 = 0x0c;
    pub(crate) const INTERCEPTS_SVM: u64 = 0x10;
    pub(crate) const ASID: u64 = 0x58;
    pub(crate) const TLB_CONTROL: u64 = 0x5c;
    pub(crate) const INTERRUPT: u64 = 0x60;
    pub(crate) const EXIT_CODE: u64 = 0x70;
    pub(crate) const EXIT_INFO_1: u64 = 0x78;
    pub(crate) const EXIT_INFO_2: u64 = 0x80;
    pub(crate) const NESTED: u64 = 0x90;
    pub(crate) const NESTED_CR3: u64 = 0xb0;
    pub(crate) const CLEAN: u64 = 0xc0;
    pub(crate) const SEGMENTS: u64 = 0x400;
    pub(crate) const EFER: u64 = 0x4d0;
    pub(crate) const CR4: u64 = 0x548;
    pub(crate) const CR3: u64 = 0x550;
    pub(crate) const CR0: u64 = 0x558;
    pub(crate) const DR7: u64 = 0x560;
    pub(crate) const DR6: u64 = 0x568;
    pub(crate) const RFLAGS: u64 = 0x570;
    pub(crate) const RIP: u64 = 0x578;
    pub(crate) const PAT: u64 = 0x668;
}

/// Exits on interrupts, shutdown, HLT.
const INTERCEPT: u32 = 1 << 0 | 1 << 24 | 1 << 31;
/// On VMRUN, which has to be, and VMMCALL.
const INTERCEPT_SVM: u32 = 1 << 0 | 1 << 1;
/// The guest's interrupt flag does not hold back the host's interrupts.
const MASKING: u64 = 1 << 24;
const FLUSH_ASID: u32 = 3;
const FLUSH_ALL: u32 = 1;

const EXIT_INTERRUPT: u64 = 0x60;
const EXIT_CALL: u64 = 0x81;
const EXIT_NESTED_FAULT: u64 = 0x400;

/// Of a processor with SVM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Svm {
    levels: Levels,
    width: PhysWidth,
    flushes_asid: bool,
}

/// A guest's processor.
#[derive(Debug)]
pub(crate) struct SvmVcpu {
    pub(crate) vmcb: u64,
    pub(crate) flush: u32,
}

impl SvmVcpu {
    pub(crate) fn put<T>(&mut self, place: u64, value: T) {
        // SAFETY: the control block is a page of this vCPU's own, and mapped one to one.
        unsafe {
            ptr::with_exposed_provenance_mut::<T>((self.vmcb + place) as usize)
                .write_volatile(value)
        };
    }

    pub(crate) fn get(&self, place: u64) -> u64 {
        // SAFETY: as in `put`.
        unsafe { ptr::with_exposed_provenance::<u64>((self.vmcb + place) as usize).read_volatile() }
    }

    pub(crate) fn segment(&mut self, index: u64, selector: u16, attributes: u16) {
        let at = place::SEGMENTS + 16 * index;
        self.put(at, selector);
        self.put(at + 2, attributes);
        self.put(at + 4, u32::MAX);
        self.put(at + 8, 0_u64);
    }
}

impl Virt for Svm {
    type Format = Npt;
    type Vcpu = SvmVcpu;
    const CALL: [u8; 3] = [0x0f, 0x01, 0xd9];

    fn find() -> Option<Self> {
        let cpuid = CpuId::new();
        let svm = cpuid.get_svm_info().filter(|svm| svm.has_nested_paging())?;
        let width = cpuid.get_processor_capacity_feature_info()?.physical_address_bits();
        // The nested tables have as many levels as the host's (15.25.3).
        // SAFETY: reads a register.
        let cr4 = unsafe { controlregs::cr4() };
        let la57 = cr4.contains(controlregs::Cr4::CR4_ENABLE_LA57);
        let levels = if la57 { Levels::Five } else { Levels::Four };
        let width = PhysWidth::new(width).ok()?;
        Some(Self { levels, width, flushes_asid: svm.has_flush_by_asid() })
    }

    fn enable(&self) {
        // SAFETY: the processor has SVM; the page is nobody else's.
        unsafe {
            wrmsr(IA32_EFER, rdmsr(IA32_EFER) | EFER_SVME);
            wrmsr(VM_HSAVE_PA, control_page());
        }
    }

    fn format(&self) -> Npt {
        Npt::new(self.levels, self.width)
    }

    fn keeps_bits(&self) -> bool {
        true
    }

    fn vcpu(&self) -> SvmVcpu {
        let flush = if self.flushes_asid { FLUSH_ASID } else { FLUSH_ALL };
        let mut vcpu = SvmVcpu { vmcb: control_page(), flush };
        vcpu.put(place::INTERCEPTS, INTERCEPT);
        vcpu.put(place::INTERCEPTS_SVM, INTERCEPT_SVM);
        vcpu.put(place::ASID, 1_u32);
        vcpu.put(place::INTERRUPT, MASKING);
        vcpu.put(place::NESTED, 1_u64);
        // ES, CS, SS, DS, FS, GS: flat, 32 bits.
        for (index, selector, attributes) in [
            (0, 16, 0xc93),
            (1, 8, 0xc9b),
            (2, 16, 0xc93),
            (3, 16, 0xc93),
            (4, 16, 0xc93),
            (5, 16, 0xc93),
        ] {
            vcpu.segment(index, selector, attributes);
        }
        // LDTR and TR.
        vcpu.segment(7, 0, 0x82);
        vcpu.segment(9, 0, 0x8b);
        for (place, value) in [
            (place::EFER, EFER_SVME),
            (place::CR4, CR4),
            (place::DR7, 0x400),
            (place::DR6, 0xffff_0ff0),
            (place::RFLAGS, 2),
            (place::PAT, 0x0007_0406_0007_0406),
        ] {
            vcpu.put(place, value);
        }
        vcpu
    }

    fn variants(&self, entry: u64, _is_leaf: bool) -> Vec<u64> {
        // Present, writable, user. A table whose entry is one of a large leaf would be memory of the guest's.
        let made = super::variants(entry, self.width, [0, 1, 2]).into_iter();
        made.filter(|changed| changed & LARGE == entry & LARGE).collect()
    }

    fn is_known(manual: Option<Fault>, reported: Option<Fault>) -> bool {
        // QEMU leaves the present bit out where one is reserved.
        let (Some(Fault::NestedPageFault { gpa, exitinfo1 }), Some(other)) = (manual, reported)
        else {
            return false;
        };
        exitinfo1 & 0x8 != 0 && other == Fault::NestedPageFault { gpa, exitinfo1: exitinfo1 & !1 }
    }

    fn start(vcpu: &mut SvmVcpu, at: Gpa, directory: Option<Gpa>) {
        vcpu.put(place::RIP, at.get());
        vcpu.put(place::CR0, if directory.is_some() { CR0_PAGING } else { CR0 });
        vcpu.put(place::CR3, directory.map_or(0, Gpa::get));
    }

    fn run(vcpu: &mut SvmVcpu, root: u64, due: &Due, registers: &mut Registers) -> Exit {
        vcpu.put(place::NESTED_CR3, root);
        vcpu.put(place::CLEAN, 0_u64);
        vcpu.put(place::TLB_CONTROL, if *due == Due::None { 0 } else { vcpu.flush });
        // SAFETY: the control block is whole, and what the guest reaches is its own memory.
        unsafe { svm_run(vcpu.vmcb, registers) };
        let (one, two) = (vcpu.get(place::EXIT_INFO_1), vcpu.get(place::EXIT_INFO_2));
        match vcpu.get(place::EXIT_CODE) {
            EXIT_INTERRUPT => {
                interrupts::take_pending();
                Exit::Interrupt
            }
            EXIT_CALL => {
                vcpu.put(place::RIP, vcpu.get(place::RIP) + Self::CALL.len() as u64);
                Exit::Call
            }
            EXIT_NESTED_FAULT => {
                Exit::Fault(Fault::NestedPageFault { gpa: Gpa::new(two), exitinfo1: one })
            }
            code => Exit::Other { code, info: [one, two] },
        }
    }
}
