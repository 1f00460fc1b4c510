//! Tests on the machine's own KVM, or none: each says so by its name where that is missing.

mod audits;
mod choice;
mod crashes;
mod faults;
mod flushes;
mod large;
pub(super) mod rig;
mod upper;
