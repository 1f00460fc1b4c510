//! The entry layout that ordinary long-mode paging and AMD's nested paging share.
//!
//! Bits and rules: AMD APM vol. 2, 5.3 "Long-Mode Page Translation", 5.4 "Page-Translation-Table
//! Entry Fields"; the same in Intel SDM vol. 3A, chapter 4. `EFER.NXE` is taken to be set.

use core::fmt::Debug;

use super::{
    AnyFormat, AttrError, EncodeError, Format, Fresh, Pat, PhysWidth, Resize, Tracking, bits_below,
    check_frame, check_rights, check_soft, sealed,
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, LeafFlags, MemType, Prot},
    entry::Entry,
    level::{Levels, PageSize},
};

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
/// A leaf, at L2 and L3.
const LARGE: u64 = 1 << 7;
/// The PAT bit of a 4 KiB leaf.
const PAT_4K: u64 = 1 << 7;
pub(super) const GLOBAL: u64 = 1 << 8;
/// The PAT bit of a large leaf.
const PAT_LARGE: u64 = 1 << 12;
const NO_EXECUTE: u64 = 1 << 63;
/// What tells the rights of one present leaf from those of another.
pub(super) const RIGHTS: u64 = WRITE | NO_EXECUTE;

/// Why an encryption bit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encryption bit {bit} is not between the physical address width {width} and bit 51")]
pub struct BadEncryptionBit {
    /// The bit's position.
    pub bit: u8,
    /// The width that frames may use, in bits.
    pub width: u8,
}

/// What the processor can do, and the layout that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Paging {
    pub(crate) levels: Levels,
    pub(crate) width: PhysWidth,
    pub(crate) pat: Pat,
    pub(crate) fresh: Fresh,
    pub(crate) resize: Resize,
    pub(crate) pages_1g: bool,
    /// Set in every entry and root, and in no frame number.
    pub(crate) encryption: u64,
}

impl Paging {
    pub(super) const fn new(levels: Levels, width: PhysWidth) -> Self {
        Self {
            levels,
            width,
            pat: Pat::POWER_ON,
            fresh: Fresh::NotAccessed,
            resize: Resize::Live,
            pages_1g: true,
            encryption: 0,
        }
    }

    pub(super) const fn with_encryption_bit(self, bit: u8) -> Result<Self, BadEncryptionBit> {
        if bit < self.width.bits() || bit > 51 {
            return Err(BadEncryptionBit { bit, width: self.width.bits() });
        }
        Ok(Self { encryption: 1 << bit, ..self })
    }

    pub(super) const fn supports(&self, size: PageSize) -> bool {
        !matches!(size, PageSize::Size1G) || self.pages_1g
    }

    pub(super) const fn root_pointer(&self, root: HostPfn) -> u64 {
        self.width.frame_bits(root) | self.encryption
    }

    #[inline]
    pub(super) const fn table(&self, pfn: HostPfn) -> Entry {
        let frame = self.width.frame_bits(pfn);
        Entry::from_raw(frame | self.encryption | PRESENT | WRITE | USER)
    }

    /// Encodes a leaf whose frame and flags were checked; `format_bits` are the format's own.
    #[inline]
    pub(super) fn leaf(
        &self,
        size: PageSize,
        pfn: HostPfn,
        attr: Attr,
        format_bits: u64,
    ) -> Result<Entry, AttrError> {
        let index =
            self.pat.index_of(attr.mem_type()).ok_or(AttrError::MemType(attr.mem_type()))?;
        let mut bits = prot_bits(attr.prot())? | format_bits | Entry::soft_bits(attr.soft());
        if index & 1 != 0 {
            bits |= PWT;
        }
        if index & 2 != 0 {
            bits |= PCD;
        }
        if index & 4 != 0 {
            bits |= pat_bit(size);
        }
        if size > PageSize::Size4K {
            bits |= LARGE;
        }
        if self.fresh == Fresh::Accessed {
            bits |= ACCESSED;
        }
        Ok(Entry::from_raw(self.width.frame_bits(pfn) | self.encryption | bits))
    }

    #[inline]
    pub(super) const fn table_frame(&self, entry: Entry) -> HostPfn {
        entry.frame_in(self.width.frame_mask())
    }

    #[inline]
    pub(super) const fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn {
        leaf.frame_in(self.width.frame_mask() & !bits_below(size))
    }

