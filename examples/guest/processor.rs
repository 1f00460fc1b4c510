//! What runs a guest: a software MMU, or KVM.

use slat::{AnyFormat, Arena, Vcpu, mmu::Fault};

use crate::{batch::Batch, outcome::Broken};

/// The processor of one vCPU, with the handle by which it is known to the space.
pub(crate) trait Processor {
    /// Returns that handle: who resolves its faults.
    fn vcpu(&self) -> &Vcpu<AnyFormat, Arena>;

    /// Enters the guest and stays until there is a reason to come out. What the guest does is the rest of
    /// `batch`, and noted there.
    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken>;
}

/// Why a vCPU came out of the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// The next access of the batch cannot be translated.
    Fault(Fault),
    Kicked,
    /// The batch is done.
    Done,
}
