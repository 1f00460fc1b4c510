//! Populate: UNPOPULATED becomes EMPTY, with all the tables that takes.
//!
//! Under the writer lock, in three steps:
//!
//! 1. *Survey.* Every slot in which the range ends must be UNPOPULATED; anything else is an overlap.
//!    Count the tables that are missing. Nothing has changed yet.
//! 2. *Reserve* the frames, all or none.
//! 3. *Link.* For each topmost UNPOPULATED slot build the subtree in private and publish it with one
//!    compare-exchange. Leaf tables that are wholly covered are linked as they come: zero is EMPTY.
//!    In a leaf table that exists (the range begins or ends inside it) the covered slots change one
//!    by one.
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
    level::{INDEX_BITS, Level, PageSize, SLOTS},
    table::{CreateError, Fresh, Need, Slot, Step, Supply, Table, Tree, Walker, Writer},
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
    #[error("too few frames for tables: {0}")]
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
    /// Tables for leaves of this size cannot be made.
    #[error("cannot populate for leaves of {granule:?}")]
    BadGranule {
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

impl<F: Format, S: FrameSource> Tree<F, S> {
    pub(crate) fn populate(&self, range: GpaRange, granule: PageSize) -> Result<(), PopulateError> {
        self.populate_with(range, granule, |_| Ok(Contents::Empty))
    }

    pub(crate) fn populate_mapped(
        &self,
        range: GpaRange,
        granule: PageSize,
        first: HostPfn,
        attr: Attr,
    ) -> Result<(), PopulateError> {
        self.populate_with(range, granule, |walker| {
            let first = walker.encode_run(first, range.pages(), attr)?;
            Ok(Contents::Leaves { first, origin: range.first_page() })
        })
    }

    fn populate_with(
        &self,
        range: GpaRange,
        granule: PageSize,
        contents: impl FnOnce(Walker<'_, F, S>) -> Result<Contents, EncodeError>,
    ) -> Result<(), PopulateError> {
        if granule != PageSize::Size4K {
            return Err(PopulateError::BadGranule { granule });
        }
        if !self.format().admits_range(range) {
            return Err(PopulateError::OutOfRange { range });
        }
        let writer = self.lock();
        let walker = writer.walk();
        let contents = contents(walker)?;
        let (root, level) = walker.root();
        let span = Span { first: range.first_page(), end: range.end_page() };
        let mut need = Need::default();
        walker.survey(root, level, span, &mut need)?;
        let supply = writer.reserve(need, range.start())?;
        Build { writer: &writer, supply, contents }.link(root, level, span);
        Ok(())
    }
}

/// The pages `first..end`, at least one.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    end: u64,
}

impl Span {
    /// Returns the parts of the span that the slots of a table of `level` translate, by index.
    fn parts(self, level: Level) -> impl Iterator<Item = (usize, Self)> {
        let mut first = self.first;
        core::iter::from_fn(move || {
            let part = Self { first, end: level.next_page(first).min(self.end) };
            first = part.end;
            (part.first < self.end).then(|| (level.index(part.first), part))
        })
    }

    /// Tells whether the span is all that a leaf table translates.
    fn fills_leaf_table(self) -> bool {
        self.end - self.first == SLOTS as u64
    }

    /// Returns how many tables of `level` the span needs.
    fn tables(self, level: Level) -> u64 {
        let shift = level.span_shift() + INDEX_BITS;
        ((self.end - 1) >> shift) - (self.first >> shift) + 1
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Checks that all of `span` is unpopulated, and counts the tables that are missing.
    fn survey(
        self,
        table: &'p Table,
        level: Level,
        span: Span,
        need: &mut Need,
    ) -> Result<(), PopulateError> {
        for (index, part) in span.parts(level) {
            match self.step(table.slot(index), level) {
                Step::Down(child, below) => self.survey(child, below, part, need)?,
                Step::Here(Entry::UNPOPULATED) => {
                    for below in Level::ALL.into_iter().filter(|&below| below < level) {
                        match below {
                            Level::L1 => need.leaf_tables += part.tables(below),
                            _ => need.upper_tables += part.tables(below),
                        }
                    }
                }
                Step::Here(_) => {
                    return Err(PopulateError::Overlap { gpa: Gpa::of_page(part.first) });
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
    contents: Contents,
}

impl<'t, F: Format, S: FrameSource> Build<'t, F, S> {
    /// Populates `span`, which is unpopulated, in a live table of `level`.
    fn link(&mut self, table: &'t Table, level: Level, span: Span) {
        let walker = self.writer.walk();
        for (index, part) in span.parts(level) {
            let slot = table.slot(index);
            match (walker.step(slot, level), level.below()) {
                (Step::Down(child, below), _) => self.link(child, below, part),
                (Step::Here(_), None) => self.open(slot, part.first),
                (Step::Here(_), Some(below)) => {
                    let child = self.subtree(below, part);
                    // Takes effect here for all of `part`.
                    self.writer.link(slot, level, child);
                }
            }
        }
    }

    /// Populates one page in a leaf table that is live.
    fn open(&self, slot: &Slot, page: u64) {
        self.writer.commit(slot, Level::L1, Entry::UNPOPULATED, self.contents.entry(page));
    }

    /// Builds, in private, the table of `level` that translates `span`, and all below it.
    fn subtree(&mut self, level: Level, span: Span) -> Fresh<'t> {
        let table = self.supply.table(level);
        let base = span.first & !((SLOTS as u64) * level.span_pages() - 1);
        let page_of = |index: usize| base + index as u64 * level.span_pages();
        if let Some(below) = level.below() {
            let mut parts = span.parts(level).peekable();
            table.fill(|index| match parts.next_if(|&(at, _)| at == index) {
                Some((_, part)) => {
                    let child = self.subtree(below, part);
                    self.supply.entry(child)
                }
                None => Entry::UNPOPULATED,
            });
        } else if !(matches!(self.contents, Contents::Empty) && span.fills_leaf_table()) {
            table.fill(|index| {
                let page = page_of(index);
                let covered = span.first <= page && page < span.end;
                if covered { self.contents.entry(page) } else { Entry::UNPOPULATED }
            });
        }
        table
    }
}
