//! The operations, one protocol a file.
//!
//! Structural operations run under the writer lock ([`populate`], [`refine`], [`split`], [`collapse`],
//! [`vacate`]). The others run under a pin, take no lock, allocate nothing, write nothing shared but the
//! slot, and commit each page with one compare-exchange; whoever stops in the middle of one, for ever,
//! stops nobody else. Rounds of harvests alone have a lock of their own, for one another.

mod broken;
mod collapse;
mod harvest;
mod lookup;
mod map;
mod populate;
mod protect;
mod refine;
mod slot;
mod split;
mod unmap;
mod vacate;
mod watch;

pub use self::{
    collapse::{CollapseError, Collapsed},
    harvest::{HarvestError, Mark},
    lookup::{HostRun, Mappings, Step, TranslateError, Walk},
    map::{MapError, MapRangeError, Mapped, MappedRange},
    populate::PopulateError,
    protect::ProtectError,
    refine::RefineError,
    slot::SlotRef,
    split::{SplitError, SplitRangeError},
    unmap::{UnmapError, UnmapRangeError},
    vacate::VacateError,
    watch::{FixError, Fixed, NoteError, Noted, WatchError},
};

pub(crate) use self::slot::Spot;

use core::iter;

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    entry::Entry,
    format::{EncodeError, Format},
    level::{Level, PageSize},
    table::Walker,
    walk::{Found, Update},
};

/// The address is not an input address of the table's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{gpa} is not an input address of the table's format")]
pub struct OutOfRange {
    /// The address.
    pub gpa: Gpa,
}

/// Encodes the first of the leaves of `size` that map `pages` pages to consecutive frames; all of them
/// can be encoded then.
fn encode_run<F: Format>(
    format: &F,
    size: PageSize,
    first: HostPfn,
    pages: u64,
    attr: Attr,
) -> Result<Entry, EncodeError> {
    let bad = |pfn| EncodeError::BadFrame { pfn, width: format.phys_width().bits() };
    let last = first.checked_add(pages - 1).ok_or(bad(first))?;
    if !format.fits(last) {
        return Err(bad(last));
    }
    format.leaf(size, first, attr)
}

/// Returns the parts of `range` that the slots of a table of `level` translate, by index.
fn parts(range: GpaRange, level: Level) -> impl Iterator<Item = (usize, GpaRange)> {
    let mut first = range.first_page();
    iter::from_fn(move || {
        if first == range.end_page() {
            return None;
        }
        let part = GpaRange::between(first, level.next_page(first).min(range.end_page()));
        first = part.end_page();
        Some((level.index(part.first_page()), part))
    })
}

/// Returns the base of the leaf of `size` that translates `page` if a change of `range` would cut it.
fn cut_by(range: GpaRange, page: u64, size: PageSize) -> Option<Gpa> {
    let leaf = size.leaf_range(page);
    let whole = range.contains(leaf.start()) && range.contains(leaf.last());
    (!whole).then_some(leaf.start())
}

/// Checks that every page of `range` is an input address.
fn admit<F: Format>(format: &F, range: GpaRange) -> Result<(), OutOfRange> {
    if format.admits_range(range) {
        return Ok(());
    }
    let start = range.start();
    let end = Gpa::of_page(format.input_end(start));
    Err(OutOfRange { gpa: if format.admits(start) { end } else { start } })
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Applies `change` to every leaf in `range` until it declines or wins, and tells `done` of each leaf
    /// that was replaced: the first of its pages in the range, its size, and how it was.
    ///
    /// Visits tables, not pages. The caller has made sure, by [`cut_leaf`](Self::cut_leaf), that the range
    /// cuts no leaf. One that it would cut now was mapped since, where nothing was, and is missed like
    /// whatever else is mapped meanwhile. (None can come by a collapse: that look has thwarted what was under way
    /// at both ends, and who begins now waits for the pin.)
    fn update_range(
        self,
        range: GpaRange,
        mut change: impl FnMut(PageSize, Entry) -> Option<Entry>,
        mut done: impl FnMut(u64, PageSize, Entry),
    ) {
        let mut runs = self.runs(range);
        while let Some(run) = runs.next() {
            for (place, page) in run.places() {
                let whole =
                    |size, leaf| change(size, leaf).filter(|_| cut_by(range, page, size).is_none());
                match self.update_at(place, page, whole) {
                    Update::Done(size, old) => done(page, size, old),
                    Update::Declined => {}
                    // A run of one slot: a table was put there, and its pages are visited one by one.
                    Update::Below(_) => runs.enter(place, page),
                }
            }
        }
    }

    /// Returns the base of the large leaf that a change of `range` would cut, if there is one. Only
    /// the leaves of the first and the last page can be.
    fn cut_leaf(self, range: GpaRange) -> Option<Gpa> {
        [range.first_page(), range.end_page() - 1].into_iter().find_map(|page| {
            let at = self.descend(page);
            match self.found(at.place.level, at.entry) {
                Found::Leaf(size) => cut_by(range, page, size),
                _ => None,
            }
        })
    }
}

// The tests spell out full-sized tables; the checkers' are narrow.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
