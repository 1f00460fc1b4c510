//! How processors are brought out of the guest: by NMIs, which it cannot hold back, and is not told of.

use alloc::{sync::Arc, vec::Vec};
use core::arch::asm;

use slat::{Kick, ObserverId};
use spin::mutex::SpinMutex;

use crate::machine::apic;

/// Who can be brought out: which observer runs on the processor of which interrupt controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Kicks(Arc<SpinMutex<Vec<(ObserverId, u32)>>>);

impl Kicks {
    /// Says that `observer` enters on this processor.
    pub(super) fn add(&self, observer: ObserverId) {
        self.0.lock().push((observer, apic::id()));
    }

    /// Brings all out but this processor.
    pub(super) fn kick_others(&self) {
        let this = apic::id();
        let all = self.0.lock();
        all.iter().filter(|&&(_, id)| id != this).for_each(|&(_, id)| apic::kick_unheld(id));
    }
}

impl Kick for Kicks {
    fn kick(&self, observer: ObserverId) {
        let all = self.0.lock();
        all.iter()
            .filter(|&&(other, _)| other == observer)
            .for_each(|&(_, id)| apic::kick_unheld(id));
    }
}

/// Holds NMIs back, too, until the guest runs: one that comes from now on brings it out at once.
pub(super) fn hold_back() {
    // SAFETY: SVM is on; whoever does so runs the guest next, or takes them.
    unsafe { asm!("clgi") };
}

/// Takes those that wait.
pub(super) fn take() {
    // SAFETY: SVM is on; there is a gate for them.
    unsafe { asm!("stgi") };
}
