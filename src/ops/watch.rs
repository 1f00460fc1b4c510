//! Watching writes: a dirty bit that software sets, at the fault of a page's first write.
//!
//! For MMUs that keep no dirty bits (EPT without accessed and dirty flags), and for whoever wants to be told
//! of first writes. The leaf itself says that it is watched, in a bit that MMUs ignore, so nothing stands
//! beside the tables and each step is one compare-exchange of the leaf (the states are in
//! `format/watch.rs`):
//!
//! ```text
//!            watch                        fix_write, note_dirty
//!     LEAF  ------->  watched, read-only  --------------------->  watched, writable, dirty
//!      ^  \                  |       ^                                |         |
//!      |   `-- (if dirty) ---|-------|-------------- watch ---------->|         |
//!      |                     |       `--- harvest, clear_dirty -------'         |
//!      `----- unwatch -------'---------------------- unwatch -------------------'
//! ```
//!
//! No write is lost: a watched leaf is never writable without being dirty, so whoever cleans it takes the
//! right to write away by the same exchange, and what a translation cache still lets through comes before
//! the end of the shoot-down that follows. A fix that loses its exchange looks again: to an unmap, and
//! there is nothing to fix; to another fix, and there is nothing left to do; to a harvest, and the page is
//! dirty in the next round.

use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::FrameSource,
    attr::Prot,
    entry::Entry,
    format::Format,
    level::PageSize,
    observe::Covered,
    sync::full_fence,
    table::Walker,
    walk::{Place, Update},
};

/// What a fault of a write was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    /// The first write to a watched page: the leaf is writable and dirty now, by this call.
    Dirtied,
    /// Spurious: the leaf allows the write. Another fixed it, or a translation cache was behind.
    Already,
}

/// Why a fault of a write is not for [`Pinned::fix_write`](crate::Pinned::fix_write) to fix. The table is
/// as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FixError {
    /// Nothing is mapped there.
    #[error("{gpa} is not mapped")]
    NotMapped {
        /// The address.
        gpa: Gpa,
    },
    /// The mapping does not allow writes.
    #[error("{gpa} allows {have:?}")]
    Denied {
        /// The address.
        gpa: Gpa,
        /// What it allows.
        have: Prot,
    },
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
}

/// What [`Pinned::note_dirty`](crate::Pinned::note_dirty) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Noted {
    /// The page was clean, and is dirty now, by this call.
    New,
    /// The page was dirty already.
    Already,
}

/// Why a page was not noted as dirty. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Nothing is mapped there.
    #[error("{gpa} is not mapped")]
    NotMapped {
        /// The address.
        gpa: Gpa,
    },
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
}

