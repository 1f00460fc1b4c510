//! Second-level address translation.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod addr;
mod arena;
mod attr;
mod entry;
mod epoch;
mod format;
mod level;
mod mapping;
pub mod mmu;
mod sync;
mod table;

pub use self::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_BYTES, RangeError},
    arena::{Content, FrameRun, FrameSource, HeapFrames, HeapFramesError, Hint, OutOfFrames},
    attr::{Attr, BadMemType, LeafFlags, MemType, Prot, SoftBits},
    entry::Entry,
    format::{
        AnyFormat, AttrError, BadEncryptionBit, BadPat, BadPhysWidth, EncodeError, Ept, EptCaps,
        Format, Fresh, Kind, LongMode, Npt, Pat, PhysWidth, Who,
    },
    level::{Level, Levels, PageSize, SLOTS},
    mapping::Mapping,
    table::Table,
};