    /// Decodes the attributes of a leaf, without flags.
    #[inline]
    pub(super) fn attr(&self, size: PageSize, leaf: Entry) -> Attr {
        let mut prot = Prot::R;
        prot.set(Prot::W, leaf.has(WRITE | Entry::WATCHED));
        prot.set(Prot::X, !leaf.has(NO_EXECUTE));
        let index = u8::from(leaf.has(PWT))
            | (u8::from(leaf.has(PCD)) << 1)
            | (u8::from(leaf.has(pat_bit(size))) << 2);
        // A planted leaf may choose UC-, to which UC is nearest.
        let mem_type = self.pat.get(index).unwrap_or(MemType::UC);
        Attr::new(prot).with_mem_type(mem_type).with_soft(leaf.soft())
    }

    pub(super) const fn table_bits(&self) -> u64 {
        let hardware = PRESENT | WRITE | USER | ACCESSED;
        hardware | self.width.frame_mask() | self.encryption | Entry::CARRY | Entry::COLLAPSING
    }

    pub(super) const fn leaf_bits(&self, size: PageSize) -> u64 {
        let shape = match size {
            PageSize::Size4K => PAT_4K,
            PageSize::Size2M | PageSize::Size1G => PAT_LARGE | LARGE,
        };
        let hardware = PRESENT | WRITE | USER | PWT | PCD | ACCESSED | DIRTY | shape | NO_EXECUTE;
        let frame = (self.width.frame_mask() & !bits_below(size)) | self.encryption;
        hardware | frame | Entry::SOFT | Entry::LATE | Entry::WATCHED
    }
}

const fn pat_bit(size: PageSize) -> u64 {
    match size {
        PageSize::Size4K => PAT_4K,
        PageSize::Size2M | PageSize::Size1G => PAT_LARGE,
    }
}

/// Encodes rights, the present bit included: what is present can be read.
#[inline]
fn prot_bits(prot: Prot) -> Result<u64, AttrError> {
    check_rights(prot)?;
    if prot.is_empty() {
        return Err(AttrError::NoAccess);
    }
    if prot.contains(Prot::XU) {
        return Err(AttrError::UserExecute(prot));
    }
    if !prot.contains(Prot::R) {
        return Err(AttrError::Unreadable(prot));
    }
    let write = if prot.contains(Prot::W) { WRITE } else { 0 };
    let no_execute = if prot.contains(Prot::X) { 0 } else { NO_EXECUTE };
    Ok(PRESENT | write | no_execute)
}

/// Returns `leaf` with other rights.
pub(super) fn with_prot(leaf: Entry, prot: Prot) -> Result<Entry, AttrError> {
    let next = leaf.without(PRESENT | WRITE | NO_EXECUTE).with(prot_bits(prot)?);
    Ok(next.watched_as(leaf, WRITE))
}

#[inline]
pub(super) const fn is_present(entry: Entry) -> bool {
    entry.has(PRESENT)
}

#[inline]
pub(super) const fn is_table(entry: Entry) -> bool {
    entry.raw() & (PRESENT | LARGE) == PRESENT
}

/// What tells the formats of this layout apart.
///
/// A table entry is the same in both: present, writable, for user mode.
pub(crate) trait Variant:
    sealed::Sealed + Into<AnyFormat> + Copy + Debug + Eq + Send + Sync + 'static
{
    /// The format's name.
    const NAME: &'static str;
    /// What a leaf may have beside the bits that both have.
    const LEAF_BITS: u64;

    /// Returns the layout.
    fn paging(&self) -> &Paging;

    /// As [`Format::admits`].
    fn admits(&self, gpa: Gpa) -> bool;

    /// As [`Format::input_end`].
    fn input_end(&self, gpa: Gpa) -> u64;

    /// Encodes the flags of a leaf.
    fn encode(flags: LeafFlags) -> Result<u64, AttrError>;

    /// Decodes the flags of a leaf.
    fn decode(leaf: Entry) -> LeafFlags;
}

