//! Populate: UNPOPULATED becomes EMPTY, with all the tables that takes.
//!
//! Under the writer lock, in three steps:
//!
//! 1. *Survey.* Every slot in which the range ends must be UNPOPULATED; anything else is an overlap.
//!    Count the tables that are missing. Nothing has changed yet.
//! 2. *Reserve* the frames, all or none.
//! 3. *Link.* For each topmost UNPOPULATED slot build the subtree in private and publish it with one
//!    compare-exchange. Tables in which leaves of the granule's size fit, and that are wholly covered,
//!    are linked as they come: zero is EMPTY. In one that exists (the range begins or ends inside it)
//!    the covered slots change one by one.
//!
//! After step 2 nothing can fail. Others see each topmost link take effect at its own moment, so a
//! long range appears piece by piece, but never a table that is not ready. The fault path neither
//! waits nor is waited for: it does not touch UNPOPULATED slots.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{FrameSource, OutOfFrames},
    attr::Attr,
    entry::Entry,
    format::{EncodeError, Format},
    level::{Level, PageSize},
    observe::Domain,
    ops::{encode_run, parts},
    table::{CreateError, Need, NewTable, Next, Slot, Supply, Table, Walker, Writer},
};

/// Why a range was not populated. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PopulateError {
    /// A page of the range is populated already.
    #[error("{gpa} is populated already")]
    Overlap {
        /// The first such page.
        gpa: Gpa,
    },
    /// The frame source has too few frames.
    #[error("too few frames for tables")]
    OutOfFrames(#[from] OutOfFrames),
    /// The frame source gave a frame that does not fit the format's physical address width.
    #[error("the source's frame {pfn} does not fit a physical address width of {width} bits")]
    BadFrame {
        /// The frame.
        pfn: HostPfn,
        /// The width of the format, in bits.
        width: u8,
    },
    /// Some page of the range is not an input address of the table's format.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
    /// The processor has no leaves of this size.
    #[error("leaves of {granule:?} are not supported")]
    BadGranule {
        /// The size that was asked for.
        granule: PageSize,
    },
    /// The range begins or ends within a granule.
    #[error("{range} is not aligned to leaves of {granule:?}")]
    Misaligned {
        /// The range.
        range: GpaRange,
        /// The size that was asked for.
        granule: PageSize,
    },
    /// The leaves that should be mapped at once cannot be encoded.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
}

impl From<CreateError> for PopulateError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::OutOfFrames(error) => Self::OutOfFrames(error),
            CreateError::BadFrame { pfn, width } => Self::BadFrame { pfn, width },
        }
    }
}

/// What stands in the slots of a range that was populated.
#[derive(Clone, Copy, Debug)]
enum Contents {
    /// Nothing is mapped.
    Empty,
    /// Leaves of consecutive frames, the first of which translates the page `origin`.
    Leaves { first: Entry, origin: u64 },
}

impl Contents {
    #[inline]
    fn entry(self, page: u64) -> Entry {
        match self {
            Self::Empty => Entry::EMPTY,
            Self::Leaves { first, origin } => first.advanced(page - origin),
        }
    }
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    pub(crate) fn populate(&self, range: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        self.check(range, granule)?;
        self.populate_with(range, granule, Contents::Empty)
    }

    pub(crate) fn populate_mapped(
        &self,
        range: GpaRange,
        granule: PageSize,
        first: HostPfn,
        attr: Attr,
    ) -> Result<(), PopulateError> {
        self.check(range, granule)?;
        let first = encode_run(self.tree().format(), granule, first, range.pages(), attr)?;
        self.populate_with(range, granule, Contents::Leaves { first, origin: range.first_page() })
    }

    /// Checks what does not depend on the state of the tree.
    fn check(&self, range: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        let format = self.tree().format();
        if !format.supports(granule) {
            return Err(PopulateError::BadGranule { granule });
        }
        if !format.admits_range(range) {
            return Err(PopulateError::OutOfRange { range });
        }
        if [range.first_page(), range.end_page()].iter().any(|at| at % granule.pages() != 0) {
            return Err(PopulateError::Misaligned { range, granule });
        }
        Ok(())
    }

    fn populate_with(
        &self,
        range: GpaRange,
        granule: PageSize,
        contents: Contents,
    ) -> Result<(), PopulateError> {
        let structure = self.lock();
        let walker = structure.walk();
        let (root, level) = walker.root();
        let mut need = Need::default();
        walker.survey(root, level, range, granule.level(), &mut need)?;
        let supply = structure.reserve(need, range.start())?;
        let leaf_level = granule.level();
        Build { writer: structure.writer(), supply, leaf_level, contents }.link(root, level, range);
        Ok(())
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Checks that all of `range` is unpopulated, and counts the tables down to `lowest` that are
    /// missing.
    fn survey(
        self,
        table: &'p Table,
        level: Level,
        range: GpaRange,
        lowest: Level,
        need: &mut Need,
    ) -> Result<(), PopulateError> {
        for (index, part) in parts(range, level) {
            match self.step(table.slot(index), level) {
                // Also below the lowest level, where some page is populated, or there would be no
                // table: the first of them is the overlap.
                Next::Down(child, below) => self.survey(child, below, part, lowest, need)?,
                Next::Here(Entry::UNPOPULATED) => need.add(part, lowest, level),
                Next::Here(_) => {
                    return Err(PopulateError::Overlap { gpa: part.start() });
                }
            }
        }
        Ok(())
    }
}

/// The third step: what cannot fail any more.
struct Build<'t, F: Format, S: FrameSource> {
    writer: &'t Writer<'t, F, S>,
    supply: Supply<'t, F, S>,
    /// Where the leaves go.
    leaf_level: Level,
    contents: Contents,
}

impl<'t, F: Format, S: FrameSource> Build<'t, F, S> {
    /// Populates `range`, which is unpopulated, in a live table of `level`.
    fn link(&mut self, table: &'t Table, level: Level, range: GpaRange) {
        let walker = self.writer.walk();
        for (index, part) in parts(range, level) {
            let slot = table.slot(index);
            match (walker.step(slot, level), level.below()) {
                (Next::Down(child, below), _) => self.link(child, below, part),
                (Next::Here(_), Some(below)) if level > self.leaf_level => {
                    let child = self.subtree(below, part);
                    // Takes effect here for all of `part`.
                    self.writer.link(slot, level, child);
                }
                (Next::Here(_), _) => self.open(slot, part.first_page()),
            }
        }
    }

    /// Populates one slot for a leaf, in a table that is live.
    fn open(&self, slot: &Slot, page: u64) {
        let entry = self.contents.entry(page);
        self.writer.commit(slot, self.leaf_level, Entry::UNPOPULATED, entry);
    }

    /// Builds, in private, the table of `level` that translates `range`, and all below it.
    fn subtree(&mut self, level: Level, range: GpaRange) -> NewTable<'t> {
        let table = self.supply.table(level);
        let whole = level.table_span(range.first_page());
        if level > self.leaf_level
            && let Some(below) = level.below()
        {
            let mut parts = parts(range, level).peekable();
            table.fill(|index| match parts.next_if(|&(at, _)| at == index) {
                Some((_, part)) => {
                    let child = self.subtree(below, part);
                    self.supply.entry(child)
                }
                None => Entry::UNPOPULATED,
            });
        } else if !(matches!(self.contents, Contents::Empty) && range == whole) {
            table.fill(|index| {
                let page = whole.first_page() + index as u64 * level.span_pages();
                let covered = range.contains(Gpa::of_page(page));
                if covered { self.contents.entry(page) } else { Entry::UNPOPULATED }
            });
        }
        table
    }
}
