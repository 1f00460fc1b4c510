//! What an access wants: how, in which mode, and whether for its own data or on the way to it.

/// What is done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write; a read-modify-write counts as one.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// In which mode the processor is.
///
/// It matters in long mode, and for fetches through EPT with mode-based execute control, where it is
/// the mode of the *linear address* (Intel SDM vol. 3C, 29.3.2). A nested walk is a user access
/// whatever the mode of the guest (AMD APM vol. 2, 15.25.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// User mode, CPL 3.
    User,
    /// Supervisor mode, CPL 0 to 2. `CR0.WP` is taken to be set, SMEP and SMAP to be off: a
    /// supervisor may read, write and fetch what a user may, and writes nothing that is read-only.
    Supervisor,
}

/// What a guest-physical address is the address of. In long mode it does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The bytes that the access is for.
    Final,
    /// An entry of the guest's own paging structures, on the way to the bytes. It is a data access,
    /// never a fetch. nPT takes it for a write (AMD APM vol. 2, 15.25.6), and so does EPT while it
    /// keeps accessed and dirty bits (Intel SDM vol. 3C, 29.3.5).
    GuestTable,
}

/// One access to be translated.
///
/// ```
/// use slat::mmu::{Access, Mode};
///
/// let kernel_fetch = Access::FETCH.in_mode(Mode::Supervisor);
/// let guest_walk = Access::READ.of_guest_table();
/// assert_ne!(kernel_fetch, Access::FETCH);
/// assert_ne!(guest_walk, Access::READ);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What is done with the bytes.
    pub kind: AccessKind,
    /// In which mode.
    pub mode: Mode,
    /// To which bytes.
    pub target: Target,
}

impl Access {
    /// A read of the final bytes in user mode: the mode that long mode allows least.
    pub const READ: Self = Self::new(AccessKind::Read);
    /// A write of the final bytes in user mode.
    pub const WRITE: Self = Self::new(AccessKind::Write);
    /// A fetch of the final bytes in user mode.
    pub const FETCH: Self = Self::new(AccessKind::Fetch);

    /// Makes the access of this kind to the final bytes, in user mode.
    #[must_use]
    pub const fn new(kind: AccessKind) -> Self {
        Self { kind, mode: Mode::User, target: Target::Final }
    }

    /// Returns the same access in another mode.
    #[must_use]
    pub const fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Returns the same access to an entry of the guest's own paging structures.
    #[must_use]
    pub const fn of_guest_table(self) -> Self {
        Self { target: Target::GuestTable, ..self }
    }
}
