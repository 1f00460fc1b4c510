//! The rules of EPT.
//!
//! Intel SDM vol. 3C: 29.3.2 "EPT Translation Mechanism" (tables 29-1 to 29-6), 29.3.3 "EPT-Induced
//! VM Exits", 29.3.5 "Accessed and Dirty Flags for EPT", 25.6.11 "Extended-Page-Table Pointer",
//! 28.2.1 (exit qualification). The controls behind entry bits 57, 58, 60, 61 and 63 (guest-paging
//! verification, paging-write, shadow stacks, sub-page permissions, #VE) are taken to be off.

use super::{
    Access, AccessKind, BadRootPointer, Fault, Mode, Target,
    fault::qualification,
    rules::{FRAME, Meaning, Refusal, Rights, Want, below_size, frame, frame_bits, in_width},
};
use crate::{
    addr::{Gpa, HostPfn},
    entry::Entry,
    format::{Ept, EptCaps, Format},
    level::{Level, Levels, PageSize},
};

/// What each of the bits 0, 1, 2 and 10 of an entry allows.
const RIGHTS: [(u64, Rights); 4] = [
    (1 << 0, Rights::READ),
    (1 << 1, Rights::WRITE),
    (1 << 2, Rights::EXECUTE),
    (1 << 10, Rights::EXECUTE_USER),
];
/// How each right shows in the exit qualification.
const ALLOWED: [(Rights, u64); 4] = [
    (Rights::READ, qualification::READABLE),
    (Rights::WRITE, qualification::WRITABLE),
    (Rights::EXECUTE, qualification::EXECUTABLE),
    (Rights::EXECUTE_USER, qualification::USER_EXECUTABLE),
];

const MEM_TYPE_SHIFT: u32 = 3;
/// The memory types that exist: UC, WC, WT, WP, WB.
const MEM_TYPES: [u64; 5] = [0, 1, 4, 5, 6];
/// Bits 6:3 of an entry that points at a table; bit 7 tells it from a leaf.
const TABLE_RESERVED: u64 = 0b1111 << 3;
/// A leaf in an EPT PDE or PDPTE; ignored in a PTE, reserved above.
const PAGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;

/// EPTP: memory type in bits 2:0, walk length less one in 5:3, accessed and dirty flags in 6.
const EPTP_MEM_TYPE: u64 = 0b111;
const EPTP_WALK_SHIFT: u32 = 3;
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;
/// UC and WB: the types in which tables may be read.
const EPTP_MEM_TYPES: [u64; 2] = [0, 6];

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) levels: Levels,
    caps: EptCaps,
    frame: u64,
    /// EPTP bit 6: what the processor is told, not what it could do.
    accessed_dirty: bool,
}

impl Rules {
    /// Checks the EPTP (25.6.11; 27.2.1.1 "VM-Execution Control Fields").
    pub(super) fn new(ept: &Ept, eptp: u64) -> Result<(Self, HostPfn), BadRootPointer> {
        let mem_type = eptp & EPTP_MEM_TYPE;
        if !EPTP_MEM_TYPES.contains(&mem_type) {
            return Err(BadRootPointer::MemType { raw: mem_type as u8 });
        }
        let levels = ((eptp >> EPTP_WALK_SHIFT) & 0b111) as u8 + 1;
        if u32::from(levels) != ept.levels().count() {
            return Err(BadRootPointer::WalkLength { levels });
        }
        let accessed_dirty = eptp & EPTP_ACCESSED_DIRTY != 0;
        if accessed_dirty && !ept.caps().contains(EptCaps::ACCESSED_DIRTY) {
            return Err(BadRootPointer::AccessedDirty);
        }
        let frames = frame_bits(ept.phys_width().bits());
        let reserved = eptp & !(frames | EPTP_ACCESSED_DIRTY | 0b11_1111);
        if reserved != 0 {
            return Err(BadRootPointer::Reserved { bits: reserved });
        }
        let rules = Self { levels: ept.levels(), caps: ept.caps(), frame: frames, accessed_dirty };
        Ok((rules, frame(eptp & frames)))
    }

    pub(super) fn accessed(&self) -> u64 {
        if self.accessed_dirty { ACCESSED } else { 0 }
    }

    fn mode_based(&self) -> bool {
        self.caps.contains(EptCaps::MODE_BASED_EXECUTE)
    }

