//! Entry formats: what the 64 bits of an entry mean to an MMU.
//!
//! A [`Format`] is a small value that carries what its processor can do (levels, physical address
//! width, accessed/dirty bits, page sizes, memory-type layout, encryption bit). Its methods are pure
//! functions over [`Entry`] values: no atomics, no memory, nothing to synchronize. So every rule
//! about bits can be tested exhaustively, and is.
//!
//! Policies that all formats share:
//!
//! - What a format cannot encode is an error of the call, never a silently different entry.
//! - A fresh leaf is not accessed unless the format value says so ([`Fresh`]); it is never dirty,
//!   and fresh table entries are not accessed either.
//! - Table entries allow everything (R, W and X, or W and U with NX clear): rights are the leaf's.

mod any;
mod broken;
mod carry;
mod ept;
mod long_mode;
mod npt;
mod pat;
mod resize;
mod tracking;
mod transition;
mod watch;
mod x86;

use core::fmt::Debug;

pub use self::{
    any::AnyFormat,
    broken::Resize,
    ept::{Ept, EptCaps},
    long_mode::LongMode,
    npt::Npt,
    pat::{BadPat, Pat},
    tracking::Tracking,
    transition::Who,
    x86::BadEncryptionBit,
};
pub(crate) use self::{
    carry::Carry,
    resize::{Uneven, Union, divided},
    watch::Take,
    x86::Paging,
};
use crate::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_SHIFT},
    attr::{Attr, LeafFlags, MemType, Prot, SoftBits},
    entry::Entry,
    level::{Level, Levels, PageSize},
    mapping::Mapping,
};

mod sealed {
    pub trait Sealed {}
}

/// Number of physical address bits that a frame may use: MAXPHYADDR, less what memory encryption
/// takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysWidth {
    bits: u8,
    /// The bits of an entry that hold a frame's address; kept because every step of a walk needs it.
    frame_mask: u64,
}

/// No processor has this physical address width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a physical address width of {0} bits is not in 32..=52")]
pub struct BadPhysWidth(pub u8);

impl PhysWidth {
    /// The architectural maximum, 52 bits.
    pub const MAX: Self = Self::with(52);

    /// Checks a width in bits.
    ///
    /// # Errors
    /// [`BadPhysWidth`] if it is not in 32..=52.
    pub const fn new(bits: u8) -> Result<Self, BadPhysWidth> {
        if bits >= 32 && bits <= 52 { Ok(Self::with(bits)) } else { Err(BadPhysWidth(bits)) }
    }

    const fn with(bits: u8) -> Self {
        Self { bits, frame_mask: Entry::ADDRESS & ((1 << bits) - 1) }
    }

    /// Returns the width in bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Returns the bits of an entry that hold a frame address of this width.
    pub(crate) const fn frame_mask(self) -> u64 {
        self.frame_mask
    }

    /// Returns the frame's address as it stands in an entry or a root pointer, cut to this width.
    #[inline]
    const fn frame_bits(self, pfn: HostPfn) -> u64 {
        (pfn.get() << PAGE_SHIFT) & self.frame_mask()
    }

    /// Tells whether the frame's address has no more than this many bits.
    #[inline]
    const fn fits(self, pfn: HostPfn) -> bool {
        pfn.get() >> (self.bits as u32 - PAGE_SHIFT) == 0
    }
}

/// Whether a leaf that was just mapped already counts as accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fresh {
    /// The accessed bit starts clear: it says exactly what the MMU touched. The default in every
    /// format.
    #[default]
    NotAccessed,
    /// The accessed bit starts set, which saves the MMU a locked write at first touch.
    Accessed,
}

/// Why attributes cannot be encoded in a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrError {
    /// No rights at all: such a leaf would not be present. Unmap the page instead.
    #[error("a leaf needs at least one right")]
    NoAccess,
    /// Writable but not readable, or, in nPT and long mode, executable but not readable.
    #[error("rights {0:?} need the right to read in this format")]
    Unreadable(Prot),
    /// Execute-only, which this processor does not support.
    #[error("execute-only rights {0:?} are not supported by this processor")]
    ExecuteOnly(Prot),
    /// User-mode execute, which only EPT with mode-based execute control has.
    #[error("rights {0:?} need mode-based execute control")]
    UserExecute(Prot),
    /// A memory type that the format or its PAT layout has no encoding for.
    #[error("memory type {0:?} has no encoding in this format")]
    MemType(MemType),
    /// A flag that the format does not have.
    #[error("flags {0:?} do not exist in this format")]
    Flags(LeafFlags),
    /// Bits that are no right in any format: `Prot::from_bits_retain` keeps such.
    #[error("rights {0:?} have bits that are no right")]
    UnknownRights(Prot),
    /// Bits beside the caller's two: `SoftBits::from_bits_retain` keeps such.
    #[error("software bits {0:?} are not all the caller's")]
    UnknownSoft(SoftBits),
}

