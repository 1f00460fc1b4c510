//! The view of one tree, and what a translation gives.

#![expect(unsafe_code, reason = "the frames of a tree are the caller's promise")]

use core::{fmt, num::NonZeroU64};

use super::{
    Access, Fault, TranslationCache,
    cache::Keep,
    rules::{Refusal, Rules, Want},
    walk::Leaf,
};
use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Prot,
    entry::Entry,
    format::{AnyFormat, Format, Tracking},
    level::PageSize,
    sync::unique,
    table::Tree,
};

/// A root pointer that the processor would refuse to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRootPointer {
    /// The memory type of an EPTP (bits 2:0) is neither UC (0) nor WB (6).
    #[error("memory type {raw} in an EPTP is neither 0 nor 6")]
    MemType {
        /// Bits 2:0.
        raw: u8,
    },
    /// The walk length of an EPTP (bits 5:3) is not that of the format.
    #[error("an EPTP for walks of {levels} levels is not of the format's paging mode")]
    WalkLength {
        /// The number of levels that it asks for.
        levels: u8,
    },
    /// Bit 6 of an EPTP asks for accessed and dirty flags, which the processor does not have.
    #[error("the EPTP asks for accessed and dirty flags, which are not supported")]
    AccessedDirty,
    /// Bits are set that must be zero.
    #[error("bits {bits:#x} of the root pointer are reserved")]
    Reserved {
        /// Those bits.
        bits: u64,
    },
}

/// Whether an access changed the dirty bit of its leaf from 0 to 1.
///
/// Page-modification logging (Intel SDM vol. 3C, 29.3.6) appends the address to a log at each
/// [`Set`](Self::Set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirtyChange {
    /// No: it was no write, the bit was set already, or the MMU keeps none.
    None,
    /// Yes: this access set it.
    Set,
}

/// What an access reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Translation {
    /// The host frame of the 4 KiB page.
    pub pfn: HostPfn,
    /// The size of the leaf.
    pub size: PageSize,
    /// What all entries of the walk allow; in long mode, to the mode of the access.
    pub prot: Prot,
    /// The leaf as the MMU read or left it; from a TLB, as it was then. A format decodes the rest of
    /// it: memory type, flags, software bits ([`Format::attr`]).
    pub leaf: Entry,
    /// Whether this access made the page dirty.
    pub dirty: DirtyChange,
}

impl Translation {
    fn new(page: u64, leaf: Leaf, dirty: DirtyChange) -> Self {
        let Leaf { frame, size, rights, entry } = leaf;
        let pfn = HostPfn::new(frame.get() | (page & (size.pages() - 1)));
        Self { pfn, size, prot: rights.prot(), leaf: entry, dirty }
    }
}

/// Which tree a cached frame number belongs to. No two trees ever have the same, also if they are
/// made one after the other in the same memory with the same root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(NonZeroU64);

impl Identity {
    /// Returns the identity of a new tree: a shared write, so once per tree and not once per view.
    pub(crate) fn fresh() -> Self {
        Self(unique())
    }
}

/// For which walks the contents of a cache are good.
///
/// Frame numbers in a cache name tables that nobody frees as long as a view with this stamp lives:
/// that is what [`Mmu::of_tree`] is promised, and why a view empties a cache with another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The tree.
    identity: Identity,
    /// When the tree was walked: a number that grows whenever tables of it may be freed later.
    generation: u64,
    /// The accessed bit, or zero if the walks set none: what is cached while accessed and dirty bits
    /// are off serves no walk that keeps them.
    accessed: u64,
}

/// A processor's view of one tree: its root pointer and its capabilities.
///
/// A cheap copy. All copies are views of the same tree, and share the contents of a
/// [`TranslationCache`]; another call of [`new`](Self::new) makes another tree of it, also with the
/// same arguments.
pub struct Mmu<'t, S> {
    pub(super) rules: Rules,
    pub(super) root: HostPfn,
    pub(super) frames: &'t S,
    identity: Identity,
    generation: u64,
}

impl<S> Clone for Mmu<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Mmu<'_, S> {}

