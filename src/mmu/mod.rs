//! A software MMU: walks the tables as a processor does.
//!
//! An [`Mmu`] is a view of one tree. [`Mmu::translate`] walks it for one access: it takes the rights
//! that all entries of the walk have in common, refuses reserved bits, sets accessed and dirty bits
//! with atomic read-modify-writes, and says of a failure what the processor would say
//! ([`Fault`]: exit qualification, EXITINFO1, page-fault error code). [`Mmu::translate_cached`] does
//! the same with a TLB and a paging-structure cache that really go stale ([`TranslationCache`]).
//!
//! It is meant for emulators and device models, which translate through the very tables that
//! hardware uses, and for tests, to which it *is* the hardware. So it is written from the manuals,
//! and shares with the rest of the crate neither bit definitions nor operations: only the
//! capabilities of the format value, and the slots themselves.
//!
//! What a processor may do in more than one way is done like this:
//!
//! - Accessed bits are set from the top down as the walk passes; a walk that faults has set those
//!   above the entry that stopped it, and no bit in that entry.
//! - Rights are checked at the leaf, over the whole walk, so a missing entry or a reserved bit below
//!   comes before a missing right above.
//! - An address beyond the input width of EPT or nPT reads as not present; one that is not canonical
//!   is [`Fault::NonCanonical`].
//! - A walk from the paging-structure cache that faults is reported even where a walk from the root
//!   would not; the caches forget the address, so the next try finds out.
//!
//! ```
//! use slat::{
//!     Attr, Ept, EptCaps, Format, FrameSource, Gpa, HeapFrames, Hint, HostPfn, Levels,
//!     PageSize, PhysWidth, Prot, Tracking,
//!     mmu::{Access, Cause, DirtyChange, Mmu},
//! };
//!
//! // A tree of one 1 GiB page, made by hand.
//! let ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
//! let frames = HeapFrames::new(2);
//! let mut runs = Vec::new();
//! frames.allocate(2, Hint::new(Gpa::new(0)), &mut runs)?;
//! let (root, below) = (runs[0].first, HostPfn::new(runs[0].first.get() + 1));
//! let leaf = ept.leaf(PageSize::Size1G, HostPfn::new(0x40000), Attr::new(Prot::RW))?;
//! // SAFETY: both frames were just allocated; they are never given back; nobody else has them.
//! let mmu = unsafe {
//!     frames.table(root).plant(0, ept.table(below));
//!     frames.table(below).plant(0, leaf);
//!     Mmu::new(ept, &frames, ept.root_pointer(root, Tracking::On))?
//! };
//!
//! let written = mmu.translate(Gpa::new(0x5000), Access::WRITE)?;
//! assert_eq!(written.pfn, HostPfn::new(0x40005));
//! assert_eq!(written.dirty, DirtyChange::Set);
//! let refused = mmu.translate(Gpa::new(0x5000), Access::FETCH).unwrap_err();
//! assert_eq!(refused.cause(), Cause::Rights);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod cache;
mod ept;
mod fault;
#[cfg(all(test, loom))]
mod model;
mod rules;
mod view;
mod walk;
mod x86;

pub use self::{
    access::{Access, AccessKind, Mode, Target},
    cache::{CacheConfig, CacheStats, TranslationCache},
    fault::{Cause, Fault},
    view::{BadRootPointer, DirtyChange, Mmu, Translation},
};
pub(crate) use self::{cache::Keep, view::Identity};

// The tests spell out full-sized tables; the checkers' are narrow.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
