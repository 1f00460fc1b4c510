//! Where processors begin that the kernel wakes later: in a piece of its memory that it is told to leave alone.

use core::{arch::global_asm, ops::Range, ptr::addr_of, slice};

use super::{
    acpi::Tables,
    loader::put,
    memory::{Hands, LEGACY},
    vcpu::Processor,
};
use crate::machine::apic;

global_asm!(include_str!("parking.S"), options(att_syntax));

unsafe extern "C" {
    static parking_code: u8;
    static parking_code_end: u8;
}

/// All of it.
pub(super) const RANGE: Range<u64> = 0x9_0000..LEGACY.start;
const MAILBOX: u64 = RANGE.start;
const CODE: u64 = RANGE.start + 0x1000;
/// Tables of four levels that map the first 2 MiB.
const DIRECTORIES: [u64; 3] = [RANGE.start + 0x2000, RANGE.start + 0x3000, RANGE.start + 0x4000];
/// ACPI's tables.
const FIRST: u64 = RANGE.start + 0x5000;
const LIST: u64 = RANGE.start + 0x6000;
const PROCESSORS: u64 = RANGE.start + 0x7000;

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 0x80;

/// Puts there what it takes; returns where the kernel finds the first of ACPI's tables.
pub(super) fn furnish(hands: &Hands) -> u64 {
    let (start, end) = (addr_of!(parking_code), addr_of!(parking_code_end));
    // SAFETY: it is code, which nobody writes.
    let code = unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) };
    put(hands, MAILBOX, &[0; 16]);
    put(hands, CODE, code);
    let [top, middle, bottom] = DIRECTORIES;
    for (at, entry) in [(top, middle), (middle, bottom), (bottom, LARGE)] {
        put(hands, at, &(entry | PRESENT_WRITABLE).to_le_bytes());
    }
    let tables = Tables::new([FIRST, LIST, PROCESSORS], MAILBOX).expect("firmware has made some");
    for (at, table) in [&tables.first, &tables.list, &tables.processors] {
        put(hands, *at, table);
    }
    FIRST
}

/// Has this processor's guest wait there.
pub(super) fn park(processor: &mut Processor) {
    processor.start_in_long_mode(CODE, DIRECTORIES[0]);
    processor.registers.rbx = apic::id().into();
    processor.registers.rdi = MAILBOX;
}
