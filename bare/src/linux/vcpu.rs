//! The guest's processor: with all registers, and with most of the machine passed through.

use alloc::boxed::Box;
use core::{arch::global_asm, ptr};

use slat::{Due, Gpa, PAGE_BYTES, mmu::Fault};

use crate::{
    machine::memory::control_page,
    virt::{
        Virt,
        svm::{Svm, SvmVcpu, place},
    },
};

global_asm!(include_str!("vcpu.S"), options(att_syntax));

unsafe extern "C" {
    fn svm_run_whole(vmcb: u64, registers: *mut Registers, host: u64);
    fn svm_save(vmcb: u64);
}

/// More places in the control block (AMD APM vol. 2, appendix B).
mod more {
    pub(super) const PORTS: u64 = 0x40;
    pub(super) const MSRS: u64 = 0x48;
    pub(super) const SHADOW: u64 = 0x68;
    pub(super) const EXIT_EVENT: u64 = 0x88;
    pub(super) const EVENT: u64 = 0xa8;
    pub(super) const GDT_LIMIT: u64 = 0x464;
    pub(super) const GDT_BASE: u64 = 0x468;
    pub(super) const RSP: u64 = 0x5d8;
    pub(super) const RAX: u64 = 0x5f8;
    pub(super) const CR2: u64 = 0x640;
}

/// Exits on NMIs, CPUID, INVLPGA, the ports and MSRs of the maps, shutdown.
const INTERCEPT: u32 = 1 << 1 | 1 << 18 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// Exits on interrupts that the guest would take.
const ON_INTERRUPT: u32 = 1 << 0;
/// Exits on IRET.
const ON_RETURN: u32 = 1 << 20;
/// Exits on SVM's own instructions: VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
const INTERCEPT_SVM: u32 = 0x7f;

const EXIT_INTERRUPT: u64 = 0x60;
const EXIT_NMI: u64 = 0x61;
const EXIT_CPUID: u64 = 0x72;
const EXIT_RETURN: u64 = 0x74;
const EXIT_INVLPGA: u64 = 0x7a;
const EXIT_PORT: u64 = 0x7b;
const EXIT_MSR: u64 = 0x7c;
const EXIT_SHUTDOWN: u64 = 0x7f;
const EXIT_VMRUN: u64 = 0x80;
const EXIT_SKINIT: u64 = 0x86;
const EXIT_NESTED_FAULT: u64 = 0x400;

/// The event is there; it has an error code; it is an exception, or an INT instruction's.
const EVENT_VALID: u64 = 1 << 31;
const EVENT_HAS_CODE: u64 = 1 << 11;
const EVENT_VECTOR: u64 = 0xff;
const EVENT_KIND: u64 = 7 << 8;
const EVENT_EXCEPTION: u64 = 3 << 8;
const EVENT_SOFTWARE: u64 = 4 << 8;

/// In CR0: protected mode, and errors of the FPU as exceptions.
const PROTECTED: u64 = 0x31;

const PAGING: u64 = 1 << 31;
/// In CR4: entries of eight bytes.
const WIDE_ENTRIES: u64 = 1 << 5;
/// In EFER: LME and LMA.
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// Registers that the control block does not have.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Registers {
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    others: [u64; 9],
    fpu: [u8; 512],
}

/// Why the guest came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Fault(Fault),
    Cpuid,
    ReadMsr,
    WriteMsr,
    Port(PortAccess),
    /// An interrupt waits, and the guest would take it.
    Interrupt,
    /// It is about to return from an interrupt.
    Return,
    /// An NMI has come.
    Kick,
    /// An instruction that it does not have.
    Undefined,
    /// A triple fault.
    Shutdown,
    Other {
        code: u64,
        info: [u64; 2],
    },
}

/// Which way a port is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// An access to a port of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortAccess {
    pub(crate) port: u16,
    pub(crate) direction: Direction,
    pub(crate) bytes: u64,
    /// It is part of a string instruction.
    pub(crate) is_string: bool,
    /// Where the guest goes on.
    next: u64,
}

/// An exception that is thrown into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exception {
    InvalidOpcode = 6,
    GeneralProtection = 13,
}

/// The guest's processor.
#[derive(Debug)]
pub(crate) struct Processor {
    control: SvmVcpu,
    pub(crate) registers: Box<Registers>,
    /// What is the host's of that which VMLOAD loads.
    host: u64,
}

