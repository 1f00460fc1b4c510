//! SVM with nested paging (AMD APM vol. 2, chapter 15; the control block: appendix B).

use core::{arch::global_asm, ptr};

use alloc::{vec, vec::Vec};

use slat::{Due, Gpa, Levels, Npt, PageSize, PhysWidth, mmu::Fault};
use x86::{
    controlregs,
    cpuid::{CpuId, SvmFeatures},
    msr::{IA32_EFER, rdmsr, wrmsr},
};

use super::{CR0, CR0_PAGING, CR4, Exit, Registers, Shape, Start, Virt};
use crate::machine::{interrupts, memory::control_page};

global_asm!(include_str!("svm.S"), options(att_syntax));

unsafe extern "C" {
    fn svm_run(vmcb: u64, registers: *mut Registers);
}

/// The bits of the PAT's index, in leaves.
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const PAT_4K: u64 = 1 << 7;
const PAT_LARGE: u64 = 1 << 12;
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
const EXIT_INVALID: u64 = u64::MAX;

/// Of a processor with SVM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Svm {
    levels: Levels,
    width: PhysWidth,
    flushes_asid: bool,
    pages_1g: bool,
}

/// A guest's processor.
#[derive(Debug)]
pub(crate) struct SvmVcpu {
    pub(crate) vmcb: u64,
    pub(crate) flush: u32,
}

impl SvmVcpu {
    pub(crate) fn put<T>(&mut self, place: u64, value: T) {
        let field = ptr::with_exposed_provenance_mut::<T>((self.vmcb + place) as usize);
        // SAFETY: the control block is a page of this vCPU's own, and mapped one to one.
        unsafe { field.write_volatile(value) };
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
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;

    fn find() -> Option<Self> {
        let cpuid = CpuId::new();
        let svm = cpuid.get_svm_info().filter(SvmFeatures::has_nested_paging)?;
        let width = cpuid.get_processor_capacity_feature_info()?.physical_address_bits();
        // The nested tables have as many levels as the host's (15.25.3).
        // SAFETY: reads a register.
        let cr4 = unsafe { controlregs::cr4() };
        let la57 = cr4.contains(controlregs::Cr4::CR4_ENABLE_LA57);
        let levels = if la57 { Levels::Five } else { Levels::Four };
        let width = PhysWidth::new(width).ok()?;
        let pages_1g = cpuid
            .get_extended_processor_and_feature_identifiers()
            .is_some_and(|features| features.has_1gib_pages());
        Some(Self { levels, width, flushes_asid: svm.has_flush_by_asid(), pages_1g })
    }

    fn enable(&self) {
        // SAFETY: reads a register.
        let efer = unsafe { rdmsr(IA32_EFER) };
        // SAFETY: the processor has SVM.
        unsafe { wrmsr(IA32_EFER, efer | EFER_SVME) };
        // SAFETY: SVM is on; the page is nobody else's.
        unsafe { wrmsr(VM_HSAVE_PA, control_page()) };
    }

    fn format(&self) -> Npt {
        let npt = Npt::new(self.levels, self.width);
        if self.pages_1g { npt } else { npt.without_1g_pages() }
    }

    fn keeps_bits(&self) -> bool {
        true
    }

    fn untried(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = vec![
            ("memory encryption", "the emulators have none"),
            ("no-execute turned off", "the library wants it on"),
            ("supervisor execution prevention", "the software MMU takes it to be off"),
        ];
        if self.levels == Levels::Four {
            all.push(("five levels", "asked for by `levels=5`, where the processor has them"));
        }
        all
    }

    fn root_bits_of_others(&self) -> u64 {
        0
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
            (place::RFLAGS, 1 << 9 | 1 << 1),
            (place::PAT, 0x0007_0406_0007_0406),
        ] {
            vcpu.put(place, value);
        }
        vcpu
    }

    fn variants(&self, entry: u64, shape: Shape) -> Vec<u64> {
        let pat = match shape {
            Shape::Table(_) => None,
            Shape::Leaf(PageSize::Size4K) => Some(PAT_4K),
            Shape::Leaf(_) => Some(PAT_LARGE),
        };
        let types = pat.into_iter().flat_map(|pat| {
            let all = PWT | PCD | pat;
            [0, PWT, PCD, PCD | PWT]
                .map(|low| [low, low | pat])
                .into_iter()
                .flatten()
                .map(move |kind| entry & !all | kind)
        });
        super::variants(entry, shape, self.width, &[0, 1, 2, 63], types)
    }

    fn start(vcpu: &mut SvmVcpu, Start { at, directory }: Start) {
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
            EXIT_INVALID => Exit::Refused,
            code => Exit::Other { code, info: [one, two] },
        }
    }
}