/// Why a leaf cannot be encoded in a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame lies beyond the physical address width.
    #[error("frame {pfn} does not fit a physical address width of {width} bits")]
    BadFrame {
        /// The frame.
        pfn: HostPfn,
        /// The width of the format, in bits.
        width: u8,
    },
    /// The frame is not aligned to the size of the leaf.
    #[error("frame {pfn} is not aligned to a leaf of {size:?}")]
    Misaligned {
        /// The frame.
        pfn: HostPfn,
        /// The size of the leaf.
        size: PageSize,
    },
    /// The processor has no leaves of this size.
    #[error("leaves of {0:?} are not supported")]
    BadSize(PageSize),
    /// The attributes have no encoding.
    #[error(transparent)]
    BadAttr(#[from] AttrError),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Populated, nothing mapped.
    Empty,
    /// No memory here.
    Unpopulated,
    /// A leaf, or a table's entry, that is taken from the MMU while the size of leaves changes.
    Broken,
    /// Populated, nothing mapped, and a vacate is deciding whether it may take the page away.
    Claimed,
    /// Points at a table in this frame.
    Table(HostPfn),
    /// Maps a page.
    Leaf,
    /// A value that this library never writes.
    Stray,
}

/// An entry format of an MMU: [`Ept`], [`Npt`], [`LongMode`], or [`AnyFormat`] for a choice made at
/// run time.
///
/// Sealed: the library's safety rests on the formats' being right.
pub trait Format:
    sealed::Sealed + Into<AnyFormat> + Copy + Debug + Eq + Send + Sync + 'static
{
    /// Returns the name in common use: `ept`, `npt` or `long-mode`.
    fn name(&self) -> &'static str;

    /// Returns the number of levels.
    fn levels(&self) -> Levels;

    /// Returns the width of the frames' addresses.
    fn phys_width(&self) -> PhysWidth;

    /// Tells whether leaves of this size exist.
    fn supports(&self, size: PageSize) -> bool;

    /// Tells whether `gpa` is an input address of this format: below 2^48 or 2^57 for EPT and nPT,
    /// canonical for long mode.
    fn admits(&self, gpa: Gpa) -> bool;

    /// Returns the number of the page at which the input space ends that holds `gpa`: in long mode
    /// each canonical half is one.
    fn input_end(&self, gpa: Gpa) -> u64;

    /// Returns the value of the register that points the MMU at the root table: EPTP, nCR3 or CR3.
    /// Of `tracking` only the EPTP speaks.
    ///
    /// For a page table's own root ask [`Inside::root_pointer`](crate::Inside::root_pointer), which
    /// keeps the tables that hardware walks.
    ///
    /// A frame that does not [`fit`](Self::fits) is cut to the physical address width: no bit is set
    /// that means something else.
    fn root_pointer(&self, root: HostPfn, tracking: Tracking) -> u64;

    /// Returns the entry that points at the table in `pfn`.
    ///
    /// A frame that does not [`fit`](Self::fits) is cut, as for [`root_pointer`](Self::root_pointer);
    /// the structural operations check every frame that they take.
    fn table(&self, pfn: HostPfn) -> Entry;

    /// Returns the leaf of `size` that maps `pfn` with `attr`.
    ///
    /// # Errors
    /// [`EncodeError`] if the format cannot say that exactly.
    fn leaf(&self, size: PageSize, pfn: HostPfn, attr: Attr) -> Result<Entry, EncodeError>;

    /// Returns `leaf` with the rights `prot`, all else as it was. A leaf that is watched
    /// ([`Pinned::watch`](crate::Pinned::watch)) remains so if it may still be written.
    ///
    /// # Errors
    /// [`AttrError`] if the format cannot encode the rights; this depends on `prot` alone.
    fn with_prot(&self, leaf: Entry, prot: Prot) -> Result<Entry, AttrError>;

    /// Tells whether the MMU takes the entry for present.
    fn is_present(&self, entry: Entry) -> bool;

    /// Tells whether an entry of level L2 or above is a table's; false for one that is not present.
    fn is_table(&self, entry: Entry) -> bool;

    /// Returns the frame of the table that a table entry points at.
    fn table_frame(&self, entry: Entry) -> HostPfn;

    /// Returns the first frame that a leaf of `size` maps.
    fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn;

    /// Returns the attributes of a leaf. One that is watched may be written, though its hardware bits
    /// deny it now and then.
    fn attr(&self, size: PageSize, leaf: Entry) -> Attr;

    /// Returns the policy for fresh leaves.
    fn fresh(&self) -> Fresh;

    /// Tells whether the MMU can keep accessed and dirty bits. Where it cannot, it ignores them.
    fn keeps_bits(&self) -> bool;

    /// Returns the accessed bit, in leaves and table entries.
    fn accessed_bit(&self) -> u64;

    /// Returns the dirty bit, in leaves.
    fn dirty_bit(&self) -> u64;

    /// Returns the right to write, in leaves.
    fn write_bit(&self) -> u64;

    /// Returns the bits of which a present entry has at least one.
    fn present_bits(&self) -> u64;

    /// Tells whether leaves may change their size while the old one is cached.
    fn resize(&self) -> Resize;

    /// Returns the bits of a leaf that say its rights, as far as they differ between present leaves.
    fn rights_bits(&self) -> u64;

    /// Returns the bits that this library may set in a table entry.
    fn table_bits(&self) -> u64;

    /// Returns the bits that this library may set in a leaf of `size`.
    fn leaf_bits(&self, size: PageSize) -> u64;

    /// Tells whether the frame's address fits the physical address width.
    fn fits(&self, pfn: HostPfn) -> bool {
        self.phys_width().fits(pfn)
    }

    /// Tells whether every page of `range` is an input address of this format.
    fn admits_range(&self, range: GpaRange) -> bool {
        self.admits(range.start()) && range.end_page() <= self.input_end(range.start())
    }

    /// Tells what an entry of `level` is.
    #[inline]
    fn kind(&self, level: Level, entry: Entry) -> Kind {
        if !self.is_present(entry) {
            return match entry {
                Entry::EMPTY => Kind::Empty,
                Entry::UNPOPULATED => Kind::Unpopulated,
                _ if entry.is_claimed() => Kind::Claimed,
                _ if entry.mended(level, self).is_some() => Kind::Broken,
                _ => Kind::Stray,
            };
        }
        if level > Level::L1 && self.is_table(entry) {
            return Kind::Table(self.table_frame(entry));
        }
        if level.page_size().is_some() { Kind::Leaf } else { Kind::Stray }
    }

    /// Tells whether the entry is one that this library writes in a table of `level`, accessed and
    /// dirty bits as the MMU may have left them.
    fn is_well_formed(&self, level: Level, entry: Entry) -> bool {
        match (self.kind(level, entry), level.page_size()) {
            (Kind::Empty | Kind::Unpopulated | Kind::Claimed | Kind::Broken, _) => true,
            (Kind::Table(frame), size) => {
                // Only where a leaf can be is there a collapse.
                let has_leaves = size.is_some_and(|size| self.supports(size));
                let collapsing = if has_leaves { Entry::COLLAPSING } else { 0 };
                let marks = self.accessed_bit() | Entry::CARRY | collapsing;
                entry.without(marks) == self.table(frame)
            }
            (Kind::Leaf, Some(size)) => {
                let marks = self.accessed_bit() | self.dirty_bit() | Entry::LATE;
                let plain = entry.unwatched(self).without(marks);
                // What it says, encoded again, is the same value.
                !entry.escapes(self)
                    && self
                        .leaf(size, self.leaf_frame(size, entry), self.attr(size, entry))
                        .is_ok_and(|again| again.without(marks) == plain)
            }
            (Kind::Leaf | Kind::Stray, _) => false,
        }
    }

    /// Returns the mapping that a leaf of `size` makes for the page that holds `gpa`.
    #[inline]
    fn mapping(&self, gpa: Gpa, size: PageSize, leaf: Entry) -> Mapping {
        Mapping {
            gpa: size.leaf_range(gpa.page()).start(),
            pfn: self.leaf_frame(size, leaf),
            size,
            attr: self.attr(size, leaf),
            accessed: leaf.has(self.accessed_bit() | Entry::LATE),
            dirty: leaf.has(self.dirty_bit() | Entry::LATE),
        }
    }
}

