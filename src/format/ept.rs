//! EPT: Intel's extended page tables.
//!
//! Bits and rules: Intel SDM vol. 3C, 29.3.2 "EPT Translation Mechanism" (tables of entry formats),
//! 29.3.3 "EPT-Induced VM Exits", 25.6.11 "Extended-Page-Table Pointer (EPTP)"; capabilities: vol.
//! 3D, A.10 "VPID and EPT Capabilities".

use bitflags::bitflags;

use super::{
    AttrError, EncodeError, Format, Fresh, PhysWidth, Resize, Tracking, bits_below, check_frame,
    check_rights, check_soft, sealed,
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, LeafFlags, MemType, Prot},
    entry::Entry,
    level::{Levels, PageSize},
};

/// Read, write, execute: bits 0, 1, 2, in the order of [`Prot`].
const RWX: u64 = 0b111;
const WRITE: u64 = 1 << 1;
/// Memory type of a leaf: bits 5:3.
const MEM_TYPE_SHIFT: u32 = 3;
const MEM_TYPE: u64 = 0b111 << MEM_TYPE_SHIFT;
/// Ignore the guest's PAT.
const IPAT: u64 = 1 << 6;
/// A leaf, at L2 and L3.
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
/// Execute in user mode, under mode-based execute control.
const USER_EXECUTE: u64 = 1 << 10;

const _: () = {
    assert!(Prot::R.bits() == 1 && Prot::W.bits() == 2 && Prot::X.bits() == 4);
    assert!(WRITE == Prot::W.bits() as u64);
    let hardware = RWX | MEM_TYPE | IPAT | LARGE | ACCESSED | DIRTY | USER_EXECUTE;
    assert!(hardware & Entry::ADDRESS == 0);
};

bitflags! {
    /// What a processor's EPT can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct EptCaps: u8 {
        /// The MMU keeps accessed and dirty bits (EPTP bit 6 is set). Without it the MMU ignores them,
        /// and [`Pinned::watch`](crate::Pinned::watch) gives software the dirty ones.
        const ACCESSED_DIRTY = 1;
        /// Execute-only leaves.
        const EXECUTE_ONLY = 2;
        /// The "mode-based execute control for EPT" VM-execution control is on: bit 2 is for
        /// supervisor-mode linear addresses and bit 10 for user-mode ones. The processor reports it
        /// among the secondary controls, not in the EPT capabilities.
        const MODE_BASED_EXECUTE = 4;
        /// 2 MiB leaves.
        const PAGES_2M = 8;
        /// 1 GiB leaves.
        const PAGES_1G = 16;
    }
}

impl EptCaps {
    /// What every processor since 2013 has: A/D bits, execute-only, 2 MiB and 1 GiB leaves.
    pub const USUAL: Self =
        Self::ACCESSED_DIRTY.union(Self::EXECUTE_ONLY).union(Self::PAGES_2M).union(Self::PAGES_1G);

    /// Decodes the IA32_VMX_EPT_VPID_CAP MSR (0x48C); Intel SDM vol. 3D, A.10.
    ///
    /// Mode-based execute is a control and not in this MSR: add it where it is turned on. Bit 7,
    /// five-level walks, is for the caller to honour in [`Levels`].
    #[must_use]
    pub const fn from_msr(ept_vpid_cap: u64) -> Self {
        const BITS: [(u32, EptCaps); 4] = [
            (0, EptCaps::EXECUTE_ONLY),
            (16, EptCaps::PAGES_2M),
            (17, EptCaps::PAGES_1G),
            (21, EptCaps::ACCESSED_DIRTY),
        ];
        let mut caps = Self::empty();
        let mut i = 0;
        while i < BITS.len() {
            if (ept_vpid_cap >> BITS[i].0) & 1 != 0 {
                caps = caps.union(BITS[i].1);
            }
            i += 1;
        }
        caps
    }
}

