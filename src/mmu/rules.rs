//! What the manuals say of one entry, for whichever MMU it is.
//!
//! Pure functions of an entry's value: no memory, no atomics. They are written from the manuals and
//! share nothing with the encoders in `format` but the capabilities that a format value carries, so
//! that a mistake in either shows as a disagreement.

use bitflags::bitflags;

use super::{Access, BadRootPointer, Fault, ept, x86};
use crate::{
    addr::{Gpa, HostPfn, PAGE_SHIFT},
    attr::Prot,
    entry::Entry,
    format::AnyFormat,
    level::{Level, Levels, PageSize},
};

bitflags! {
    /// What an entry allows; a walk allows what all its entries allow.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Rights: u8 {
        const READ = 1;
        const WRITE = 2;
        /// Fetch; with mode-based execute control, in supervisor mode.
        const EXECUTE = 4;
        /// Fetch in user mode, with mode-based execute control.
        const EXECUTE_USER = 8;
        /// Use by user-mode accesses, in nPT and long mode.
        const USER = 16;
    }
}

impl Rights {
    pub(super) fn prot(self) -> Prot {
        let mut prot = Prot::empty();
        prot.set(Prot::R, self.contains(Self::READ));
        prot.set(Prot::W, self.contains(Self::WRITE));
        prot.set(Prot::X, self.contains(Self::EXECUTE));
        prot.set(Prot::XU, self.contains(Self::EXECUTE_USER));
        prot
    }
}

/// What an access asks of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// What every entry must allow.
    pub(super) rights: Rights,
    /// The dirty bit, if the access sets it in the leaf; else zero.
    pub(super) dirty: u64,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    NotPresent,
    /// Present, with a value that the processor does not accept.
    Reserved,
    /// Points at a table of the next level down.
    Table {
        frame: HostPfn,
        rights: Rights,
    },
    /// Maps a page whose first frame this is.
    Leaf {
        frame: HostPfn,
        size: PageSize,
        rights: Rights,
    },
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotPresent,
    Reserved,
    /// The walk reached a leaf, and all its entries together allow only these.
    Rights(Rights),
}

/// The rules of one MMU with its capabilities.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rules {
    Ept(ept::Rules),
    X86(x86::Rules),
}

impl Rules {
    /// Checks the root pointer against the rules of the format; returns them and the root's frame.
    pub(super) fn new(
        format: AnyFormat,
        root_pointer: u64,
    ) -> Result<(Self, HostPfn), BadRootPointer> {
        match format {
            AnyFormat::Ept(ept) => {
                let (rules, root) = ept::Rules::new(&ept, root_pointer)?;
                Ok((Self::Ept(rules), root))
            }
            AnyFormat::Npt(npt) => {
                let rules = x86::Rules::new(&npt.paging, x86::Flavour::Nested);
                Ok((Self::X86(rules), rules.root(root_pointer)?))
            }
            AnyFormat::LongMode(long_mode) => {
                let rules = x86::Rules::new(&long_mode.paging, x86::Flavour::LongMode);
                Ok((Self::X86(rules), rules.root(root_pointer)?))
            }
        }
    }

    pub(super) fn levels(&self) -> Levels {
        match self {
            Self::Ept(rules) => rules.levels,
            Self::X86(rules) => rules.levels,
        }
    }

    /// Returns the bit that a walk sets in every entry it uses, or zero.
    pub(super) fn accessed(&self) -> u64 {
        match self {
            Self::Ept(rules) => rules.accessed(),
            Self::X86(_) => x86::ACCESSED,
        }
    }

    /// Refuses an address that cannot be walked for.
    pub(super) fn check(&self, gpa: Gpa, access: Access) -> Result<(), Fault> {
        match self {
            Self::Ept(rules) => rules.check(gpa, access),
            Self::X86(rules) => rules.check(gpa, access),
        }
    }

    pub(super) fn want(&self, access: Access) -> Want {
        match self {
            Self::Ept(rules) => rules.want(access),
            Self::X86(rules) => rules.want(access),
        }
    }

    pub(super) fn meaning(&self, level: Level, entry: Entry) -> Meaning {
        match self {
            Self::Ept(rules) => rules.meaning(level, entry),
            Self::X86(rules) => rules.meaning(level, entry),
        }
    }

    pub(super) fn fault(&self, gpa: Gpa, access: Access, refusal: Refusal) -> Fault {
        match self {
            Self::Ept(rules) => rules.fault(gpa, access, refusal),
            Self::X86(rules) => rules.fault(gpa, access, refusal),
        }
    }
}

/// The bits of an entry or root pointer that hold a frame, on a processor with `width` physical
/// address bits.
pub(super) const fn frame_bits(width: u8) -> u64 {
    FRAME & ((1 << width) - 1)
}

/// The bits of an entry that hold a frame on a processor with 52 physical address bits, which none
/// exceeds; those above the real width are reserved.
pub(super) const FRAME: u64 = (1 << 52) - (1 << PAGE_SHIFT);

pub(super) const fn frame(bits: u64) -> HostPfn {
    HostPfn::new(bits >> PAGE_SHIFT)
}

/// Returns the address bits between the 4 KiB page and the size of the leaf: zero in a leaf.
pub(super) const fn below_size(size: PageSize) -> u64 {
    (size.bytes() - 1) & FRAME
}

/// Tells whether the address fits the input width.
pub(super) const fn in_width(levels: Levels, gpa: Gpa) -> bool {
    gpa.get() >> (PAGE_SHIFT + levels.page_bits()) == 0
}
