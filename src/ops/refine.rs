//! Refine: room for one large leaf becomes room for smaller ones.
//!
//! Under the writer lock. An EMPTY slot of a large granule becomes a table of EMPTY slots of the next
//! smaller one, by one compare-exchange, and so on down to the granule that was asked for, only where
//! the range has a page. A zeroed table is a table of EMPTY slots, so nothing is written to it.
//!
//! It races only with a mapper of a leaf of the old size, for that one exchange: who comes second finds
//! a table, or a leaf. Nothing was reachable in the slot before, so no claim is needed, and nothing is
//! to be invalidated: no MMU caches that nothing is mapped.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{FrameSource, OutOfFrames},
    entry::Entry,
    format::Format,
    level::{Level, PageSize},
    observe::Domain,
    ops::parts,
    table::{CreateError, Need, Next, Slot, Supply, Table, Walker, Writer},
    walk::Found,
};

/// Why a range was not refined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefineError {
    /// A page of the range is not populated. Nothing was changed.
    #[error("{gpa} is not populated")]
    NotPopulated {
        /// The first such page.
        gpa: Gpa,
    },
    /// A page of the range is mapped by a leaf that is too large; split it instead. Unless it was mapped
    /// meanwhile, nothing was changed; else what lies before it is refined.
    #[error("{gpa} is mapped by a leaf of {size:?}")]
    Mapped {
        /// The first address that the leaf maps.
        gpa: Gpa,
        /// The size of the leaf.
        size: PageSize,
    },
    /// The processor has no leaves of this size, which was asked for, or is on the way from 1 GiB. Nothing
    /// was changed.
    #[error("leaves of {granule:?} are not supported")]
    BadGranule {
        /// The size.
        granule: PageSize,
    },
    /// The frame source has too few frames. Nothing was changed.
    #[error("too few frames for tables")]
    OutOfFrames(#[from] OutOfFrames),
    /// The frame source gave a frame that does not fit the format's physical address width. Nothing was
    /// changed.
    #[error("the source's frame {pfn} does not fit a physical address width of {width} bits")]
    BadFrame {
        /// The frame.
        pfn: HostPfn,
        /// The width of the format, in bits.
        width: u8,
    },
    /// Some page of the range is not an input address of the table's format. Nothing was changed.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
}

impl From<CreateError> for RefineError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::OutOfFrames(error) => Self::OutOfFrames(error),
            CreateError::BadFrame { pfn, width } => Self::BadFrame { pfn, width },
        }
    }
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    pub(crate) fn refine(&self, range: GpaRange, granule: PageSize) -> Result<(), RefineError> {
        let format = self.tree().format();
        let lowest = granule.level();
        // Room for 1 GiB becomes room for 2 MiB first.
        let on_the_way = format.supports(PageSize::Size1G).then_some(PageSize::Size2M);
        let missing = |&size: &PageSize| size >= granule && !format.supports(size);
        if let Some(granule) = [Some(granule), on_the_way].into_iter().flatten().find(missing) {
            return Err(RefineError::BadGranule { granule });
        }
        if !format.admits_range(range) {
            return Err(RefineError::OutOfRange { range });
        }
        let structure = self.lock();
        let walker = structure.walk();
        let (root, level) = walker.root();
        let mut need = Need::default();
        walker.coarse(root, level, range, lowest, &mut need)?;
        let supply = structure.reserve(need, range.start())?;
        Refine { writer: structure.writer(), supply, lowest }.link(root, level, range)
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Checks that all of `range` is populated, and has no leaf above `lowest`; counts the tables that
    /// are missing for leaves of that level.
    fn coarse(
        self,
        table: &'p Table,
        level: Level,
        range: GpaRange,
        lowest: Level,
        need: &mut Need,
    ) -> Result<(), RefineError> {
        for (index, part) in parts(range, level) {
            let entry = match self.step(table.slot(index), level) {
                Next::Down(child, below) => {
                    self.coarse(child, below, part, lowest, need)?;
                    continue;
                }
                Next::Here(entry) => entry,
            };
            match self.found(level, entry) {
                Found::Unpopulated => {
                    return Err(RefineError::NotPopulated { gpa: part.start() });
                }
                Found::Leaf(size) if level > lowest => return Err(mapped(part, size)),
                _ => need.add(part, lowest, level),
            }
        }
        Ok(())
    }
}

fn mapped(part: GpaRange, size: PageSize) -> RefineError {
    RefineError::Mapped { gpa: size.leaf_range(part.first_page()).start(), size }
}

struct Refine<'t, F: Format, S: FrameSource> {
    writer: &'t Writer<'t, F, S>,
    supply: Supply<'t, F, S>,
    lowest: Level,
}

impl<'t, F: Format, S: FrameSource> Refine<'t, F, S> {
    fn link(&mut self, table: &'t Table, level: Level, range: GpaRange) -> Result<(), RefineError> {
        let walker = self.writer.walk();
        for (index, part) in parts(range, level) {
            let slot = table.slot(index);
            loop {
                match (walker.step(slot, level), level.below()) {
                    (Next::Down(child, below), _) => break self.link(child, below, part)?,
                    (Next::Here(entry), Some(below)) if level > self.lowest => {
                        if let Found::Leaf(size) = walker.found(level, entry) {
                            return Err(mapped(part, size));
                        }
                        self.deepen(slot, level, below);
                    }
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Puts a table for `below` in the place of EMPTY, or finds that a mapper came first; whose leaf may be
    /// gone again by the next look.
    fn deepen(&mut self, slot: &Slot, level: Level, below: Level) {
        let child = self.supply.table(below);
        // Takes effect here for the slot.
        if let Err(child) = self.writer.link_over(slot, level, Entry::EMPTY, child) {
            self.supply.take_back(below, child);
        }
    }
}