/// Intel's extended page tables.
///
/// ```
/// use slat::{Ept, EptCaps, Format, HostPfn, Levels, PhysWidth, Tracking};
///
/// let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// // Root frame, A/D on (bit 6), walk length 4 (3 in bits 5:3), write-back (6).
/// let eptp = ept.root_pointer(HostPfn::new(0x123), Tracking::On);
/// assert_eq!(eptp, 0x12_3000 | (1 << 6) | (3 << 3) | 6);
/// # Ok::<(), slat::BadPhysWidth>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ept {
    levels: Levels,
    width: PhysWidth,
    caps: EptCaps,
    fresh: Fresh,
    resize: Resize,
    /// The bits of which a present entry has at least one (SDM 29.3.2).
    rights: u64,
}

impl Ept {
    /// Describes an EPT with this paging mode, physical address width and capabilities.
    #[must_use]
    pub const fn new(levels: Levels, width: PhysWidth, caps: EptCaps) -> Self {
        let mode_based = caps.contains(EptCaps::MODE_BASED_EXECUTE);
        let rights = if mode_based { RWX | USER_EXECUTE } else { RWX };
        Self { levels, width, caps, fresh: Fresh::NotAccessed, resize: Resize::Live, rights }
    }

    /// Returns the same with another policy for fresh leaves.
    #[must_use]
    pub const fn with_fresh(self, fresh: Fresh) -> Self {
        Self { fresh, ..self }
    }

    /// Returns the same for a processor on which leaves change their size as `resize` says.
    ///
    /// Parts without `IF_PSCHANGE_MC_NO` (bit 6 of IA32_ARCH_CAPABILITIES; Intel SDM vol. 4, table 2-2) may
    /// have to break first what guests execute.
    #[must_use]
    pub const fn with_resize(self, resize: Resize) -> Self {
        Self { resize, ..self }
    }

    /// Returns what the processor can do.
    #[must_use]
    pub const fn caps(&self) -> EptCaps {
        self.caps
    }

    #[inline]
    const fn mode_based(&self) -> bool {
        self.caps.contains(EptCaps::MODE_BASED_EXECUTE)
    }

    #[inline]
    fn prot_bits(&self, prot: Prot) -> Result<u64, AttrError> {
        // What nearly all leaves have, and every processor.
        if prot.contains(Prot::R) && Prot::RWX.contains(prot) {
            return Ok(u64::from(prot.bits()));
        }
        self.rare_prot_bits(prot)
    }

    #[cold]
    fn rare_prot_bits(&self, prot: Prot) -> Result<u64, AttrError> {
        check_rights(prot)?;
        if prot.is_empty() {
            return Err(AttrError::NoAccess);
        }
        if prot.contains(Prot::XU) && !self.mode_based() {
            return Err(AttrError::UserExecute(prot));
        }
        if prot.contains(Prot::W) && !prot.contains(Prot::R) {
            return Err(AttrError::Unreadable(prot));
        }
        if !prot.contains(Prot::R) && !self.caps.contains(EptCaps::EXECUTE_ONLY) {
            return Err(AttrError::ExecuteOnly(prot));
        }
        let user = if prot.contains(Prot::XU) { USER_EXECUTE } else { 0 };
        Ok(u64::from((prot & Prot::RWX).bits()) | user)
    }
}

impl sealed::Sealed for Ept {}

