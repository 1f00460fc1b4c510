//! What the guest does not get from the machine itself: a few instructions are answered here.

use core::arch::x86_64::__cpuid_count;

use x86::io::{inb, inl, inw, outb, outl, outw};

use super::vcpu::{Direction, Exception, PortAccess, Processor};

pub(super) const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
const SMM_CTL: u32 = 0xc001_0116;
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// Those MSRs that the guest does not reach: its EFER, and what SVM goes by.
pub(super) const MSRS: [u32; 4] = [EFER, VM_CR, SMM_CTL, VM_HSAVE_PA];

/// ACPI's PM1a control register, where QEMU's q35 has it.
const POWER: u16 = 0x604;
/// Those ports that the guest does not reach.
pub(super) const PORTS: [u16; 1] = [POWER];
/// In [`POWER`]: sleep now.
const SLEEP: u16 = 1 << 13;

const EFER_SVME: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// What the guest has done by its access to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Passed,
    PoweredOff,
    /// By a string instruction, which is not known here.
    Unknown,
}

/// Answers CPUID: all that the machine has but SVM, and the guest's own CR4.
pub(super) fn cpuid(processor: &mut Processor) {
    let (leaf, subleaf) = (processor.rax() as u32, processor.registers.rcx as u32);
    let mut found = __cpuid_count(leaf, subleaf);
    // The bits that follow CR4 say the host's.
    let follow = |word: &mut u32, bit: u32, flag: u64| {
        *word = *word & !(1 << bit) | u32::from(processor.cr4() & flag != 0) << bit;
    };
    match leaf {
        1 => follow(&mut found.ecx, 27, CR4_OSXSAVE),
        7 if subleaf == 0 => follow(&mut found.ecx, 4, CR4_PKE),
        0x8000_0001 => found.ecx &= !(1 << 2),
        0x8000_000a => (found.eax, found.ebx, found.ecx, found.edx) = (0, 0, 0, 0),
        _ => {}
    }
    processor.set_rax(found.eax.into());
    let registers = &mut processor.registers;
    (registers.rbx, registers.rcx, registers.rdx) =
        (found.ebx.into(), found.ecx.into(), found.edx.into());
    processor.skip(2);
}

/// Answers RDMSR of one of [`MSRS`].
pub(super) fn read_msr(processor: &mut Processor) {
    if processor.registers.rcx as u32 != EFER {
        return processor.throw(Exception::GeneralProtection);
    }
    let efer = processor.efer() & !EFER_SVME;
    processor.set_rax(efer & 0xffff_ffff);
    processor.registers.rdx = efer >> 32;
    processor.skip(2);
}

/// Answers WRMSR of one of [`MSRS`]. A guest's EFER always has SVME set (15.5.1), and LMA is the processor's.
pub(super) fn write_msr(processor: &mut Processor) {
    if processor.registers.rcx as u32 != EFER {
        return processor.throw(Exception::GeneralProtection);
    }
    let value = processor.rax() & 0xffff_ffff | processor.registers.rdx << 32;
    processor.set_efer(value & !EFER_LMA | processor.efer() & EFER_LMA | EFER_SVME);
    processor.skip(2);
}

/// Does what the guest does with one of [`PORTS`], but for turning the machine off.
pub(super) fn port(processor: &mut Processor, access: &PortAccess) -> Done {
    if access.is_string {
        return Done::Unknown;
    }
    let rax = processor.rax();
    let port = access.port;
    if access.direction == Direction::Out && port == POWER && rax as u16 & SLEEP != 0 {
        return Done::PoweredOff;
    }
    let read = match access.direction {
        Direction::Out => {
            write(port, access.bytes, rax as u32);
            rax
        }
        // Only 32 bits clear those above.
        Direction::In => {
            let kept = if access.bytes == 4 { 0 } else { !0 << (8 * access.bytes) };
            rax & kept | u64::from(read(port, access.bytes))
        }
    };
    processor.set_rax(read);
    processor.skip_access(access);
    Done::Passed
}

/// Writes a port, as wide as it is said.
fn write(port: u16, bytes: u64, value: u32) {
    match bytes {
        // SAFETY: the machine's devices are the guest's, and none has to do with memory of the image's.
        1 => unsafe { outb(port, value as u8) },
        // SAFETY: as above.
        2 => unsafe { outw(port, value as u16) },
        // SAFETY: as above.
        _ => unsafe { outl(port, value) },
    }
}

/// Reads a port, as wide as it is said.
fn read(port: u16, bytes: u64) -> u32 {
    match bytes {
        // SAFETY: as in `write`.
        1 => unsafe { inb(port) }.into(),
        // SAFETY: as in `write`.
        2 => unsafe { inw(port) }.into(),
        // SAFETY: as in `write`.
        _ => unsafe { inl(port) },
    }
}