impl<S> fmt::Debug for Mmu<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmu")
            .field("rules", &self.rules)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl<'t, S: FrameSource> Mmu<'t, S> {
    /// Makes the view that a processor has with `root_pointer` (EPTP, nCR3 or CR3) loaded.
    ///
    /// EPT keeps accessed and dirty bits if bit 6 of the EPTP says so; nPT and long mode always do.
    ///
    /// # Errors
    /// [`BadRootPointer`] if the processor would refuse it: VM entry and VMRUN check it (Intel SDM
    /// vol. 3C, 25.6.11 and 27.2.1.1; AMD APM vol. 2, 15.5.1 and 5.3.2).
    ///
    /// # Safety
    /// For as long as this value or a copy of it lives:
    ///
    /// 1. the frame in `root_pointer`, and every frame that the processor would take for a table's in
    ///    an entry that it reaches from there, was allocated from `frames`;
    /// 2. none of them is given back, not even after it was unlinked: a [`TranslationCache`] may
    ///    remember it.
    pub unsafe fn new(
        format: impl Into<AnyFormat>,
        frames: &'t S,
        root_pointer: u64,
    ) -> Result<Self, BadRootPointer> {
        // SAFETY: the caller's promise; a fresh identity is nobody else's.
        unsafe { Self::with_identity(format.into(), frames, root_pointer, Identity::fresh(), 0) }
    }

    /// Makes a view that shares the contents of caches with other views of the same tree in the same
    /// generation.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Safety
    /// As [`new`](Self::new), for the frames that this view, and every one of the same `identity` and
    /// `generation` before it, could reach; and all of one identity have the same `frames`.
    pub(crate) unsafe fn with_identity(
        format: AnyFormat,
        frames: &'t S,
        root_pointer: u64,
        identity: Identity,
        generation: u64,
    ) -> Result<Self, BadRootPointer> {
        let (rules, root) = Rules::new(format, root_pointer)?;
        Ok(Self { rules, root, frames, identity, generation })
    }

    /// Makes a view of a page table's tree, whose `identity` this is.
    ///
    /// # Safety
    /// For as long as this value or a copy of it lives, no table is freed that it could reach, or that
    /// any view of the same `generation` before it could.
    pub(crate) unsafe fn of_tree<F: Format>(
        tree: &'t Tree<F, S>,
        tracking: Tracking,
        identity: Identity,
        generation: u64,
    ) -> Self {
        let format = *tree.format();
        let root_pointer = format.root_pointer(tree.root(), tracking);
        let (format, frames) = (format.into(), tree.frames());
        // SAFETY:
        // 1. Invariant `linked`: every table entry of the tree names a frame of its own source.
        // 2. None of them is freed meanwhile, by the caller's promise; the identity is this tree's
        //    alone, so caches forget its frames before they serve another.
        let view =
            unsafe { Self::with_identity(format, frames, root_pointer, identity, generation) };
        view.expect("a format's own root pointer is one that its processor takes")
    }

    /// Makes `cache` good for this view. What it kept from walks of generation `since` stays, but for
    /// the pages that `stale` names; all of it goes if it is from others, or if `stale` is `None`.
    pub(crate) fn refresh(
        &self,
        cache: &mut TranslationCache,
        since: u64,
        stale: Option<impl Iterator<Item = (GpaRange, Keep)>>,
    ) {
        let stamp = self.stamp();
        let before = Stamp { generation: since, ..stamp };
        match stale {
            Some(stale) if cache.is_of(before) || cache.is_of(stamp) => {
                stale.for_each(|(range, keep)| cache.invalidate(range, keep));
            }
            _ => cache.invalidate_all(),
        }
        cache.claim(stamp);
    }

    fn stamp(&self) -> Stamp {
        let Self { identity, generation, .. } = *self;
        Stamp { identity, generation, accessed: self.rules.accessed() }
    }

    /// Translates `gpa` for `access` by a walk from the root.
    ///
    /// Sets the accessed bit in every entry that it uses and, if the access is a write, the dirty bit
    /// in the leaf.
    ///
    /// # Errors
    /// [`Fault`], with what the processor would report. Neither bit is set in the entry that stopped
    /// the walk.
    ///
    /// # Concurrency
    /// Takes effect, for the leaf, at the compare-exchange that sets the bits, or at the load that
    /// found them set. Lock-free: it starts over with an entry only because somebody changed it.
    pub fn translate(&self, gpa: Gpa, access: Access) -> Result<Translation, Fault> {
        self.rules.check(gpa, access)?;
        match self.walk(self.top(), gpa.page(), self.rules.want(access), |_, _| ()) {
            Ok((leaf, dirty)) => Ok(Translation::new(gpa.page(), leaf, dirty)),
            Err(refusal) => Err(self.rules.fault(gpa, access, refusal)),
        }
    }

    /// Translates `gpa` for `access` with the help of `cache`, which may be stale.
    ///
    /// What the TLB answers reads no table and sets no bit. A walk that begins in the
    /// paging-structure cache reads, and sets accessed bits in, only the entries below. A write sets
    /// the dirty bit in the entry as it then is, unless the TLB holds the leaf with the bit set: so a
    /// dirty bit that was cleared without an invalidation stays clear.
    ///
    /// # Errors
    /// As [`translate`](Self::translate), but the fault may be spurious if the cache is stale. The
    /// cache has forgotten the address then.
    ///
    /// # Concurrency
    /// As [`translate`](Self::translate), where it walks.
    pub fn translate_cached(
        &self,
        cache: &mut TranslationCache,
        gpa: Gpa,
        access: Access,
    ) -> Result<Translation, Fault> {
        self.rules.check(gpa, access)?;
        cache.serve(self.stamp());
        let (page, want) = (gpa.page(), self.rules.want(access));
        if let Some(leaf) = cache.leaf(page, want) {
            return Ok(Translation::new(page, leaf, DirtyChange::None));
        }
        match self.walk_cached(cache, page, want) {
            Ok((leaf, dirty)) => Ok(Translation::new(page, leaf, dirty)),
            Err(refusal) => {
                // SDM 4.10.4.1, 29.4.3.1: a fault invalidates what would be used for its address.
                cache.invalidate_page(gpa);
                Err(self.rules.fault(gpa, access, refusal))
            }
        }
    }

    /// Walks from the lowest table that the paging-structure cache knows, and fills both caches.
    fn walk_cached(
        &self,
        cache: &mut TranslationCache,
        page: u64,
        want: Want,
    ) -> Result<(Leaf, DirtyChange), Refusal> {
        let from = cache.start(page).unwrap_or(self.top());
        let passed = |level, below| cache.keep_cursor(level, page, below);
        let (leaf, dirty) = self.walk(from, page, want, passed)?;
        cache.keep_leaf(page, leaf);
        Ok((leaf, dirty))
    }
}
