//! What is known when a guest cannot go on: for whoever has to find out why.

use std::{fmt, io};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_regs, kvm_sregs,
};
use slat::{AnyFormat, Arena, Entry, Format, Gpa, Level, PageTable, Walk};

use super::{cpu::PageFault, vm::VmError};

/// Why a guest cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("triple fault: an exception could not be delivered (KVM_EXIT_SHUTDOWN)")]
    TripleFault,
    #[error("KVM internal error {suberror}, {}, with {data:#x?}", internal(*suberror))]
    InternalError { suberror: u32, data: Vec<u64> },
    #[error("the processor (number {cpu}) refused to enter the guest, for reason {reason:#x}")]
    FailedEntry { reason: u64, cpu: u32 },
    #[error("exception {vector} of the guest's, {}", exception(*vector, *error_code))]
    Exception { vector: u16, error_code: u64 },
    #[error("a page fault of the guest's kernel at {}, {:?}", .0.address, .0.code)]
    KernelFault(PageFault),
    #[error("unexpected exit: {0}")]
    Unexpected(String),
    #[error("KVM_RUN failed: {0}")]
    Run(#[source] io::Error),
    #[error("making KVM forget failed: {0}")]
    Invalidate(#[source] VmError),
}

/// Returns the name of an internal error.
fn internal(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that it cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit for a reason that it does not know",
        _ => "of which nothing is known",
    }
}

/// Returns an exception's name (AMD APM vol. 2, 8.2), and its error code if it has one.
fn exception(vector: u16, error_code: u64) -> String {
    let name = match vector {
        0 => "#DE, divide error",
        1 => "#DB, debug",
        2 => "NMI",
        3 => "#BP, breakpoint",
        4 => "#OF, overflow",
        5 => "#BR, bound range",
        6 => "#UD, invalid opcode",
        7 => "#NM, device not available",
        8 => "#DF, double fault",
        10 => "#TS, invalid TSS",
        11 => "#NP, segment not present",
        12 => "#SS, stack",
        13 => "#GP, general protection",
        14 => "#PF, page fault",
        16 => "#MF, x87 floating point",
        17 => "#AC, alignment check",
        18 => "#MC, machine check",
        19 => "#XF, SIMD floating point",
        21 => "#CP, control protection",
        29 => "#VC, VMM communication",
        30 => "#SX, security",
        _ => "which has no name",
    };
    match vector {
        8 | 10..=14 | 17 | 21 | 29 | 30 => format!("{name}, with error code {error_code:#x}"),
        _ => name.to_owned(),
    }
}

/// The registers of a vCPU.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    general: kvm_regs,
    pub(super) rip: u64,
    pub(super) rsp: u64,
    pub(super) rflags: u64,
    pub(super) cs: u16,
    pub(super) ss: u16,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Registers {
    pub(super) fn new(regs: kvm_regs, sregs: &kvm_sregs) -> Self {
        Self {
            general: regs,
            rip: regs.rip,
            rsp: regs.rsp,
            rflags: regs.rflags,
            cs: sregs.cs.selector,
            ss: sregs.ss.selector,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
        }
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { general: r, rip, rsp, rflags, cs, ss, cr0, cr2, cr3, cr4, efer } = self;
        let rows = [
            [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
            [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("rsp", *rsp)],
            [("r8", r.r8), ("r9", r.r9), ("r10", r.r10), ("r11", r.r11)],
            [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
            [("rip", *rip), ("rflags", *rflags), ("cs", (*cs).into()), ("ss", (*ss).into())],
            [("cr0", *cr0), ("cr2", *cr2), ("cr3", *cr3), ("cr4", *cr4)],
        ];
        for row in rows {
            for (name, value) in row {
                write!(f, "  {name:>6} {value:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  {:>6} {efer:016x}", "efer")
    }
}

/// A walk of the guest's tables, in the order in which a processor makes it.
#[derive(Debug)]
struct Path {
    /// Which register holds the address.
    register: &'static str,
    address: Gpa,
    walk: Walk,
}

/// Bits of an entry, by their letters (AMD APM vol. 2, 5.4.1).
const LETTERS: [(u64, char); 8] = [
    (1 << 0, 'P'),
    (1 << 1, 'W'),
    (1 << 2, 'U'),
    (1 << 5, 'A'),
    (1 << 6, 'D'),
    (1 << 7, 'S'),
    (1 << 8, 'G'),
    (1 << 63, 'N'),
];

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  walk of {}, {}:", self.register, self.address)?;
        if self.walk.is_empty() {
            writeln!(f, "    none: the address is not canonical")?;
        }
        for step in &*self.walk {
            let entry = step.entry;
            write!(f, "    {:?} {:#018x} ", step.level, entry.raw())?;
            let letters = LETTERS.map(|(bit, letter)| if entry.has(bit) { letter } else { '-' });
            f.write_str(&String::from_iter(letters))?;
            f.write_str(match entry {
                Entry::UNPOPULATED => " (not populated)\n",
                Entry::EMPTY => " (not mapped)\n",
                _ => "\n",
            })?;
        }
        Ok(())
    }
}

/// A guest that cannot go on, and all that is known of it; its text has several lines.
#[derive(Debug)]
pub(crate) struct Crash(Box<Report>);

#[derive(Debug)]
struct Report {
    cause: Cause,
    registers: Registers,
    paths: [Path; 2],
}

impl Crash {
    /// Notes how things stand, with the table as it is now.
    pub(super) fn new(
        cause: Cause,
        registers: Registers,
        table: &PageTable<AnyFormat, Arena>,
    ) -> Self {
        let pin = table.pin();
        let paths = [("cr2", registers.cr2), ("rip", registers.rip)].map(|(register, address)| {
            let address = Gpa::new(address);
            Path { register, address, walk: pin.walk(address, Level::L1) }
        });
        debug_assert_eq!(table.format().name(), "long-mode", "the letters are those of its bits");
        Self(Box::new(Report { cause, registers, paths }))
    }

    #[cfg(test)]
    pub(super) fn into_cause(self) -> Cause {
        self.0.cause
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { cause, registers, paths: [cr2, rip] } = &*self.0;
        writeln!(f, "{cause}")?;
        write!(f, "{registers}{cr2}{rip}")
    }
}

/// Without a source: all that there is to say is in its text.
impl std::error::Error for Crash {}
