//! The operations, one protocol a file.
//!
//! Structural operations run under the writer lock ([`populate`], [`vacate`]). The others run under a pin, take
//! no lock, allocate nothing, write nothing shared but the slot, and commit each page with one
//! compare-exchange; whoever stops in the middle of one, for ever, stops nobody else.

mod lookup;
mod map;
mod populate;
mod protect;
mod slot;
mod unmap;
mod vacate;
mod watch;

pub use self::{
    lookup::{HostRun, Mappings, Step, TranslateError, Walk},
    map::{MapError, MapRangeError, Mapped, MappedRange},
    populate::PopulateError,
    protect::ProtectError,
    slot::SlotRef,
    unmap::{UnmapError, UnmapRangeError},
    vacate::VacateError,
    watch::{FixError, Fixed, NoteError, Noted, WatchError},
};

use core::iter;

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    entry::Entry,
    format::{EncodeError, Format},
    level::{Level, PageSize},
    table::Walker,
    walk::Found,
};

/// The address is not an input address of the table's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{gpa} is not an input address of the table's format")]
pub struct OutOfRange {
    /// The address.
    pub gpa: Gpa,
}

/// Encodes the first of `pages` 4 KiB leaves of consecutive frames; all of them can be encoded then.
fn encode_run<F: Format>(
    format: &F,
    first: HostPfn,
    pages: u64,
    attr: Attr,
) -> Result<Entry, EncodeError> {
    let bad = |pfn| EncodeError::BadFrame { pfn, width: format.phys_width().bits() };
    let last = first.checked_add(pages - 1).ok_or(bad(first))?;
    if !format.fits(last) {
        return Err(bad(last));
    }
    format.leaf(PageSize::Size4K, first, attr)
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

/// Tells whether a change of `range` would cut the leaf of `size` that translates `page`.
const fn cuts(range: GpaRange, page: u64, size: PageSize) -> bool {
    let leaf = size.leaf_range(page);
    !(range.contains(leaf.start()) && range.contains(leaf.last()))
}

impl<F: Format, S: FrameSource> Walker<'_, F, S> {
    /// Checks that every page of `range` is an input address.
    fn admit(self, range: GpaRange) -> Result<(), OutOfRange> {
        let format = self.format();
        if format.admits_range(range) {
            return Ok(());
        }
        let start = range.start();
        let end = Gpa::of_page(format.input_end(start));
        Err(OutOfRange { gpa: if format.admits(start) { end } else { start } })
    }

    /// Returns the base of the large leaf that a change of `range` would cut, if there is one. Only
    /// the leaves of the first and the last page can be.
    fn cut_leaf(self, range: GpaRange) -> Option<Gpa> {
        [range.first_page(), range.end_page() - 1].into_iter().find_map(|page| {
            let at = self.descend(page);
            match self.found(at.place.level, at.entry) {
                Found::Leaf(size) if cuts(range, page, size) => Some(size.leaf_range(page).start()),
                _ => None,
            }
        })
    }
}

// The tests spell out full-sized tables; the checkers' are narrow.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