impl<T: Variant> Format for T {
    fn name(&self) -> &'static str {
        T::NAME
    }

    #[inline]
    fn levels(&self) -> Levels {
        self.paging().levels
    }

    #[inline]
    fn phys_width(&self) -> PhysWidth {
        self.paging().width
    }

    fn supports(&self, size: PageSize) -> bool {
        self.paging().supports(size)
    }

    #[inline]
    fn admits(&self, gpa: Gpa) -> bool {
        Variant::admits(self, gpa)
    }

    fn input_end(&self, gpa: Gpa) -> u64 {
        Variant::input_end(self, gpa)
    }

    fn root_pointer(&self, root: HostPfn, _tracking: Tracking) -> u64 {
        self.paging().root_pointer(root)
    }

    #[inline]
    fn table(&self, pfn: HostPfn) -> Entry {
        self.paging().table(pfn)
    }

    #[inline]
    fn leaf(&self, size: PageSize, pfn: HostPfn, attr: Attr) -> Result<Entry, EncodeError> {
        check_frame(self, size, pfn)?;
        let flags = T::encode(attr.flags())?;
        check_soft(attr.soft())?;
        Ok(self.paging().leaf(size, pfn, attr, flags)?)
    }

    fn with_prot(&self, leaf: Entry, prot: Prot) -> Result<Entry, AttrError> {
        with_prot(leaf, prot)
    }

    #[inline]
    fn is_present(&self, entry: Entry) -> bool {
        is_present(entry)
    }

    #[inline]
    fn is_table(&self, entry: Entry) -> bool {
        is_table(entry)
    }

    #[inline]
    fn table_frame(&self, entry: Entry) -> HostPfn {
        self.paging().table_frame(entry)
    }

    #[inline]
    fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn {
        self.paging().leaf_frame(size, leaf)
    }

    #[inline]
    fn attr(&self, size: PageSize, leaf: Entry) -> Attr {
        self.paging().attr(size, leaf).with_flags(T::decode(leaf))
    }

    fn fresh(&self) -> Fresh {
        self.paging().fresh
    }

    fn keeps_bits(&self) -> bool {
        true
    }

    #[inline]
    fn accessed_bit(&self) -> u64 {
        ACCESSED
    }

    #[inline]
    fn dirty_bit(&self) -> u64 {
        DIRTY
    }

    fn write_bit(&self) -> u64 {
        WRITE
    }

    fn present_bits(&self) -> u64 {
        PRESENT
    }

    fn resize(&self) -> Resize {
        self.paging().resize
    }

    fn rights_bits(&self) -> u64 {
        RIGHTS
    }

    fn table_bits(&self) -> u64 {
        self.paging().table_bits()
    }

    fn leaf_bits(&self, size: PageSize) -> u64 {
        self.paging().leaf_bits(size) | T::LEAF_BITS
    }
}

/// Gives a format that is nothing but a `Paging` the options of one.
macro_rules! paging_options {
    ($format:ident) => {
        impl $format {
            /// Returns the same with another PAT layout.
            #[must_use]
            pub const fn with_pat(self, pat: $crate::format::Pat) -> Self {
                Self { paging: Paging { pat, ..self.paging } }
            }

            /// Returns the same for a processor that has no 1 GiB leaves.
            #[must_use]
            pub const fn without_1g_pages(self) -> Self {
                Self { paging: Paging { pages_1g: false, ..self.paging } }
            }

            /// Returns the same for a processor on which leaves change their size as `resize` says: some need
            /// [`BreakFirst`]($crate::Resize::BreakFirst) (AMD erratum 383, family 10h).
            #[must_use]
            pub const fn with_resize(self, resize: $crate::format::Resize) -> Self {
                Self { paging: Paging { resize, ..self.paging } }
            }

            /// Returns the same with another policy for fresh leaves.
            #[must_use]
            pub const fn with_fresh(self, fresh: $crate::format::Fresh) -> Self {
                Self { paging: Paging { fresh, ..self.paging } }
            }

            /// Returns the same with memory encryption: `bit` is set in every entry and in the root pointer
            /// (the C-bit; AMD APM vol. 2, 15.34), and the width given before is the reduced one.
            ///
            /// # Errors
            /// [`BadEncryptionBit`](crate::BadEncryptionBit) if the bit lies inside the width or above bit 51.
            pub const fn with_encryption_bit(
                self,
                bit: u8,
            ) -> Result<Self, $crate::format::BadEncryptionBit> {
                match self.paging.with_encryption_bit(bit) {
                    Ok(paging) => Ok(Self { paging }),
                    Err(error) => Err(error),
                }
            }
        }
    };
}
pub(super) use paging_options;
