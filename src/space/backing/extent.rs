//! How many pages a backing has, which leaves lie in them, and frames that stand for them one by one.

use super::{Answer, BackingError, Want};
use crate::{
    addr::{Gpa, HostPfn},
    level::PageSize,
};

/// A page is asked for that the backing does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page} is beyond the end of a backing of {pages} pages")]
#[non_exhaustive]
pub struct BeyondEnd {
    /// The page, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
    /// How many the backing has.
    pub pages: u64,
}

impl BeyondEnd {
    /// Checks that `page` is one of `pages`.
    pub(super) const fn check(page: u64, pages: u64) -> Result<(), Self> {
        if page < pages { Ok(()) } else { Err(Self { page, pages }) }
    }
}

/// Why frames cannot be a backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramesError {
    /// There are none.
    #[error("a backing that begins at frame {first} has no pages")]
    Empty {
        /// Where they would have begun.
        first: HostPfn,
    },
    /// The last one has no number.
    #[error("{pages} frames from {first} on go past the last frame number")]
    Wraps {
        /// The first frame.
        first: HostPfn,
        /// How many there would have been.
        pages: u64,
    },
}

/// Consecutive frames, one for each page of a backing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames {
    first: HostPfn,
    /// At least 1; the last one's number does not overflow.
    pages: u64,
}

impl Frames {
    pub(super) const fn new(first: HostPfn, pages: u64) -> Result<Self, FramesError> {
        if pages == 0 {
            return Err(FramesError::Empty { first });
        }
        if first.checked_add(pages - 1).is_none() {
            return Err(FramesError::Wraps { first, pages });
        }
        Ok(Self { first, pages })
    }

    pub(super) const fn pages(self) -> u64 {
        self.pages
    }

    /// Returns the frame of `page`, if there is such a page.
    pub(super) const fn at(self, page: u64) -> Option<HostPfn> {
        if page < self.pages { self.first.checked_add(page) } else { None }
    }
}

/// Checks that the leaf lies within a backing of `pages` pages; returns what to answer if it does not.
pub(super) fn check(want: &Want, pages: u64) -> Result<(), Answer> {
    if let Err(error) = BeyondEnd::check(want.page, pages) {
        return Err(Answer::Failed(BackingError::new(error)));
    }
    if pages - want.page < want.size.pages() { Err(Answer::Smaller) } else { Ok(()) }
}

/// The same for a backing that has leaves of 4 KiB only.
pub(super) fn check_small(want: &Want, pages: u64) -> Result<(), Answer> {
    check(want, pages)?;
    if want.size == PageSize::Size4K { Ok(()) } else { Err(Answer::Smaller) }
}

/// Tells whether a leaf of `size` that holds `page`, or one that comes after it, lies within a backing of
/// `pages` pages, if `page` is mapped at `gpa`.
pub(super) fn has_leaf(pages: u64, page: u64, gpa: Gpa, size: PageSize) -> bool {
    let into_leaf = gpa.page() % size.pages();
    // The leaf may begin before the backing does: then the next one.
    let first = page.checked_sub(into_leaf).or_else(|| page.checked_add(size.pages() - into_leaf));
    let end = first.and_then(|first| first.checked_add(size.pages()));
    page < pages && end.is_some_and(|end| end <= pages)
}
