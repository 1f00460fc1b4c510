//! How the machine is turned off, and what it says then.

use x86::{
    io::{outb, outl},
    irq,
};

/// QEMU's `isa-debug-exit`: it ends with twice the value plus one.
const QEMU_EXIT: u16 = 0xf4;
/// Bochs ends when it reads this there.
const BOCHS_EXIT: u16 = 0x8900;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Passed = 0,
    Failed = 1,
    Panicked = 2,
    /// Nothing could be tried: the processor, or what was asked for, has nothing.
    Nothing = 3,
}

/// Turns the machine off.
pub(crate) fn off(ended: Ended) -> ! {
    // SAFETY: a port that only emulators have; and nothing is done after it.
    unsafe { outl(QEMU_EXIT, ended as u32) };
    for byte in *b"Shutdown" {
        // SAFETY: as before.
        unsafe { outb(BOCHS_EXIT, byte) };
    }
    halt()
}

/// Has this processor do nothing more.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nobody waits for an interrupt any more.
        unsafe { irq::disable() };
        // SAFETY: there is nothing more to do.
        unsafe { x86::halt() };
    }
}
