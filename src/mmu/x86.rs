//! The rules of long-mode paging, and of AMD's nested paging, which is the same with a few
//! differences.
//!
//! AMD APM vol. 2: 5.3 "Long-Mode Page Translation", 5.4 "Page-Translation-Table Entry Fields", 5.6
//! "Page-Protection Checks", 15.25 "Nested Paging"; Intel SDM vol. 3A, chapter 4. `EFER.NXE` and
//! `CR0.WP` are taken to be set; SMEP, SMAP, protection keys and shadow stacks to be off.
//!
//! Where the two manuals differ the stricter one is followed: bit 8 of a PML4E and PML5E must be zero
//! to AMD and is ignored by Intel.

use super::{
    Access, AccessKind, BadRootPointer, Fault, Mode, Target,
    fault::code,
    rules::{FRAME, Meaning, Refusal, Rights, Want, below_size, frame, frame_bits, in_width},
};
use crate::{
    addr::{Gpa, HostPfn, PAGE_SHIFT},
    entry::Entry,
    format::Paging,
    level::{Level, Levels, PageSize},
};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
pub(super) const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// A leaf in a PDE or PDPE; the PAT bit in a PTE, reserved above.
const PAGE: u64 = 1 << 7;
/// The global bit of leaves; must be zero in PML4E and PML5E.
const GLOBAL: u64 = 1 << 8;
/// The PAT bit of large leaves, the only bit below their frame that is not reserved.
const LARGE_PAT: u64 = 1 << 12;
const NO_EXECUTE: u64 = 1 << 63;
/// CR3 below the root's frame: PWT, PCD, the PCID, and bits that are ignored.
const CR3_LOW: u64 = (1 << PAGE_SHIFT) - 1;

/// Which of the two walks it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Nested,
    LongMode,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    flavour: Flavour,
    pub(super) levels: Levels,
    frame: u64,
    /// Part of the address to the memory controller, and not of the frame number.
    encryption: u64,
    pages_1g: bool,
}

impl Rules {
    pub(super) fn new(paging: &Paging, flavour: Flavour) -> Self {
        Self {
            flavour,
            levels: paging.levels,
            frame: frame_bits(paging.width.bits()),
            encryption: paging.encryption,
            pages_1g: paging.pages_1g,
        }
    }

    /// Checks CR3 or nCR3 (AMD APM vol. 2, 5.3.2 and 15.25.4): the bits above the physical address
    /// width must be zero.
    pub(super) fn root(&self, cr3: u64) -> Result<HostPfn, BadRootPointer> {
        let reserved = cr3 & !(self.frame | self.encryption | CR3_LOW);
        if reserved == 0 {
            Ok(frame(cr3 & self.frame))
        } else {
            Err(BadRootPointer::Reserved { bits: reserved })
        }
    }

    /// A linear address must be canonical. A guest-physical address beyond the width of the nested
    /// tables has no entry that could map it: the manual does not say how that is reported, and here
    /// it is as not present.
    pub(super) fn check(&self, gpa: Gpa, access: Access) -> Result<(), Fault> {
        match self.flavour {
            Flavour::Nested if in_width(self.levels, gpa) => Ok(()),
            Flavour::Nested => Err(self.fault(gpa, access, Refusal::NotPresent)),
            Flavour::LongMode if is_canonical(self.levels, gpa) => Ok(()),
            Flavour::LongMode => Err(Fault::NonCanonical { address: gpa }),
        }
    }

    /// Returns the access as this walk sees it: 15.25.6, nested walks for the guest's page tables
    /// are always treated as data writes.
    fn kind(&self, access: Access) -> AccessKind {
        match (self.flavour, access.target) {
            (Flavour::Nested, Target::GuestTable) => AccessKind::Write,
            _ => access.kind,
        }
    }

    /// 15.25.5: a nested walk is a user access, whatever the guest's mode.
    fn is_user(&self, access: Access) -> bool {
        self.flavour == Flavour::Nested || access.mode == Mode::User
    }

    pub(super) fn want(&self, access: Access) -> Want {
        let (mut rights, dirty) = match self.kind(access) {
            AccessKind::Read => (Rights::READ, 0),
            AccessKind::Write => (Rights::WRITE, DIRTY),
            AccessKind::Fetch => (Rights::EXECUTE, 0),
        };
        rights.set(Rights::USER, self.is_user(access));
        Want { rights, dirty }
    }

    pub(super) fn meaning(&self, level: Level, entry: Entry) -> Meaning {
        let raw = entry.raw();
        // 5.4.1: not present, whatever the other bits.
        if raw & PRESENT == 0 {
            return Meaning::NotPresent;
        }
        if raw & FRAME & !(self.frame | self.encryption) != 0 {
            return Meaning::Reserved;
        }
        if level >= Level::L4 && raw & (PAGE | GLOBAL) != 0 {
            return Meaning::Reserved;
        }
        let mut rights = Rights::READ;
        rights.set(Rights::WRITE, raw & WRITE != 0);
        rights.set(Rights::USER, raw & USER != 0);
        rights.set(Rights::EXECUTE, raw & NO_EXECUTE == 0);
        if level > Level::L1 && raw & PAGE == 0 {
            return Meaning::Table { frame: frame(raw & self.frame), rights };
        }
        let Some(size) = level.page_size().filter(|&size| self.has_leaves_of(size)) else {
            return Meaning::Reserved;
        };
        let below = below_size(size);
        if raw & below & !LARGE_PAT != 0 {
            return Meaning::Reserved;
        }
        Meaning::Leaf { frame: frame(raw & self.frame & !below), size, rights }
    }

    fn has_leaves_of(&self, size: PageSize) -> bool {
        size != PageSize::Size1G || self.pages_1g
    }

    pub(super) fn fault(&self, gpa: Gpa, access: Access, refusal: Refusal) -> Fault {
        let mut bits = match refusal {
            Refusal::NotPresent => 0,
            Refusal::Rights(_) => code::PRESENT,
            Refusal::Reserved => code::PRESENT | code::RESERVED,
        };
        bits |= match self.kind(access) {
            AccessKind::Read => 0,
            AccessKind::Write => code::WRITE,
            AccessKind::Fetch => code::FETCH,
        };
        if self.is_user(access) {
            bits |= code::USER;
        }
        match (self.flavour, access.target) {
            (Flavour::LongMode, _) => Fault::PageFault { address: gpa, error_code: bits as u32 },
            (Flavour::Nested, Target::Final) => {
                Fault::NestedPageFault { gpa, exitinfo1: bits | code::FINAL }
            }
            (Flavour::Nested, Target::GuestTable) => {
                Fault::NestedPageFault { gpa, exitinfo1: bits | code::GUEST_TABLE }
            }
        }
    }
}

/// 5.3.1: the bits from the highest translated one upwards are all equal.
const fn is_canonical(levels: Levels, address: Gpa) -> bool {
    let unused = 64 - PAGE_SHIFT - levels.page_bits();
    let extended = (address.get() << unused).cast_signed() >> unused;
    extended.cast_unsigned() == address.get()
}
