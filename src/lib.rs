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
mod observe;
mod ops;
mod page_table;
mod pinned;
mod reader;
mod sync;
mod table;
mod walk;

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle))))]
pub use self::arena::{Arena, ArenaError, ArenaOptions};
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
    observe::{Flush, ForeignFlush},
    ops::{
        HostRun, MapError, MapRangeError, Mapped, MappedRange, Mappings, OutOfRange, PopulateError,
        ProtectError, SlotRef, Step, TranslateError, UnmapError, UnmapRangeError, Walk,
    },
    page_table::PageTable,
    pinned::Pinned,
    reader::Reader,
    table::{CreateError, Table},
};
