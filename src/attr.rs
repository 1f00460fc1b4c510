//! What a leaf says besides its frame: rights, memory type, and the flags of one format or another.

use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// Access rights of a leaf.
    ///
    /// Not every set can be encoded: no format has a leaf without rights or a writable leaf that
    /// cannot be read, and only EPT has execute-only leaves, where the processor supports them. A
    /// set that the table's format cannot encode is refused with
    /// [`AttrError`](crate::AttrError), never rounded.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Prot: u8 {
        /// Read.
        const R = 1;
        /// Write.
        const W = 2;
        /// Execute; with EPT mode-based execute control, execute in supervisor mode.
        const X = 4;
        /// Execute in user mode: only with EPT mode-based execute control.
        const XU = 8;
        /// Read and write.
        const RW = 1 | 2;
        /// Read and execute.
        const RX = 1 | 4;
        /// Read, write and execute.
        const RWX = 1 | 2 | 4;
    }
}

/// As `rwx`, with `-` for a right that is not there, and a `u` behind it for [`XU`](Prot::XU).
impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Self::R, "r"), (Self::W, "w"), (Self::X, "x")];
        for (right, letter) in letters {
            f.write_str(if self.contains(right) { letter } else { "-" })?;
        }
        f.write_str(if self.contains(Self::XU) { "u" } else { "" })
    }
}

bitflags! {
    /// The two bits of a leaf that are the caller's own; the MMU and this library ignore them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct SoftBits: u8 {
        /// The first bit.
        const S0 = 1;
        /// The second bit.
        const S1 = 2;
    }
}

/// Memory type of a leaf, numbered as in the IA32_PAT and MTRR encodings (Intel SDM vol. 3A, 13.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemType {
    /// Uncacheable.
    UC = 0,
    /// Write combining.
    WC = 1,
    /// Write through.
    WT = 4,
    /// Write protected.
    WP = 5,
    /// Write back.
    WB = 6,
}

impl MemType {
    /// All memory types.
    pub const ALL: [Self; 5] = [Self::UC, Self::WC, Self::WT, Self::WP, Self::WB];

    /// Returns the type with the encoding `raw`, or `None` if no type has it (2, 3, 7 and above).
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::UC),
            1 => Some(Self::WC),
            4 => Some(Self::WT),
            5 => Some(Self::WP),
            6 => Some(Self::WB),
            _ => None,
        }
    }
}

/// As `WB`.
impl fmt::Display for MemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The encoding of no memory type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the encoding of a memory type")]
pub struct BadMemType(pub u8);

impl TryFrom<u8> for MemType {
    type Error = BadMemType;

    fn try_from(raw: u8) -> Result<Self, BadMemType> {
        Self::from_raw(raw).ok_or(BadMemType(raw))
    }
}

bitflags! {
    /// Flags of a leaf that only some formats have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct LeafFlags: u8 {
        /// The page belongs to user mode ([`LongMode`](crate::LongMode) only).
        const USER = 1;
        /// The translation survives a change of address space ([`LongMode`](crate::LongMode) only).
        const GLOBAL = 2;
        /// The guest's own PAT is ignored ([`Ept`](crate::Ept) only).
        const IGNORE_PAT = 4;
    }
}

/// Everything about a leaf but its frame.
///
/// ```
/// use slat::{Attr, LeafFlags, MemType, Prot};
///
/// let rom = Attr::new(Prot::RX);
/// let device = Attr::new(Prot::RW).with_mem_type(MemType::UC).with_flags(LeafFlags::IGNORE_PAT);
/// assert_eq!(rom.mem_type(), MemType::WB);
/// assert_eq!(device.prot(), Prot::RW);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attr {
    prot: Prot,
    mem_type: MemType,
    flags: LeafFlags,
    soft: SoftBits,
}

impl Attr {
    /// Returns write-back memory with the rights `prot`, no flags, and both software bits clear.
    #[must_use]
    pub const fn new(prot: Prot) -> Self {
        Self { prot, mem_type: MemType::WB, flags: LeafFlags::empty(), soft: SoftBits::empty() }
    }

    /// Returns the same with other rights.
    #[must_use]
    pub const fn with_prot(self, prot: Prot) -> Self {
        Self { prot, ..self }
    }

    /// Returns the same with another memory type.
    #[must_use]
    pub const fn with_mem_type(self, mem_type: MemType) -> Self {
        Self { mem_type, ..self }
    }

    /// Returns the same with other flags.
    #[must_use]
    pub const fn with_flags(self, flags: LeafFlags) -> Self {
        Self { flags, ..self }
    }

    /// Returns the same with other software bits.
    #[must_use]
    pub const fn with_soft(self, soft: SoftBits) -> Self {
        Self { soft, ..self }
    }

    /// Returns the rights.
    #[must_use]
    pub const fn prot(self) -> Prot {
        self.prot
    }

    /// Returns the memory type.
    #[must_use]
    pub const fn mem_type(self) -> MemType {
        self.mem_type
    }

    /// Returns the flags.
    #[must_use]
    pub const fn flags(self) -> LeafFlags {
        self.flags
    }

    /// Returns the software bits.
    #[must_use]
    pub const fn soft(self) -> SoftBits {
        self.soft
    }
}
