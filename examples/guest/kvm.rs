//! vCPUs that KVM runs, whose CR3 points at the library's tables.
//!
//! A process can hand hardware only one kind of its tables: the long-mode tables of a guest. So to the
//! library a [`Gpa`](slat::Gpa) is what the guest calls a linear address, and a
//! [`HostPfn`](slat::HostPfn) the number of a guest-physical frame; [`memory_map`] says what lies where.
//! The guest is a few instructions of ours ([`code`]) that do the accesses they are told to and report
//! each page fault to the host, which has the [space](slat::Vcpu::fault) resolve it.
//!
//! From the bottom up: [`host`] says whether KVM can do what is needed here; [`vm`] gives a guest its
//! memory, and makes KVM forget translations; [`vcpu`] enters the guest through a
//! [`slat::Vcpu`], and is the part to take into a VMM; [`boot`] puts a vCPU into long mode;
//! [`cpu`] makes a worker of it that executes batches of accesses; [`crash`] tells what is wrong when it
//! does not.
//!
//! # What KVM caches, and what makes it forget
//!
//! With nested paging the processor walks the guest's tables itself. Without, KVM keeps *shadow pages*:
//! tables of its own, made of ours, as a translation cache of any size, for all vCPUs together. It learns
//! that a guest changed its tables by write-protecting them; of stores that the *host* makes to them, as
//! the library's are, it learns nothing. So it must be told, and so must the processor's own cache, of
//! which KVM takes care when it changes something.
//!
//! [`Vm::invalidate`] does that, when a vCPU enters and finds something due: deleting a memslot, any, makes KVM
//! drop all shadow pages, also under running vCPUs. It takes a tenth of a millisecond, and then every vCPU finds
//! its pages anew; but it is always right, for leaves, for rights, for dirty bits and for upper entries, and one
//! serves all vCPUs that find the same due.
//!
//! A process could do with less for a few leaves: give up its own mapping of their *frames* (`madvise`, where
//! frames are in a shared file and keep their contents), which KVM must follow at once. But that has to be
//! between the change of the entry and the shoot-down, and there is nobody there who knows the frames: what is
//! due when a vCPU enters is addresses. And it does not do for large leaves, nor for upper entries: the shadow
//! page of what went stays linked, and is filled again.
//!
//! What looks as if it would do and does not: the guest's own INVLPG and loads of CR3 (KVM trusts its
//! shadow pages, which it believes to be write-protected); KVM_SET_SREGS, for the same reason; `madvise`
//! of the *table's* page (no guest has a translation to that; and it would clear the table).

mod boot;
mod code;
mod cpu;
mod crash;
mod host;
mod memory_map;
mod native;
#[cfg(test)]
mod tests;
mod vcpu;
mod vm;

pub(crate) use self::{
    cpu::LoadError,
    crash::Crash,
    host::Host,
    memory_map::{DATA, TABLES},
    native::run,
    vcpu::signal_kicks,
    vm::{Vm, VmError},
};
