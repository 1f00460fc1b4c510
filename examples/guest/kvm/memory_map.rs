//! What lies where in the guest's memory.
//!
//! | guest-physical frames | contents | guest-linear |
//! | --- | --- | --- |
//! | 0 and up | *system*: what the guest needs to run at all | from [`LINEAR`] on, at the same offsets |
//! | [`TABLES`] and up | the arena: the guest's page tables | nowhere |
//! | [`DATA`] and up | the workload's memory | everywhere else in the lower half, as the host maps it |
//!
//! The system memory begins with what all vCPUs share, a page each, and goes on with arrays of pages, one
//! element for each vCPU. Each part has the least rights that do; what the workload has is the caller's affair.

use slat::{Attr, Gpa, GpaRange, HostPfn, LeafFlags, PAGE_BYTES, Prot};

/// Where the guest finds its tables: the [base](slat::ArenaOptions::with_base) of the arena.
pub(crate) const TABLES: HostPfn = HostPfn::new(1 << 20);
/// Where the guest finds the workload's memory.
pub(crate) const DATA: HostPfn = HostPfn::new(1 << 24);
/// The first frame of the system memory.
pub(super) const SYSTEM: HostPfn = HostPfn::new(0);
/// A frame that is in no other memslot: for one that comes and goes at once.
pub(super) const NOWHERE: HostPfn = HostPfn::new(DATA.get() - 1);

/// Where the system memory begins for the guest: at an entry of the root that no program has a use for,
/// far above its code and heap and far below its stack and libraries.
///
/// Not in the upper half, where kernels are: a KVM that has no hardware virtualization runs the guest's
/// ring 3 in the address space of the host's own kernel, and refuses translations there (with a page
/// fault for a reserved bit).
const LINEAR: Gpa = Gpa::new(0x4000_0000_0000);

/// The most operations in a batch.
pub(crate) const BATCH: usize = 4096;
/// Bytes of an operation.
pub(super) const OP_BYTES: usize = 16;

const PAGE: usize = PAGE_BYTES as usize;
const BATCH_PAGES: usize = (BATCH * OP_BYTES).div_ceil(PAGE);

/// Pages of the parts that all vCPUs share.
const KERNEL: usize = 0;
const WORKER: usize = 1;
const IDT: usize = 2;
const SHARED: usize = 3;
/// Pages of each vCPU: descriptors, kernel stack, user stack, batch.
const OWN: usize = 3 + BATCH_PAGES;

/// Returns the linear addresses that [`Vm::new`](super::Vm::new) populates for a guest of `vcpus` vCPUs.
pub(crate) fn region(vcpus: usize) -> GpaRange {
    MemoryMap { vcpus }.range(0, SHARED + OWN * vcpus)
}

/// A part of the system memory: consecutive pages, all with the same rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) range: GpaRange,
    pub(super) first: HostPfn,
    pub(super) attr: Attr,
}

/// Something in the system memory, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Place {
    const fn page(page: usize) -> Self {
        Self(page * PAGE)
    }

    /// Returns the place `bytes` bytes further on.
    pub(super) const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes)
    }

    /// Returns the place `bytes` bytes before.
    pub(super) const fn minus(self, bytes: usize) -> Self {
        Self(self.0 - bytes)
    }

    /// Returns how many bytes into the system memory it lies.
    pub(super) const fn offset(self) -> usize {
        self.0
    }

    /// Returns the address by which the guest knows it.
    pub(super) const fn linear(self) -> u64 {
        LINEAR.get() + self.0 as u64
    }
}

/// The system memory of a guest with this many vCPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryMap {
    pub(super) vcpus: usize,
}

impl MemoryMap {
    /// The code of the kernel.
    pub(super) const KERNEL: Place = Place::page(KERNEL);
    /// The code of the worker.
    pub(super) const WORKER: Place = Place::page(WORKER);
    /// The interrupt descriptor table.
    pub(super) const IDT: Place = Place::page(IDT);

    pub(super) const fn bytes(self) -> usize {
        (SHARED + OWN * self.vcpus) * PAGE
    }

    /// Returns the page with the GDT and the TSS of a vCPU.
    pub(super) const fn descriptors(self, vcpu: usize) -> Place {
        Place::page(SHARED + vcpu)
    }

    /// Returns the end of the stack on which page faults are taken.
    pub(super) const fn fault_stack(self, vcpu: usize) -> Place {
        Place::page(SHARED + self.vcpus + vcpu + 1)
    }

    /// Returns the end of the stack on which all other exceptions are taken: so that they can be
    /// reported also when it is the page-fault handler that has one.
    pub(super) const fn exception_stack(self, vcpu: usize) -> Place {
        self.fault_stack(vcpu).minus(PAGE / 2)
    }

    /// Returns the end of the worker's stack.
    pub(super) const fn user_stack(self, vcpu: usize) -> Place {
        Place::page(SHARED + 2 * self.vcpus + vcpu + 1)
    }

    /// Returns where a vCPU finds its batch.
    pub(super) const fn batch(self, vcpu: usize) -> Place {
        Place::page(SHARED + 3 * self.vcpus + BATCH_PAGES * vcpu)
    }

    /// Returns all parts, in order.
    pub(super) fn parts(self) -> [Part; 4] {
        let (kernel, user) = (LeafFlags::empty(), LeafFlags::USER);
        let n = self.vcpus;
        [
            self.part(KERNEL, 1, Prot::RX, kernel),
            self.part(WORKER, 1, Prot::RX, user),
            self.part(IDT, 1 + 2 * n, Prot::RW, kernel),
            self.part(SHARED + 2 * n, (1 + BATCH_PAGES) * n, Prot::RW, user),
        ]
    }

    fn part(self, first: usize, pages: usize, prot: Prot, flags: LeafFlags) -> Part {
        Part {
            range: self.range(first, pages),
            first: HostPfn::new(SYSTEM.get() + first as u64),
            attr: Attr::new(prot).with_flags(flags),
        }
    }

    fn range(self, first: usize, pages: usize) -> GpaRange {
        let start = Gpa::new(Place::page(first).linear());
        let range = GpaRange::from_pages(start, pages as u64);
        range.unwrap_or_else(|error| panic!("{} vCPUs have too much memory: {error}", self.vcpus))
    }
}

#[cfg(test)]
mod tests;
