//! Whether this machine has a KVM that can run the guest.

use std::{fmt, io};

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use slat::{BadPhysWidth, GpaRange, PageSize, PhysWidth};

use super::memory_map;

/// The CPUID leaf with the physical address width (AMD APM vol. 3, E.4.7).
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// Bytes of the lower half of linear addresses, with 4 levels (AMD APM vol. 2, 5.3.1).
const LOWER_HALF: u64 = 1 << 47;
/// The CPUID leaf with extended features, and its bit of EDX for leaves of 1 GiB (AMD APM vol. 3, E.4.2).
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const PAGES_1G: u32 = 1 << 26;
/// The width of a processor without that leaf.
const USUAL_WIDTH: u8 = 36;

/// Why guests cannot be run on KVM here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Unavailable {
    #[error(
        "there is no /dev/kvm: load the kernel's module (kvm_intel or kvm_amd), or enable \
         virtualization in the firmware, or nested virtualization where this is a guest itself"
    )]
    NoDevice,
    #[error("no permission to open /dev/kvm: run as root, or as a member of its group")]
    NoPermission,
    #[error("opening /dev/kvm failed: {0}")]
    Open(#[source] io::Error),
    #[error(
        "this KVM speaks version {0} of its interface, not {KVM_API_VERSION}: update the kernel"
    )]
    ApiVersion(i32),
    #[error("KVM cannot make a virtual machine: {0}; another hypervisor may have the processor")]
    NoVm(#[source] io::Error),
    #[error("this KVM lacks {0}: update the kernel")]
    Lacks(Capability),
    #[error("KVM does not say what its processors can do: {0}")]
    NoCpuid(#[source] io::Error),
    #[error("KVM's processors have addresses that no page table is made for: {0}")]
    PhysWidth(#[from] BadPhysWidth),
}

/// The guest's processors lack leaves of 1 GiB.
#[derive(Debug, thiserror::Error)]
#[error(
    "--page-size 1G: the guests of this KVM have no leaves of 1 GiB (CPUID 0x80000001, EDX bit 26): try \
     2M, or --backend soft"
)]
pub(crate) struct NoHugeLeaves;

/// Something that the guest needs KVM to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    UserMemory,
    SyncMmu,
    SyncRegs,
    ImmediateExit,
}

impl Capability {
    const ALL: [Self; 4] = [Self::UserMemory, Self::SyncMmu, Self::SyncRegs, Self::ImmediateExit];

    fn is_in(self, kvm: &Kvm) -> bool {
        let registers = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS).cast_signed();
        match self {
            Self::UserMemory => kvm.check_extension(Cap::UserMemory),
            Self::SyncMmu => kvm.check_extension(Cap::SyncMmu),
            Self::SyncRegs => kvm.check_extension_int(Cap::SyncRegs) & registers == registers,
            Self::ImmediateExit => kvm.check_extension(Cap::ImmediateExit),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserMemory => "KVM_CAP_USER_MEMORY (guest memory from the process's own)",
            Self::SyncMmu => "KVM_CAP_SYNC_MMU (guest memory follows the process's mappings)",
            Self::SyncRegs => "KVM_CAP_SYNC_REGS (registers in the shared page)",
            Self::ImmediateExit => "KVM_CAP_IMMEDIATE_EXIT (kicks that are not lost)",
        })
    }
}

/// A KVM that can run the guest.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) kvm: Kvm,
    /// What the guest's processors can do: all that KVM supports.
    pub(super) cpuid: CpuId,
    phys_width: PhysWidth,
}

impl Host {
    /// Opens KVM, and tries whether it can do what is needed.
    ///
    /// # Errors
    /// [`Unavailable`] says what is missing, and what to do about it.
    pub(crate) fn open() -> Result<Self, Unavailable> {
        let kvm = Kvm::new().map_err(|error| match io::Error::from(error) {
            error if error.kind() == io::ErrorKind::PermissionDenied => Unavailable::NoPermission,
            error => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Unavailable::NoDevice,
                _ => Unavailable::Open(error),
            },
        })?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION.cast_signed() {
            return Err(Unavailable::ApiVersion(version));
        }
        if let Some(lacking) = Capability::ALL.into_iter().find(|needed| !needed.is_in(&kvm)) {
            return Err(Unavailable::Lacks(lacking));
        }
        // Only this turns the processor's virtualization on.
        create_vm(&kvm).map_err(Unavailable::NoVm)?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.map_err(|error| Unavailable::NoCpuid(error.into()))?;
        let phys_width = phys_width(&cpuid)?;
        Ok(Self { kvm, cpuid, phys_width })
    }

    /// Returns the guest's physical address width: bits above it are reserved in the guest's tables.
    pub(crate) fn phys_width(&self) -> PhysWidth {
        self.phys_width
    }

    /// Checks that the guest's processors have leaves of this size: all have those of 2 MiB (AMD APM vol.
    /// 2, 5.3).
    ///
    /// # Errors
    /// [`NoHugeLeaves`] if they are of 1 GiB, and CPUID does not say so.
    pub(crate) fn check_leaves(&self, size: PageSize) -> Result<(), NoHugeLeaves> {
        let mut leaves = self.cpuid.as_slice().iter();
        let features = leaves.find(|leaf| leaf.function == EXTENDED_FEATURES);
        let has_huge = features.is_some_and(|leaf| leaf.edx & PAGES_1G != 0);
        if size == PageSize::Size1G && !has_huge { Err(NoHugeLeaves) } else { Ok(()) }
    }

    /// Returns the linear addresses that [`Vm::new`](super::Vm::new) populates for a guest of `vcpus` vCPUs.
    pub(crate) fn region(&self, vcpus: usize) -> GpaRange {
        memory_map::region(vcpus)
    }

    /// Tells whether a guest of `vcpus` vCPUs can have memory there: not where it has its own, nor in the
    /// upper half, where it could not run (see [`memory_map`]).
    pub(crate) fn has_room(&self, range: GpaRange, vcpus: usize) -> bool {
        let own = self.region(vcpus);
        let is_apart = range.last() < own.start() || own.last() < range.start();
        is_apart && range.last().get() < LOWER_HALF
    }

    /// Returns the most vCPUs that a guest can have.
    pub(crate) fn most_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

/// Makes a virtual machine. KVM registers with the process's memory for that, which a signal interrupts.
pub(super) fn create_vm(kvm: &Kvm) -> io::Result<VmFd> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            created => return created.map_err(io::Error::from),
        }
    }
}

fn phys_width(cpuid: &CpuId) -> Result<PhysWidth, BadPhysWidth> {
    let leaf = cpuid.as_slice().iter().find(|leaf| leaf.function == ADDRESS_SIZES);
    PhysWidth::new(leaf.map_or(USUAL_WIDTH, |leaf| leaf.eax as u8))
}
