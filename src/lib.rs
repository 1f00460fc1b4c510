//! Second-level address translation for hypervisors and VMMs: a lock-free, concurrent EPT / nPT page
//! table whose 4 KiB tables are what the MMU itself walks.
//!
//! **The node tree is the hardware tables.** There is no shadow structure: a slot says everything that
//! the library must know, in bits that the MMU ignores. Structural changes take one writer lock; the
//! fault path takes none, and commits with one compare-exchange.
//!
//! - [`PageTable`] is the table: made of a [`Format`] ([`Ept`], [`Npt`], [`LongMode`], [`AnyFormat`]) and
//!   a [`FrameSource`] (`Arena`, [`HeapFrames`], or your own). [`PageTable::populate`] makes room in it
//!   for a range of memory.
//! - [`Reader`], one per vCPU thread, makes [`Pinned`]: all operations of the fault path.
//! - [`Observer`], one per translation cache, is the way to the root pointer: while it is inside,
//!   nothing that it can reach is freed.
//! - [`Flush`] is the duty to invalidate what translation caches may still hold;
//!   [`Flush::shootdown`] serves it.
//! - [`Dump`] says what a table maps, and [`Heat`] how much of what is in a [`Bitmap`]: as text, and, with the
//!   feature `serde`, for programs.
//! - [`Space`] is what a VMM starts with: an address space of regions, each with a [`Backing`], over one
//!   table. A [`Vcpu`] resolves faults in it, and holds pages for devices.
//! - [`mmu`] walks the same tables in software, as the manuals say that hardware does.
//!
//! The long form, with drawings: [`docs`].
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod addr;
mod arena;
mod attr;
mod bitmap;
mod dump;
mod entry;
mod epoch;
mod format;
mod heat;
mod level;
mod mapping;
pub mod mmu;
mod observe;
mod ops;
mod page_table;
mod pinned;
mod reader;
#[cfg(feature = "serde")]
mod serial;
mod space;
mod sync;
mod table;
mod walk;

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle))))]
pub use self::arena::{Arena, ArenaError, ArenaOptions};
#[cfg(all(feature = "std", unix, not(any(loom, shuttle))))]
pub use self::observe::{BadSignal, SignalKicks};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use self::observe::{ThreadKicks, ThreadSeat};
#[cfg(all(feature = "vm-memory", not(any(loom, shuttle))))]
pub use self::space::{SpaceBitmap, SpaceBitmapSlice, SpaceMemory};
#[cfg(shuttle)]
pub use self::sync::{NextStep, next_step};
pub use self::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_BYTES, RangeError},
    arena::{Content, FrameRun, FrameSource, HeapFrames, HeapFramesError, Hint, OutOfFrames},
    attr::{Attr, BadMemType, LeafFlags, MemType, Prot, SoftBits},
    bitmap::{Bitmap, BitmapRuns, NotCovered, RangesDiffer},
    dump::{Dump, LeafRun},
    entry::Entry,
    format::{
        AnyFormat, AttrError, BadEncryptionBit, BadPat, BadPhysWidth, EncodeError, Ept, EptCaps,
        Format, Fresh, Kind, LongMode, Npt, Pat, PhysWidth, Resize, Tracking, Who,
    },
    heat::{Heat, HeatCell},
    level::{Level, Levels, PageSize, SLOTS},
    mapping::Mapping,
    observe::{
        Due, Flush, ForeignFlush, Generation, Inside, InsideGuest, Kick, Observer, ObserverId,
        ObserverState, Observers, Progress, Ranges, Reclaimed, Scope, Shootdown, Stale, Stats,
        UnknownObserver,
    },
    ops::{
        CollapseError, Collapsed, FixError, Fixed, HarvestError, HostRun, MapError, MapRangeError,
        Mapped, MappedRange, Mappings, Mark, NoteError, Noted, OutOfRange, PopulateError,
        ProtectError, RefineError, SlotRef, SplitError, SplitRangeError, Step, TranslateError,
        UnmapError, UnmapRangeError, VacateError, Walk, WatchError,
    },
    page_table::PageTable,
    pinned::Pinned,
    reader::Reader,
    space::{
        Answer, Backing, BackingError, BadFaultAround, BeyondEnd, Contiguous, CopyOnWrite,
        CopyPool, DirtyError, DiscardError, Ended, Fault, FaultError, FramePool, FramesError, Hold,
        HoldEnd, HoldRange, InsideVcpu, MapRegionError, OnDemand, OutOfMemory, PageState,
        PrefaultError, ProtectRegionError, RegionDump, RegionInfo, Released, ReplaceBackingError,
        Request, ResizeRegionError, Space, SpaceDump, SpaceStats, Supplied, Supplier, SupplierGone,
        SupplyError, SupplyFailed, TrackError, UnmapRegionError, Vcpu, VcpuStats, Want,
    },
    table::{CreateError, Table},
};

/// The long form of the documentation, from the repository's `docs/`.
#[cfg(any(doc, doctest))]
pub mod docs {
    #[doc = include_str!("../README.md")]
    pub mod readme {}
    #[doc = include_str!("../docs/THEORY.md")]
    pub mod theory {}
    #[doc = include_str!("../docs/SPACES.md")]
    pub mod spaces {}
    #[doc = include_str!("../docs/GUEST.md")]
    pub mod guest {}
    #[doc = include_str!("../docs/POSTCOPY.md")]
    pub mod postcopy {}
    #[doc = include_str!("../docs/FORMATS.md")]
    pub mod formats {}
    #[doc = include_str!("../docs/ORDERING.md")]
    pub mod ordering {}
    #[doc = include_str!("../docs/PAIRS.md")]
    pub mod pairs {}
    #[doc = include_str!("../docs/MMUS.md")]
    pub mod mmus {}
    #[doc = include_str!("../docs/UNSAFE.md")]
    pub mod unsafe_code {}
    #[doc = include_str!("../docs/TESTING.md")]
    pub mod testing {}
    #[doc = include_str!("../docs/PERFORMANCE.md")]
    pub mod performance {}
}