/// Sets bits of a map in consecutive pages.
fn mark(map: u64, bits: impl Iterator<Item = u64>) {
    for bit in bits {
        let byte = ptr::with_exposed_provenance_mut::<u8>((map + bit / 8) as usize);
        // SAFETY: the map's pages are new, mapped one to one, and longer.
        unsafe { *byte |= 1 << (bit % 8) };
    }
}

/// Returns consecutive pages of zeros, while nobody else takes any.
fn control_pages(count: u64) -> u64 {
    let first = control_page();
    for index in 1..count {
        assert!(control_page() == first + index * PAGE_BYTES, "somebody else takes pages");
    }
    first
}

/// Returns where an MSR's two bits are, reading and writing (15.11).
fn msr_bits(msr: u32) -> [u64; 2] {
    let (vector, index) = match msr {
        0..0x2000 => (0, msr),
        0xc000_0000..0xc000_2000 => (1, msr - 0xc000_0000),
        0xc001_0000..0xc001_2000 => (2, msr - 0xc001_0000),
        _ => panic!("the map does not have MSR {msr:#x}"),
    };
    let bit = vector * 0x800 * 8 + 2 * u64::from(index);
    [bit, bit + 1]
}

/// Which ports and MSRs the guest does not reach by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    ports: u64,
    msrs: u64,
}

impl Maps {
    /// Makes them of these ports, each of two bytes, and MSRs. No other processor takes pages meanwhile.
    pub(crate) fn new(ports: &[u16], msrs: &[u32]) -> Self {
        let maps = Self { ports: control_pages(3), msrs: control_pages(2) };
        mark(maps.ports, ports.iter().flat_map(|&port| [port.into(), u64::from(port) + 1]));
        mark(maps.msrs, msrs.iter().flat_map(|&msr| msr_bits(msr)));
        maps
    }
}

impl Processor {
    /// Makes one of this processor, in flat 32-bit mode without paging.
    pub(crate) fn new(svm: Svm, maps: &Maps) -> Self {
        let mut control = svm.vcpu();
        control.put(place::INTERCEPTS, INTERCEPT);
        control.put(place::INTERCEPTS_SVM, INTERCEPT_SVM);
        // Interrupts are the guest's: its own flag holds them back.
        control.put(place::INTERRUPT, 0_u64);
        control.put(more::PORTS, maps.ports);
        control.put(more::MSRS, maps.msrs);
        control.put(more::CR2, 0_u64);
        let host = control_page();
        // SAFETY: the page is new, and SVM is on.
        unsafe { svm_save(host) };
        Self { control, registers: Box::new(Registers::new()), host }
    }

    /// Lets it begin at an address, with the code and the data segment of the boot protocol, which are in the table
    /// of segments `gdt` up to its last byte.
    pub(crate) fn start(&mut self, at: u64, stack: u64, gdt: u64, last: u32) {
        for (index, selector, attributes) in [
            (0, 0x18, 0xc93),
            (1, 0x10, 0xc9b),
            (2, 0x18, 0xc93),
            (3, 0x18, 0xc93),
            (4, 0x18, 0xc93),
            (5, 0x18, 0xc93),
        ] {
            self.control.segment(index, selector, attributes);
        }
        self.control.put(more::GDT_LIMIT, last);
        self.control.put(more::GDT_BASE, gdt);
        for (place, value) in [
            (place::CR0, PROTECTED),
            (place::CR3, 0),
            (place::CR4, 0),
            (place::RIP, at),
            (more::RSP, stack),
        ] {
            self.control.put(place, value);
        }
    }

    /// Lets it begin at an address in 64-bit mode, with the tables at `directory`.
    pub(crate) fn start_in_long_mode(&mut self, at: u64, directory: u64) {
        self.control.segment(1, 0x10, 0xa9b);
        for (place, value) in [
            (place::CR0, PROTECTED | PAGING),
            (place::CR3, directory),
            (place::CR4, WIDE_ENTRIES),
            (place::EFER, self.efer() | LONG_MODE),
            (place::RIP, at),
        ] {
            self.control.put(place, value);
        }
    }

    /// Tells which register of the control block is what.
    pub(crate) fn rip(&self) -> u64 {
        self.control.get(place::RIP)
    }

    pub(crate) fn cr4(&self) -> u64 {
        self.control.get(place::CR4)
    }

    pub(crate) fn efer(&self) -> u64 {
        self.control.get(place::EFER)
    }

    pub(crate) fn set_efer(&mut self, efer: u64) {
        self.control.put(place::EFER, efer);
    }