/// Checks a leaf's frame against the width, the size's alignment, and the supported sizes.
#[inline]
fn check_frame<F: Format>(format: &F, size: PageSize, pfn: HostPfn) -> Result<(), EncodeError> {
    if !format.supports(size) {
        return Err(EncodeError::BadSize(size));
    }
    if !format.fits(pfn) {
        return Err(EncodeError::BadFrame { pfn, width: format.phys_width().bits() });
    }
    if !size.begins_at(pfn.get()) {
        return Err(EncodeError::Misaligned { pfn, size });
    }
    Ok(())
}

/// Checks that there are no rights but those that some format has.
#[inline]
const fn check_rights(prot: Prot) -> Result<(), AttrError> {
    if Prot::all().contains(prot) { Ok(()) } else { Err(AttrError::UnknownRights(prot)) }
}

/// Checks that there are no software bits but the caller's.
#[inline]
const fn check_soft(soft: SoftBits) -> Result<(), AttrError> {
    if SoftBits::all().contains(soft) { Ok(()) } else { Err(AttrError::UnknownSoft(soft)) }
}

/// Returns the bits of an address that lie below the leaf's size but above a 4 KiB page: they are
/// zero in a leaf's frame.
#[inline]
const fn bits_below(size: PageSize) -> u64 {
    (size.pages() - 1) << PAGE_SHIFT
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
