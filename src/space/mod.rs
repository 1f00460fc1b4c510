//! Spaces: an address space made of regions.

mod backing;

pub use self::backing::{
    Answer, Backing, BackingError, BeyondEnd, Contiguous, CopyOnWrite, CopyPool, Ended, FramePool,
    FramesError, OnDemand, OutOfMemory, Released, Request, Supplied, Supplier, SupplierGone,
    SupplyError, SupplyFailed, Want,
};
