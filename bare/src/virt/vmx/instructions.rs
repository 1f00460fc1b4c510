//! What VMX has for instructions, and its registers.

use core::{arch::asm, ptr};

use x86::msr::{self, rdmsr};

use crate::machine::memory::control_page;

/// Executes an instruction of VMX that takes a page by its physical address.
///
/// # Safety
/// As the instruction wants it.
macro_rules! with_page {
    ($instruction:literal, $page:expr) => {{
        let page: u64 = $page;
        let failed: u8;
        core::arch::asm!(concat!($instruction, " [{}]"), "setna {}", in(reg) &page, out(reg_byte) failed);
        assert!(failed == 0, "{} failed", $instruction);
    }};
}
pub(super) use with_page;

pub(super) fn vmwrite(field: u32, value: u64) {
    let failed: u8;
    // SAFETY: the processor has a current control structure, which is this image's own.
    unsafe {
        asm!("vmwrite {}, {}", "setna {}", in(reg) u64::from(field), in(reg) value, lateout(reg_byte) failed);
    }
    assert!(failed == 0, "field {field:#x} cannot be written");
}

pub(super) fn vmread(field: u32) -> u64 {
    let (value, failed): (_, u8);
    // SAFETY: as in `vmwrite`.
    unsafe {
        asm!("vmread {}, {}", "setna {}", out(reg) value, in(reg) u64::from(field), lateout(reg_byte) failed);
    }
    assert!(failed == 0, "field {field:#x} cannot be read");
    value
}

/// Drops what the processor has cached of the tables at `eptp`, or of all tables.
pub(super) fn invept(eptp: Option<u64>) {
    const ONE: u64 = 1;
    const ALL: u64 = 2;
    let (kind, descriptor) = (if eptp.is_some() { ONE } else { ALL }, [eptp.unwrap_or(0), 0]);
    let failed: u8;
    // SAFETY: only drops what is cached.
    unsafe {
        asm!("invept {}, [{}]", "setna {}", in(reg) kind, in(reg) &descriptor, lateout(reg_byte) failed);
    }
    // What is due would be used for ever.
    assert!(failed == 0, "invept failed");
}

/// Reads a register of capabilities.
pub(super) fn capability(number: u32) -> u64 {
    // SAFETY: the processor has VMX, and so the register.
    unsafe { rdmsr(number) }
}

/// Returns what is wanted of controls, with what has to be set, without what cannot be.
pub(super) fn controls(number: u32, wanted: u64) -> u64 {
    let allowed = capability(number);
    (wanted | (allowed & 0xffff_ffff)) & (allowed >> 32)
}

/// A page as VMX wants its own to be: with the revision in front.
pub(super) fn revised_page() -> u64 {
    let page = control_page();
    let revision = capability(msr::IA32_VMX_BASIC) as u32 & 0x7fff_ffff;
    // SAFETY: the page is new, and mapped one to one.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(page as usize).write_volatile(revision) };
    page
}