    /// Four levels translate 48 bits and five 57. An address with more is a violation (29.3.3.2), and
    /// since no entry was used it reads as one of an entry that is not present.
    pub(super) fn check(&self, gpa: Gpa, access: Access) -> Result<(), Fault> {
        if in_width(self.levels, gpa) {
            Ok(())
        } else {
            Err(self.fault(gpa, access, Refusal::NotPresent))
        }
    }

    pub(super) fn want(&self, access: Access) -> Want {
        let user_fetch = self.mode_based() && access.mode == Mode::User;
        let rights = match (access.kind, access.target) {
            // 29.3.3.2: with accessed and dirty flags, the processor's accesses to the guest's
            // paging structures are treated as writes.
            (_, Target::GuestTable) if self.accessed_dirty => Rights::WRITE,
            (AccessKind::Write, _) => Rights::WRITE,
            (AccessKind::Fetch, Target::Final) if user_fetch => Rights::EXECUTE_USER,
            (AccessKind::Fetch, Target::Final) => Rights::EXECUTE,
            (AccessKind::Fetch, Target::GuestTable) | (AccessKind::Read, _) => Rights::READ,
        };
        let writes = rights == Rights::WRITE && self.accessed_dirty;
        Want { rights, dirty: if writes { DIRTY } else { 0 } }
    }

    fn rights(&self, raw: u64) -> Rights {
        let mut rights = Rights::empty();
        for (bit, right) in RIGHTS {
            rights.set(right, raw & bit != 0);
        }
        // Bit 10 is ignored without the control.
        if self.mode_based() { rights } else { rights.difference(Rights::EXECUTE_USER) }
    }

    pub(super) fn meaning(&self, level: Level, entry: Entry) -> Meaning {
        let raw = entry.raw();
        let rights = self.rights(raw);
        // 29.3.2: not present, whatever the other bits.
        if rights.is_empty() {
            return Meaning::NotPresent;
        }
        let execute_only = self.caps.contains(EptCaps::EXECUTE_ONLY);
        if !rights.contains(Rights::READ) && (rights.contains(Rights::WRITE) || !execute_only) {
            return Meaning::Reserved;
        }
        if raw & FRAME & !self.frame != 0 {
            return Meaning::Reserved;
        }
        if level > Level::L1 && raw & PAGE == 0 {
            return if raw & TABLE_RESERVED == 0 {
                Meaning::Table { frame: frame(raw & self.frame), rights }
            } else {
                Meaning::Reserved
            };
        }
        // Bit 7 is reserved where the level, or the processor, has no leaves.
        let Some(size) = level.page_size().filter(|&size| self.has_leaves_of(size)) else {
            return Meaning::Reserved;
        };
        let mem_type = (raw >> MEM_TYPE_SHIFT) & 0b111;
        if !MEM_TYPES.contains(&mem_type) || raw & below_size(size) != 0 {
            return Meaning::Reserved;
        }
        Meaning::Leaf { frame: frame(raw & self.frame), size, rights }
    }

    fn has_leaves_of(&self, size: PageSize) -> bool {
        match size {
            PageSize::Size4K => true,
            PageSize::Size2M => self.caps.contains(EptCaps::PAGES_2M),
            PageSize::Size1G => self.caps.contains(EptCaps::PAGES_1G),
        }
    }

    pub(super) fn fault(&self, gpa: Gpa, access: Access, refusal: Refusal) -> Fault {
        let allowed = match refusal {
            Refusal::Reserved => return Fault::EptMisconfiguration { gpa },
            Refusal::NotPresent => Rights::empty(),
            Refusal::Rights(rights) => rights,
        };
        let mut qualification = qualification::LINEAR_VALID;
        qualification |= match (access.kind, access.target) {
            // 28.2.1: treated as a write, such an access sets both bits.
            (_, Target::GuestTable) if self.accessed_dirty => {
                qualification::READ | qualification::WRITE
            }
            (AccessKind::Write, _) => qualification::WRITE,
            (AccessKind::Fetch, Target::Final) => qualification::FETCH,
            (AccessKind::Fetch, Target::GuestTable) | (AccessKind::Read, _) => qualification::READ,
        };
        if access.target == Target::Final {
            qualification |= qualification::FINAL;
        }
        for (right, bit) in ALLOWED {
            if allowed.contains(right) {
                qualification |= bit;
            }
        }
        Fault::EptViolation { gpa, qualification }
    }
}
