//! Faults, as the processor reports them.

use crate::addr::Gpa;

/// Bits of the exit qualification of an EPT violation (Intel SDM vol. 3C, 28.2.1, table "Exit
/// Qualification for EPT Violations").
pub(super) mod qualification {
    pub(crate) const READ: u64 = 1 << 0;
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const FETCH: u64 = 1 << 2;
    pub(crate) const READABLE: u64 = 1 << 3;
    pub(crate) const WRITABLE: u64 = 1 << 4;
    pub(crate) const EXECUTABLE: u64 = 1 << 5;
    pub(crate) const USER_EXECUTABLE: u64 = 1 << 6;
    pub(crate) const LINEAR_VALID: u64 = 1 << 7;
    pub(crate) const FINAL: u64 = 1 << 8;

    /// What the entries of the walk allow; all clear if one was not present.
    pub(crate) const ALLOWED: u64 = READABLE | WRITABLE | EXECUTABLE | USER_EXECUTABLE;
}

/// Bits of a page-fault error code (AMD APM vol. 2, 8.4.2), and what EXITINFO1 of a nested page
/// fault adds (15.25.6).
pub(super) mod code {
    pub(crate) const PRESENT: u64 = 1 << 0;
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const USER: u64 = 1 << 2;
    pub(crate) const RESERVED: u64 = 1 << 3;
    pub(crate) const FETCH: u64 = 1 << 4;
    pub(crate) const FINAL: u64 = 1 << 32;
    pub(crate) const GUEST_TABLE: u64 = 1 << 33;
}

/// Why a translation failed, in the words of the processor.
///
/// The fields are those that hardware reports, so a hypervisor can make a `Fault` of its exit
/// information and handle both alike.
///
/// ```
/// use slat::{Gpa, mmu::{Cause, Fault}};
///
/// // Intel: a write to a page that is r-- (bits 1, 3, 7, 8).
/// let fault = Fault::EptViolation { gpa: Gpa::new(0x5000), qualification: 0x18a };
/// assert_eq!(fault.cause(), Cause::Rights);
/// // AMD: a read of a page that is not there.
/// let fault = Fault::NestedPageFault { gpa: Gpa::new(0x5000), exitinfo1: 0x1_0000_0004 };
/// assert_eq!(fault.cause(), Cause::NotPresent);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// EPT does not allow the access (Intel SDM vol. 3C, 29.3.3.2; basic exit reason 48).
    #[error("EPT violation at {gpa}, exit qualification {qualification:#x}")]
    EptViolation {
        /// The guest-physical address, with its offset into the page.
        gpa: Gpa,
        /// The exit qualification (28.2.1). Bits 0 to 8 are reported; the advanced information in
        /// bits 9 to 11 is not, and bit 6 stays clear without mode-based execute control. (A processor
        /// leaves bit 6 undefined then: clear it in what it reports before asking for the cause.)
        qualification: u64,
    },
    /// An EPT entry holds a value that the processor does not accept (Intel SDM vol. 3C, 29.3.3.1;
    /// basic exit reason 49).
    #[error("EPT misconfiguration at {gpa}")]
    EptMisconfiguration {
        /// The guest-physical address, with its offset into the page.
        gpa: Gpa,
    },
    /// The nested tables do not allow the access (AMD APM vol. 2, 15.25.6; `#VMEXIT(NPF)`).
    #[error("nested page fault at {gpa}, EXITINFO1 {exitinfo1:#x}")]
    NestedPageFault {
        /// EXITINFO2: the guest-physical address, with its offset into the page.
        gpa: Gpa,
        /// EXITINFO1: the page-fault error code, and bit 32 (final access) or 33 (guest tables).
        exitinfo1: u64,
    },
    /// The long-mode tables do not allow the access (AMD APM vol. 2, 8.2.15; `#PF`).
    #[error("page fault at {address}, error code {error_code:#x}")]
    PageFault {
        /// CR2: the linear address, with its offset into the page.
        address: Gpa,
        /// The error code.
        error_code: u32,
    },
    /// The linear address is not canonical: no walk was made (AMD APM vol. 2, 5.3.1; `#GP`, or `#SS`
    /// for a stack access).
    #[error("{address} is not a canonical address")]
    NonCanonical {
        /// The linear address.
        address: Gpa,
    },
}

/// What a handler has to do about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing is mapped there: map it.
    NotPresent,
    /// It is mapped, with too few rights: give them, or refuse.
    Rights,
    /// An entry on the way has bits that it must not have: the tables are broken, or were made for a
    /// processor that can do more.
    Reserved,
    /// The address is none: reflect the fault to who used it.
    BadAddress,
}

impl Fault {
    /// Returns the address that could not be translated.
    #[must_use]
    pub const fn gpa(&self) -> Gpa {
        match *self {
            Self::EptViolation { gpa, .. }
            | Self::EptMisconfiguration { gpa }
            | Self::NestedPageFault { gpa, .. } => gpa,
            Self::PageFault { address, .. } | Self::NonCanonical { address } => address,
        }
    }

    /// Returns what the report says of the cause.
    ///
    /// An EPT violation tells only what *all* the entries of the walk allow. Entries that are all
    /// present and have no right in common (read-only above execute-only) look as if one were not
    /// present; this library never makes such tables, since its table entries allow everything.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match *self {
            Self::EptViolation { qualification: bits, .. } => {
                if bits & qualification::ALLOWED == 0 { Cause::NotPresent } else { Cause::Rights }
            }
            Self::EptMisconfiguration { .. } => Cause::Reserved,
            Self::NestedPageFault { exitinfo1, .. } => cause_of_code(exitinfo1),
            Self::PageFault { error_code, .. } => cause_of_code(error_code as u64),
            Self::NonCanonical { .. } => Cause::BadAddress,
        }
    }
}

const fn cause_of_code(bits: u64) -> Cause {
    if bits & code::RESERVED != 0 {
        Cause::Reserved
    } else if bits & code::PRESENT != 0 {
        Cause::Rights
    } else {
        Cause::NotPresent
    }
}
