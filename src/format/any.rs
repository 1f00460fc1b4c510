//! A format chosen at run time.

use super::{
    AttrError, EncodeError, Ept, Format, Fresh, LongMode, Npt, PhysWidth, Resize, Tracking, sealed,
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, Prot},
    entry::Entry,
    level::{Levels, PageSize},
};

/// One of the formats, picked when the program starts: for callers who do not want a type parameter
/// everywhere. It costs one well-predicted branch an entry.
///
/// ```
/// use slat::{AnyFormat, Ept, EptCaps, Format, Levels, Npt, PhysWidth};
///
/// let intel = true;
/// let format: AnyFormat = if intel {
///     Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL).into()
/// } else {
///     Npt::new(Levels::Four, PhysWidth::MAX).into()
/// };
/// assert_eq!(format.name(), "ept");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnyFormat {
    /// Intel's extended page tables.
    Ept(Ept),
    /// AMD's nested page tables.
    Npt(Npt),
    /// Ordinary x86-64 page tables.
    LongMode(LongMode),
}

impl From<Ept> for AnyFormat {
    fn from(format: Ept) -> Self {
        Self::Ept(format)
    }
}

impl From<Npt> for AnyFormat {
    fn from(format: Npt) -> Self {
        Self::Npt(format)
    }
}

impl From<LongMode> for AnyFormat {
    fn from(format: LongMode) -> Self {
        Self::LongMode(format)
    }
}

impl sealed::Sealed for AnyFormat {}

/// Forwards to the format that it is.
macro_rules! forward {
    ($(fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $out:ty;)*) => {
        impl Format for AnyFormat {
            $(
                #[inline]
                fn $name(&self $(, $arg: $ty)*) -> $out {
                    match self {
                        Self::Ept(format) => format.$name($($arg),*),
                        Self::Npt(format) => format.$name($($arg),*),
                        Self::LongMode(format) => format.$name($($arg),*),
                    }
                }
            )*
        }
    };
}

forward! {
    fn name(&self) -> &'static str;
    fn levels(&self) -> Levels;
    fn phys_width(&self) -> PhysWidth;
    fn supports(&self, size: PageSize) -> bool;
    fn admits(&self, gpa: Gpa) -> bool;
    fn input_end(&self, gpa: Gpa) -> u64;
    fn root_pointer(&self, root: HostPfn, tracking: Tracking) -> u64;
    fn table(&self, pfn: HostPfn) -> Entry;
    fn leaf(&self, size: PageSize, pfn: HostPfn, attr: Attr) -> Result<Entry, EncodeError>;
    fn with_prot(&self, leaf: Entry, prot: Prot) -> Result<Entry, AttrError>;
    fn is_present(&self, entry: Entry) -> bool;
    fn is_table(&self, entry: Entry) -> bool;
    fn table_frame(&self, entry: Entry) -> HostPfn;
    fn leaf_frame(&self, size: PageSize, leaf: Entry) -> HostPfn;
    fn attr(&self, size: PageSize, leaf: Entry) -> Attr;
    fn fresh(&self) -> Fresh;
    fn keeps_bits(&self) -> bool;
    fn accessed_bit(&self) -> u64;
    fn dirty_bit(&self) -> u64;
    fn write_bit(&self) -> u64;
    fn present_bits(&self) -> u64;
    fn resize(&self) -> Resize;
    fn rights_bits(&self) -> u64;
    fn table_bits(&self) -> u64;
    fn leaf_bits(&self, size: PageSize) -> u64;
}