    pub(crate) fn rax(&self) -> u64 {
        self.control.get(more::RAX)
    }

    pub(crate) fn set_rax(&mut self, value: u64) {
        self.control.put(more::RAX, value);
    }

    /// Goes on behind an instruction of so many bytes.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.go_on_at(self.rip() + bytes);
    }

    /// Goes on behind an access to a port.
    pub(crate) fn skip_access(&mut self, access: &PortAccess) {
        self.go_on_at(access.next);
    }

    fn go_on_at(&mut self, rip: u64) {
        self.control.put(place::RIP, rip);
        self.control.put(more::SHADOW, self.control.get(more::SHADOW) & !1);
    }

    /// Throws an exception where the guest is.
    pub(crate) fn throw(&mut self, exception: Exception) {
        let code = if exception == Exception::GeneralProtection { EVENT_HAS_CODE } else { 0 };
        self.control.put(more::EVENT, EVENT_VALID | EVENT_EXCEPTION | code | exception as u64);
    }

    /// Has it come out before the next interrupt as well, or before the next return from one.
    pub(crate) fn stop_at(&mut self, what: Stop) {
        let bits = match what {
            Stop::Interrupt => ON_INTERRUPT,
            Stop::Return => ON_RETURN,
        };
        self.control.put(place::INTERCEPTS, INTERCEPT | bits);
    }

    /// Invalidates what is due, and runs the guest on the tables at `root` until it comes out.
    pub(crate) fn run(&mut self, root: u64, due: &Due) -> Exit {
        let control = &mut self.control;
        control.put(place::NESTED_CR3, root);
        control.put(place::CLEAN, 0_u64);
        control.put(place::TLB_CONTROL, if *due == Due::None { 0 } else { control.flush });
        // SAFETY: the control block is whole, and the guest reaches memory by its tables, which have what is its own.
        unsafe { svm_run_whole(control.vmcb, &raw mut *self.registers, self.host) };
        self.deliver_again();
        self.exit()
    }

    /// Has an event that the exit came in the middle of delivered again (15.7.2).
    fn deliver_again(&mut self) {
        let event = self.control.get(more::EXIT_EVENT);
        // INT n, INT3 and INTO are done again.
        let is_instruction = match event & EVENT_KIND {
            EVENT_SOFTWARE => true,
            EVENT_EXCEPTION => matches!(event & EVENT_VECTOR, 3 | 4),
            _ => false,
        };
        let again = event & EVENT_VALID != 0 && !is_instruction;
        self.control.put(more::EVENT, if again { event } else { 0 });
    }

    fn exit(&self) -> Exit {
        let (one, two) =
            (self.control.get(place::EXIT_INFO_1), self.control.get(place::EXIT_INFO_2));
        match self.control.get(place::EXIT_CODE) {
            EXIT_NESTED_FAULT => {
                Exit::Fault(Fault::NestedPageFault { gpa: Gpa::new(two), exitinfo1: one })
            }
            EXIT_CPUID => Exit::Cpuid,
            EXIT_MSR if one == 0 => Exit::ReadMsr,
            EXIT_MSR => Exit::WriteMsr,
            EXIT_PORT => Exit::Port(PortAccess::new(one, two)),
            EXIT_INTERRUPT => Exit::Interrupt,
            EXIT_RETURN => Exit::Return,
            EXIT_NMI => Exit::Kick,
            EXIT_INVLPGA | EXIT_VMRUN..=EXIT_SKINIT => Exit::Undefined,
            EXIT_SHUTDOWN => Exit::Shutdown,
            code => Exit::Other { code, info: [one, two] },
        }
    }
}

/// What the guest comes out for, besides what it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Interrupt,
    Return,
}

impl PortAccess {
    /// Reads an exit's information (15.10.2).
    const fn new(one: u64, next: u64) -> Self {
        let direction = if one & 1 == 0 { Direction::Out } else { Direction::In };
        Self {
            port: (one >> 16) as u16,
            direction,
            bytes: one >> 4 & 7,
            is_string: one & 4 != 0,
            next,
        }
    }
}

impl Registers {
    /// Makes those of a processor after INIT: of the FPU, all exceptions are masked.
    fn new() -> Self {
        let mut fpu = [0; 512];
        fpu[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        fpu[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Self { rbx: 0, rcx: 0, rdx: 0, rsi: 0, rdi: 0, others: [0; 9], fpu }
    }
}
