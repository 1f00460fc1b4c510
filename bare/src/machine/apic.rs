//! The local interrupt controller, through its page (AMD APM vol. 2, chapter 16; Intel SDM vol. 3A, chapter 11).

use core::{hint, ptr};

use super::interrupts;

/// Where it is after reset.
const BASE: usize = 0xfee0_0000;
const ID: usize = 0x20;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const COMMAND: usize = 0x300;
const COMMAND_TO: usize = 0x310;

const ENABLED: u32 = 1 << 8;
const INIT: u32 = 5 << 8 | 1 << 14;
const START_UP: u32 = 6 << 8 | 1 << 14;
const NMI: u32 = 4 << 8;
const FIXED: u32 = 1 << 14;
/// The last command has not been delivered.
const PENDING: u32 = 1 << 12;
const TO_ALL_OTHERS: u32 = 3 << 18;

fn write(register: usize, value: u32) {
    // SAFETY: the controller's page, which is mapped; nothing in memory follows from it.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(BASE + register).write_volatile(value) };
}

fn read(register: usize) -> u32 {
    // SAFETY: as in `write`.
    unsafe { ptr::with_exposed_provenance::<u32>(BASE + register).read_volatile() }
}

/// Turns this processor's controller on.
pub(crate) fn enable() {
    write(SPURIOUS, ENABLED | u32::from(interrupts::SPURIOUS));
}

/// Returns this processor's number among the controllers.
pub(crate) fn id() -> u32 {
    read(ID) >> 24
}

/// Has all other processors begin at a page below 1 MiB; `pause` waits as long as the manuals say.
pub(crate) fn start_others(page: u8, pause: impl Fn()) {
    write(COMMAND, TO_ALL_OTHERS | INIT);
    pause();
    write(COMMAND, TO_ALL_OTHERS | START_UP | u32::from(page));
    pause();
}

/// Interrupts one processor. Interrupts are off, so that the two halves stay together.
pub(crate) fn interrupt(id: u32, vector: u8) {
    while read(COMMAND) & PENDING != 0 {
        hint::spin_loop();
    }
    write(COMMAND_TO, id << 24);
    write(COMMAND, FIXED | u32::from(vector));
}

/// Sends one processor an NMI. Somebody else may have been about to send something else.
pub(crate) fn kick_unheld(id: u32) {
    let wait = || {
        while read(COMMAND) & PENDING != 0 {
            hint::spin_loop();
        }
    };
    wait();
    let to = read(COMMAND_TO);
    write(COMMAND_TO, id << 24);
    write(COMMAND, NMI | FIXED);
    wait();
    write(COMMAND_TO, to);
}

/// Says that an interrupt was taken.
pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}