impl Format for Ept {
    fn name(&self) -> &'static str {
        "ept"
    }

    #[inline]
    fn levels(&self) -> Levels {
        self.levels
    }

    #[inline]
    fn phys_width(&self) -> PhysWidth {
        self.width
    }

    #[inline]
    fn supports(&self, size: PageSize) -> bool {
        match size {
            PageSize::Size4K => true,
            PageSize::Size2M => self.caps.contains(EptCaps::PAGES_2M),
            PageSize::Size1G => self.caps.contains(EptCaps::PAGES_1G),
        }
    }

    #[inline]
    fn admits(&self, gpa: Gpa) -> bool {
        gpa.page() >> self.levels.page_bits() == 0
    }

    fn input_end(&self, _gpa: Gpa) -> u64 {
        1 << self.levels.page_bits()
    }

    fn root_pointer(&self, root: HostPfn, tracking: Tracking) -> u64 {
        let tracks = tracking == Tracking::On && self.caps.contains(EptCaps::ACCESSED_DIRTY);
        let accessed_dirty = u64::from(tracks) << 6;
        let walk_length = u64::from(self.levels.count() - 1) << 3;
        self.width.frame_bits(root) | accessed_dirty | walk_length | MemType::WB as u64
    }

    #[inline]
    fn table(&self, pfn: HostPfn) -> Entry {
        Entry::from_raw(self.width.frame_bits(pfn) | self.rights)
    }

    #[inline]
    fn leaf(&self, size: PageSize, pfn: HostPfn, attr: Attr) -> Result<Entry, EncodeError> {
        check_frame(self, size, pfn)?;
        let foreign = attr.flags().difference(LeafFlags::IGNORE_PAT);
        if !foreign.is_empty() {
            return Err(AttrError::Flags(foreign).into());
        }
        check_soft(attr.soft())?;
        let mut bits = self.prot_bits(attr.prot())?;
        bits |= (attr.mem_type() as u64) << MEM_TYPE_SHIFT;
        if attr.flags().contains(LeafFlags::IGNORE_PAT) {
            bits |= IPAT;
        }
        if size > PageSize::Size4K {
            bits |= LARGE;
        }
        if self.fresh == Fresh::Accessed {
            bits |= ACCESSED;
        }
        let soft = Entry::soft_bits(attr.soft());
        Ok(Entry::from_raw(self.width.frame_bits(pfn) | bits | soft))
    }

    fn with_prot(&self, leaf: Entry, prot: Prot) -> Result<Entry, AttrError> {
        let next = leaf.without(self.rights).with(self.prot_bits(prot)?);
        Ok(next.watched_as(leaf, WRITE))
    }

    #[inline]
    fn is_present(&self, entry: Entry) -> bool {
        entry.has(self.rights)
    }

    #[inline]
    fn is_table(&self, entry: Entry) -> bool {
        entry.has(self.rights) && !entry.has(LARGE)
    }

    #[inline]
    fn table_frame(&self, entry: Entry) -> HostPfn {
        entry.frame_in(self.width.frame_mask())
    }

    #[inline]
    fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn {
        leaf.frame_in(self.width.frame_mask() & !bits_below(size))
    }

    #[inline]
    fn attr(&self, _size: PageSize, leaf: Entry) -> Attr {
        let mut prot = Prot::from_bits_truncate((leaf.raw() & RWX) as u8);
        if self.mode_based() && leaf.has(USER_EXECUTE) {
            prot |= Prot::XU;
        }
        if leaf.is_watched() {
            prot |= Prot::W;
        }
        // A planted leaf may have a reserved type, which is a misconfiguration to the MMU.
        let raw = (leaf.raw() & MEM_TYPE) >> MEM_TYPE_SHIFT;
        let mem_type = MemType::from_raw(raw as u8).unwrap_or(MemType::UC);
        let flags = if leaf.has(IPAT) { LeafFlags::IGNORE_PAT } else { LeafFlags::empty() };
        Attr::new(prot).with_mem_type(mem_type).with_flags(flags).with_soft(leaf.soft())
    }

    fn fresh(&self) -> Fresh {
        self.fresh
    }

    #[inline]
    fn keeps_bits(&self) -> bool {
        self.caps.contains(EptCaps::ACCESSED_DIRTY)
    }

    #[inline]
    fn accessed_bit(&self) -> u64 {
        ACCESSED
    }

    #[inline]
    fn dirty_bit(&self) -> u64 {
        DIRTY
    }

    #[inline]
    fn write_bit(&self) -> u64 {
        WRITE
    }

    fn present_bits(&self) -> u64 {
        self.rights
    }

    fn resize(&self) -> Resize {
        self.resize
    }

    fn rights_bits(&self) -> u64 {
        self.rights
    }

    fn table_bits(&self) -> u64 {
        self.rights | ACCESSED | self.width.frame_mask() | Entry::CARRY | Entry::COLLAPSING
    }

    fn leaf_bits(&self, size: PageSize) -> u64 {
        let large = if size > PageSize::Size4K { LARGE } else { 0 };
        let frame = self.width.frame_mask() & !bits_below(size);
        let software = Entry::SOFT | Entry::LATE | Entry::WATCHED;
        self.rights | MEM_TYPE | IPAT | large | ACCESSED | DIRTY | frame | software
    }
}
