//! One table, as its owner sees it: creation, structure, and the ways in.

use core::fmt;

use crate::{
    addr::{GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    format::Format,
    level::PageSize,
    mmu::{Identity, Mmu},
    ops::PopulateError,
    pinned::Pinned,
    reader::Reader,
    sync::Arc,
    table::{CreateError, Tree},
};

/// A second-level address translation table: EPT, nPT or long-mode tables that the MMU itself walks.
///
/// A cheap handle: clones share one table, which is freed, with all its tables, when the last handle
/// and the last [`Reader`] are dropped, in whatever state it is.
///
/// ```
/// use slat::{Attr, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, Mapped, PageSize};
/// use slat::{PageTable, PhysWidth, Prot};
///
/// let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// let table = PageTable::new(ept, HeapFrames::new(8))?;
/// table.populate(GpaRange::new(Gpa::new(0x10_0000), 0x10_0000)?, PageSize::Size4K)?;
///
/// // On the fault path, on any thread, with a reader of its own:
/// let reader = table.reader();
/// let pin = reader.pin();
/// let fault = Gpa::new(0x10_2345);
/// let attr = Attr::new(Prot::RWX);
/// assert_eq!(pin.map(fault, HostPfn::new(0x77), PageSize::Size4K, attr), Ok(Mapped::New));
/// assert_eq!(pin.lookup(fault).unwrap().gpa, Gpa::new(0x10_2000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PageTable<F: Format, S: FrameSource> {
    tree: Arc<Tree<F, S>>,
    /// The tree's, by which caches of the software MMU know it.
    identity: Identity,
}

impl<F: Format, S: FrameSource> PageTable<F, S> {
    /// Makes a table in which nothing is populated; takes one frame, for the root.
    ///
    /// # Errors
    /// [`CreateError`] if the source has no frame, or one that does not fit the format.
    pub fn new(format: F, frames: S) -> Result<Self, CreateError> {
        let tree = Arc::new(Tree::new(format, frames)?);
        Ok(Self { tree, identity: Identity::fresh() })
    }

    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> &F {
        self.tree.format()
    }

    /// Returns the frame source.
    #[must_use]
    pub fn frames(&self) -> &S {
        self.tree.frames()
    }

    /// Returns the frame of the root table, which stays the same for the life of the table.
    #[must_use]
    pub fn root(&self) -> HostPfn {
        self.tree.root()
    }

    /// Makes tables for `range`, so that leaves of the size `granule` can be mapped there.
    ///
    /// Exact for every page: afterwards precisely the pages of this and of earlier ranges are
    /// populated. Costs the tables that it links, not the pages: wholly covered leaf tables are not
    /// even written to.
    ///
    /// `granule` is [`PageSize::Size4K`]; other sizes are refused.
    ///
    /// # Errors
    /// [`PopulateError`], and nothing has changed: a page was populated already, the source has too
    /// few frames, or the range has pages that the format does not translate.
    ///
    /// # Concurrency
    /// Takes the writer lock. Takes effect at the publication of each topmost new table, which is
    /// complete by then; a long range is not atomic to others. The fault path goes on beside it.
    pub fn populate(&self, range: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        self.tree.populate(range, granule)
    }

    /// Makes the pages of `range` unpopulated.
    ///
    /// # Errors
    /// [`VacateError`](crate::VacateError), and nothing has changed.
    pub fn vacate(&self, range: GpaRange) -> Result<(), crate::ops::VacateError> {
        let dead = self.tree.lock().vacate(range)?;
        self.tree.morgue.lock().extend(dead);
        Ok(())
    }

    /// Makes tables for `range` and maps its pages to the consecutive frames from `first` on: for
    /// prefault and restore. New tables are filled before anybody can see them.
    ///
    /// # Errors
    /// As [`populate`](Self::populate), and if the format cannot encode the leaves. Nothing has
    /// changed then.
    ///
    /// # Concurrency
    /// As [`populate`](Self::populate). No page of the range is ever seen populated and not mapped,
    /// so no other mapper can come between. Where the range begins or ends in a leaf table that
    /// exists already, its pages appear there one by one.
    pub fn populate_mapped(
        &self,
        range: GpaRange,
        granule: PageSize,
        first: HostPfn,
        attr: Attr,
    ) -> Result<(), PopulateError> {
        self.tree.populate_mapped(range, granule, first, attr)
    }

    /// Makes a reader: the handle by which one thread at a time pins the table, cheaply.
    ///
    /// Allocates and registers; make one per vCPU, not one per fault.
    #[must_use]
    pub fn reader(&self) -> Reader<F, S> {
        Reader::new(self.clone(), self.tree.epoch().join())
    }

    /// Pins the table without a [`Reader`]: the slow way, for a look now and then. It registers a
    /// participant and gives it up again with the pin.
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, F, S> {
        Pinned::new(&self.tree, self.tree.epoch().join().pin())
    }

    /// Returns the view that a processor has of this table with
    /// [`root_pointer`](Format::root_pointer) loaded: a software MMU, which sets accessed and dirty
    /// bits as hardware does.
    #[must_use]
    pub fn mmu(&self) -> Mmu<'_, S> {
        Mmu::of_tree(&self.tree, self.identity)
    }

    pub(crate) fn tree(&self) -> &Tree<F, S> {
        &self.tree
    }
}

impl<F: Format, S: FrameSource> Clone for PageTable<F, S> {
    fn clone(&self) -> Self {
        Self { tree: Arc::clone(&self.tree), identity: self.identity }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for PageTable<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tree, .. } = self;
        f.debug_struct("PageTable").field("tree", tree).finish_non_exhaustive()
    }
}
