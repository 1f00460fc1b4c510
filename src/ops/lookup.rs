//! Looking: one page, many pages, the way to a page, and contiguous runs. Loads only, and wait-free.

use core::{fmt, ops::Deref};

use crate::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_BYTES},
    arena::FrameSource,
    attr::Prot,
    entry::Entry,
    format::Format,
    level::Level,
    mapping::Mapping,
    ops::{OutOfRange, admit},
    table::{Next, Walker},
    walk::{Found, Place, Run, Runs, Terminal},
};

/// One entry on the way from the root to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level of the table that holds the entry.
    pub level: Level,
    /// The entry.
    pub entry: Entry,
}

/// The entries on the way from the root to a page, the root's first.
#[derive(Clone, Copy)]
pub struct Walk {
    steps: [Step; 5],
    len: usize,
}

impl Deref for Walk {
    type Target = [Step];

    fn deref(&self) -> &[Step] {
        &self.steps[..self.len]
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A run of host memory: `len` contiguous bytes from byte `offset` of frame `pfn` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostRun {
    /// The frame that holds the first byte.
    pub pfn: HostPfn,
    /// Where in that frame the first byte is, below 4096.
    pub offset: u64,
    /// How many bytes are contiguous and allow the access, at least 1.
    pub len: u64,
}

/// Why an address has no host run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// No bytes were asked for.
    #[error("no bytes were asked for at {gpa}")]
    Empty {
        /// The address.
        gpa: Gpa,
    },
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
    /// Nothing is mapped there.
    #[error("{gpa} is not mapped")]
    NotMapped {
        /// The address.
        gpa: Gpa,
    },
    /// The leaf does not allow the access.
    #[error("{gpa} allows {have:?}")]
    Denied {
        /// The address.
        gpa: Gpa,
        /// What the leaf allows.
        have: Prot,
    },
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    #[inline]
    pub(crate) fn lookup(self, gpa: Gpa) -> Option<Mapping> {
        if !self.format().admits(gpa) {
            return None;
        }
        self.mapping_at(self.descend(gpa.page()), gpa)
    }

    /// Looks up many pages, in order; the walks overlap.
    pub(crate) fn lookup_many(
        self,
        pages: impl IntoIterator<Item = Gpa>,
        mut sink: impl FnMut(Gpa, Option<Mapping>),
    ) {
        self.batch(
            pages,
            |&gpa| gpa,
            |gpa, place| sink(gpa, place.and_then(|place| self.lookup_at(place, gpa))),
        );
    }

    /// Looks up `gpa`, whose translation ends at or below `place`.
    #[inline]
    pub(super) fn lookup_at(self, place: Place<'p>, gpa: Gpa) -> Option<Mapping> {
        self.mapping_at(self.resume(place, gpa.page()), gpa)
    }

    /// Returns the mapping at which the walk of `gpa` ended, if it is one.
    #[inline]
    fn mapping_at(self, at: Terminal<'p>, gpa: Gpa) -> Option<Mapping> {
        match self.found(at.place.level, at.entry) {
            Found::Leaf(size) => Some(self.format().mapping(gpa, size, at.entry)),
            _ => None,
        }
    }

    /// Returns the entries from the root down to `lowest`, or to where the walk ends.
    pub(crate) fn path(self, gpa: Gpa, lowest: Level) -> Walk {
        let (root, mut level) = self.root();
        let mut walk = Walk { steps: [Step { level, entry: Entry::EMPTY }; 5], len: 0 };
        if !self.format().admits(gpa) {
            return walk;
        }
        let mut table = root;
        loop {
            // One load: an entry that is shown is the entry that was followed.
            let (entry, next) = self.read(table.slot(level.index(gpa.page())), level);
            walk.steps[walk.len] = Step { level, entry };
            walk.len += 1;
            match next {
                Next::Down(child, below) if below >= lowest => {
                    (table, level) = (child, below);
                }
                _ => return walk,
            }
        }
    }

    pub(crate) fn mappings(self, range: GpaRange) -> Result<Mappings<'p, F, S>, OutOfRange> {
        admit(self.format(), range)?;
        Ok(self.leaves(range))
    }

    /// Returns the mappings in `range`, which the format admits.
    fn leaves(self, range: GpaRange) -> Mappings<'p, F, S> {
        Mappings { walker: self, runs: self.runs(range), run: None }
    }

    /// Counts the 4 KiB pages of `range` that are mapped.
    pub(crate) fn mapped(self, range: GpaRange) -> Result<u64, OutOfRange> {
        let part = |mapping: Mapping| {
            let leaf = mapping.range();
            let first = leaf.first_page().max(range.first_page());
            leaf.end_page().min(range.end_page()) - first
        };
        Ok(self.mappings(range)?.map(part).sum())
    }

    /// Returns the longest run of contiguous frames behind at most `len` bytes from `gpa` on.
    pub(crate) fn translate(
        self,
        gpa: Gpa,
        len: u64,
        access: Prot,
    ) -> Result<HostRun, TranslateError> {
        let format = self.format();
        if len == 0 {
            return Err(TranslateError::Empty { gpa });
        }
        if !format.admits(gpa) {
            return Err(TranslateError::OutOfRange { gpa });
        }
        let first = self.lookup(gpa).ok_or(TranslateError::NotMapped { gpa })?;
        if !first.attr.prot().contains(access) {
            return Err(TranslateError::Denied { gpa, have: first.attr.prot() });
        }
        let pfn = HostPfn::new(first.pfn.get() + (gpa.page() - first.gpa.page()));
        let offset = gpa.page_offset();
        let wanted = offset.saturating_add(len).div_ceil(PAGE_BYTES);
        let end = format.input_end(gpa).min(gpa.page().saturating_add(wanted));
        // The first leaf was read once and is not read again: it may have changed.
        let mut pages = first.range().end_page() - gpa.page();
        let next = gpa.page() + pages;
        let rest = (next < end).then(|| self.leaves(GpaRange::between(next, end)));
        for leaf in rest.into_iter().flatten() {
            let next = gpa.page() + pages;
            let continues = leaf.gpa.page() <= next
                && leaf.pfn.get() + (next - leaf.gpa.page()) == pfn.get() + pages
                && leaf.attr.prot().contains(access);
            if !continues {
                break;
            }
            pages = leaf.range().end_page() - gpa.page();
        }
        Ok(HostRun { pfn, offset, len: len.min(pages * PAGE_BYTES - offset) })
    }
}

/// The mappings of a range, in ascending order; made by
/// [`Pinned::mappings`](crate::Pinned::mappings).
pub struct Mappings<'p, F: Format, S: FrameSource> {
    walker: Walker<'p, F, S>,
    runs: Runs<'p, F, S>,
    /// What is left of the run that was visited last.
    run: Option<Run<'p>>,
}

impl<F: Format, S: FrameSource> Iterator for Mappings<'_, F, S> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        loop {
            while let Some((place, page)) = self.run.as_mut().and_then(Run::pop_first) {
                match self.walker.step(place.slot, place.level) {
                    Next::Down(..) => self.runs.enter(place, page),
                    Next::Here(entry) => {
                        let at = Terminal { place, entry };
                        if let Some(mapping) = self.walker.mapping_at(at, Gpa::of_page(page)) {
                            return Some(mapping);
                        }
                    }
                }
            }
            self.run = Some(self.runs.next()?);
        }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Mappings<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mappings").field("runs", &self.runs).finish_non_exhaustive()
    }
}