/// Why the writes of a range are watched, or not watched, as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A large leaf lies partly outside the range.
    #[error("the range cuts the large leaf at {gpa}")]
    CutsLarge {
        /// The first address that the leaf maps.
        gpa: Gpa,
    },
    /// Some page of the range is not an input address of the table's format.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Watches every leaf in `range` that allows writes; returns how many 4 KiB pages were not watched
    /// before.
    pub(crate) fn watch(self, range: GpaRange, covered: &mut Covered) -> Result<u64, WatchError> {
        let format = self.format();
        self.change_watch(
            range,
            |leaf| leaf.watched(format),
            |leaf, pages| {
                // A dirty leaf kept the right: nothing that is cached is wrong.
                if !leaf.has(format.dirty_bit()) {
                    covered.add(pages, leaf);
                }
            },
        )
    }

    /// Stops watching every leaf in `range`; returns how many 4 KiB pages were watched.
    pub(crate) fn unwatch(self, range: GpaRange) -> Result<u64, WatchError> {
        self.change_watch(range, |leaf| leaf.unwatched(self.format()), |_, _| ())
    }

    /// Makes of each leaf in `range` what `change` says; tells `changed` how each was that this changed, and
    /// its pages, and returns how many they are.
    fn change_watch(
        self,
        range: GpaRange,
        change: impl Fn(Entry) -> Entry,
        mut changed: impl FnMut(Entry, GpaRange),
    ) -> Result<u64, WatchError> {
        if !self.format().admits_range(range) {
            return Err(WatchError::OutOfRange { range });
        }
        if let Some(gpa) = self.cut_leaf(range) {
            return Err(WatchError::CutsLarge { gpa });
        }
        let mut pages = 0;
        self.update_range(
            range,
            |_, leaf| Some(change(leaf)).filter(|&next| next != leaf),
            |page, size, leaf| {
                pages += size.pages();
                changed(leaf, size.leaf_range(page));
            },
        );
        Ok(pages)
    }

    /// Lets the write through that faulted, and notes it, if it is the watch that stopped it.
    pub(crate) fn fix_write(self, gpa: Gpa) -> Result<Fixed, FixError> {
        let format = self.format();
        if !format.admits(gpa) {
            return Err(FixError::OutOfRange { gpa });
        }
        let mut otherwise = Err(FixError::NotMapped { gpa });
        let fixed = self.dirty(self.top(gpa.page()), gpa.page(), |size, leaf| {
            if leaf.has(format.write_bit()) {
                otherwise = Ok(Fixed::Already);
                None
            } else if leaf.is_watched() {
                Some(leaf.with(format.accessed_bit()))
            } else {
                let have = format.attr(size, leaf).prot();
                otherwise = Err(FixError::Denied { gpa, have });
                None
            }
        });
        if fixed.is_some() || otherwise.is_ok() {
            self.mark_above(gpa.page());
        }
        if fixed.is_some() { Ok(Fixed::Dirtied) } else { otherwise }
    }

    /// Makes the page that holds `gpa` dirty, if it is mapped.
    pub(crate) fn note_dirty(self, gpa: Gpa) -> Result<Noted, NoteError> {
        if !self.format().admits(gpa) {
            return Err(NoteError::OutOfRange { gpa });
        }
        self.set_dirty_at(self.top(gpa.page()), gpa.page()).ok_or(NoteError::NotMapped { gpa })
    }

    /// Does the same if the page is mapped to `frame`; `None` if it is not.
    pub(crate) fn note_dirty_of(self, gpa: Gpa, frame: HostPfn) -> Option<Noted> {
        let format = self.format();
        let is_there = |size, leaf| format.mapping(gpa, size, leaf).frame_of(gpa) == Some(frame);
        self.set_dirty_if(self.top(gpa.page()), gpa.page(), is_there)
    }

    /// Makes the leaf dirty that translates `page`, at or below `place`, on account of a write that is done;
    /// `None` if there is no leaf.
    pub(super) fn set_dirty_at(self, place: Place<'p>, page: u64) -> Option<Noted> {
        self.set_dirty_if(place, page, |_, _| true)
    }

    /// Does the same if `is_it` says that the leaf is the one that was written; `None` if it is not.
    fn set_dirty_if(
        self,
        place: Place<'p>,
        page: u64,
        is_it: impl Fn(PageSize, Entry) -> bool,
    ) -> Option<Noted> {
        // Between what the caller wrote to the page and a look that finds it dirty already. A harvest takes
        //   the bit, and fences, before the page is read: so the bit is seen clear here, or what was
        //   written is seen there [pair: write-harvest].
        full_fence();
        let dirty_bit = self.format().dirty_bit();
        let mut otherwise = None;
        let set = self.dirty(place, page, |size, leaf| {
            if !is_it(size, leaf) {
                otherwise = None;
                return None;
            }
            otherwise = leaf.has(dirty_bit).then_some(Noted::Already);
            otherwise.is_none().then_some(leaf)
        });
        // One that is LATE counted as dirty, but the mark will go, and the bit must not go with it.
        let noted = |leaf: Entry| if leaf.has(Entry::LATE) { Noted::Already } else { Noted::New };
        let noted = set.map(|(_, leaf)| noted(leaf)).or(otherwise)?;
        // Also where it was set already: who did may not have come so far.
        self.mark_above(page);
        Some(noted)
    }

    /// Makes the leaf dirty that translates `page`, at or below `place`, and what else `step` makes of it,
    /// until that wins or `step` declines. Returns the leaf that it replaced.
    fn dirty(
        self,
        mut place: Place<'p>,
        page: u64,
        mut step: impl FnMut(PageSize, Entry) -> Option<Entry>,
    ) -> Option<(PageSize, Entry)> {
        loop {
            match self.dirty_at(place, page, &mut step) {
                Update::Done(size, old) => return Some((size, old)),
                Update::Declined => return None,
                Update::Below(below) => place = below,
            }
        }
    }

    /// Does the same to the leaf in the very slot `place`; says so if there is a table instead.
    ///
    /// All dirty bits that software sets in live leaves go through here.
    pub(super) fn dirty_at(
        self,
        place: Place<'p>,
        page: u64,
        mut step: impl FnMut(PageSize, Entry) -> Option<Entry>,
    ) -> Update<'p> {
        let format = self.format();
        self.update_at(place, page, |size, leaf| Some(step(size, leaf)?.dirtied(format)))
    }
}
