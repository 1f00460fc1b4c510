//! How the machine is turned off, and what it says then.

use x86::{
    halt,
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
    /// The processor has nothing that could be tested.
    Nothing = 3,
}

/// Turns the machine off.
pub(crate) fn off(ended: Ended) -> ! {
    // SAFETY: ports that only emulators have; and nothing is done after it.
    unsafe {
        outl(QEMU_EXIT, ended as u32);
        for byte in *b"Shutdown" {
            outb(BOCHS_EXIT, byte);
        }
        loop {
            irq::disable();
            halt();
        }
    }
}
