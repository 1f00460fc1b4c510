//! Page-modification logging (Intel SDM vol. 3C, 29.3.6): 512 addresses in a page, from the last entry down.

use core::ptr;

use alloc::vec::Vec;

use slat::Gpa;
use x86::{
    msr,
    vmx::vmcs::{control, guest},
};

use super::{SECONDARY, VmxVcpu, capability, controls, vmread, vmwrite};
use crate::machine::memory::control_page;

/// The secondary control that turns it on.
const LOG: u64 = 1 << 17;
const ENTRIES: u64 = 512;

/// Tells whether the processor has it.
pub(super) fn is_there() -> bool {
    capability(msr::IA32_VMX_PROCBASED_CTLS2) >> 32 & LOG != 0
}

impl VmxVcpu {
    /// Turns it on.
    pub(super) fn start_log(&mut self) {
        self.make_current();
        self.log = control_page();
        let secondary = controls(msr::IA32_VMX_PROCBASED_CTLS2, SECONDARY | LOG);
        vmwrite(control::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary);
        vmwrite(control::PML_ADDR_FULL, self.log);
        vmwrite(guest::PML_INDEX, ENTRIES - 1);
    }

    /// Returns what is in it, and empties it.
    pub(super) fn take_log(&mut self) -> Vec<Gpa> {
        self.make_current();
        // The entry that is next; past the first one it is 0xffff.
        let next = vmread(guest::PML_INDEX) as u16;
        vmwrite(guest::PML_INDEX, ENTRIES - 1);
        let entry = |index: u64| {
            let at = ptr::with_exposed_provenance::<u64>((self.log + 8 * index) as usize);
            // SAFETY: the log is a page of this vCPU's own, and its guest is not running.
            Gpa::new(unsafe { at.read_volatile() })
        };
        (u64::from(next.wrapping_add(1))..ENTRIES).rev().map(entry).collect()
    }
}
