//! Which emulator the machine is, for what is known of each.

use x86::{
    cpuid::{CpuId, Hypervisor},
    io::inb,
};

use super::console::DEBUG;

/// Who makes the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emulator {
    Qemu,
    Bochs,
    /// A processor, for all that one can tell.
    None,
}

impl Emulator {
    /// Finds out.
    pub(crate) fn find() -> Self {
        let hypervisor = CpuId::new().get_hypervisor_info().map(|info| info.identify());
        // SAFETY: a port that only emulators have.
        let echo = unsafe { inb(DEBUG) };
        match hypervisor {
            Some(Hypervisor::QEMU) => Self::Qemu,
            // Bochs' debug port reads as its number.
            None if u16::from(echo) == DEBUG => Self::Bochs,
            _ => Self::None,
        }
    }
}
