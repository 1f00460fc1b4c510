//! Spaces: an address space made of regions.

mod backing;

pub use self::backing::{
    Answer, Backing, BackingError, Contiguous, CopyOnWrite, CopyPool, FramePool, OnDemand,
    Released, Request, Supplied, Supplier, Want,
};
