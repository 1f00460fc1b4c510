//! Bitmaps of pages, in the layout of KVM's dirty log.
//!
//! A [`Bitmap`] has one bit for each page of a range, which may begin at any page: bit `i` of word `w`
//! stands for page `64 * w + i` of the range. Bits are written through a [`Window`], a part of a bitmap
//! that is aligned to its words, so that several threads can fill one bitmap at a time.
//!
//! Invariant `inside`: no bit past the range's end is ever reported. This module sets none; a caller
//! may, through [`Bitmap::words_mut`], so whatever reads a word masks it.

mod window;

use alloc::{vec, vec::Vec};
use core::{fmt, iter};

pub(crate) use self::window::Window;
use crate::addr::{Gpa, GpaRange};

/// Pages in a word.
pub(crate) const WORD_PAGES: u64 = u64::BITS as u64;

/// A set of the pages of a range, in the layout of KVM's dirty log: bit `i` of word `w` is page
/// `64 * w + i` of the range.
///
/// To hand it to others, write each of its [words](Self::words) in little-endian byte order, which on
/// x86 is how it lies in memory.
///
/// It takes one bit for each page, whatever is in it: 32 KiB for 1 GiB of guest memory.
///
/// ```
/// use slat::{Bitmap, Gpa, GpaRange};
///
/// let mut pages = Bitmap::new(GpaRange::new(Gpa::new(0x10_0000), 0x10_0000)?);
/// pages.set(Gpa::new(0x10_2345))?;
/// pages.set_range(GpaRange::new(Gpa::new(0x10_4000), 0x3000)?)?;
/// assert_eq!(pages.words(), [0b111_0100, 0, 0, 0]);
/// let runs: Vec<GpaRange> = pages.runs().collect();
/// assert_eq!(runs[1], GpaRange::new(Gpa::new(0x10_4000), 0x3000)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Bitmap {
    range: GpaRange,
    words: Vec<u64>,
}

/// A bitmap has no bits for some of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bitmap of {bitmap} does not cover {wanted}")]
pub struct NotCovered {
    /// The pages.
    pub wanted: GpaRange,
    /// The pages that the bitmap covers.
    pub bitmap: GpaRange,
}

/// Two bitmaps are of different ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bitmap of {other} cannot be merged into one of {range}")]
pub struct RangesDiffer {
    /// The range of the bitmap that was to take over.
    pub range: GpaRange,
    /// The range of the other.
    pub other: GpaRange,
}

impl Bitmap {
    /// Makes a bitmap of `range` with no page in it.
    ///
    /// # Panics
    /// As a `Vec` does, if there is no memory for a bit for each page.
    #[must_use]
    pub fn new(range: GpaRange) -> Self {
        // Zeroed by the allocator: what is never written takes no memory where that is lazy.
        Self { range, words: vec![0; range.pages().div_ceil(WORD_PAGES) as usize] }
    }

    /// Returns the pages that it has bits for.
    #[must_use]
    pub fn range(&self) -> GpaRange {
        self.range
    }

    /// Returns the words. The bits past the end of the range are clear, unless
    /// [`words_mut`](Self::words_mut) set them.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Returns the words, to be read or filled by others. Bits past the end of the range mean nothing
    /// and are never reported, so they may be left in any state.
    #[must_use]
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Tells whether the page that holds `gpa` is in the bitmap; false for one outside of its range.
    #[must_use]
    pub fn contains(&self, gpa: Gpa) -> bool {
        self.range.contains(gpa) && self.mask(gpa.page(), 1) != 0
    }

    /// Puts the page that holds `gpa` in; returns whether it was in already.
    ///
    /// # Errors
    /// [`NotCovered`] if it is not a page of the range.
    pub fn set(&mut self, gpa: Gpa) -> Result<bool, NotCovered> {
        let page = GpaRange::between(gpa.page(), gpa.page() + 1);
        self.check(page)?;
        let was_set = self.contains(gpa);
        self.window().set(page);
        Ok(was_set)
    }

    /// Puts all pages of `pages` in.
    ///
    /// # Errors
    /// [`NotCovered`] if they are not all pages of the range; nothing has changed then.
    pub fn set_range(&mut self, pages: GpaRange) -> Result<(), NotCovered> {
        self.check(pages)?;
        self.window().set(pages);
        Ok(())
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Counts the pages that are in, by a scan.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.masks().map(|(_, mask)| u64::from(mask.count_ones())).sum()
    }

    /// Tells whether no page is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.masks().next().is_none()
    }

    /// Puts all pages of `other` in.
    ///
    /// # Errors
    /// [`RangesDiffer`] if the bitmaps are of different ranges; nothing has changed then.
    pub fn merge(&mut self, other: &Self) -> Result<(), RangesDiffer> {
        let Self { range, .. } = *self;
        if range != other.range {
            return Err(RangesDiffer { range, other: other.range });
        }
        let mut window = self.window();
        for (page, mask) in other.masks() {
            window.set_mask(page, mask);
        }
        Ok(())
    }

    /// Returns the pages that are in, as the longest possible ranges, in ascending order: what to copy.
    pub fn runs(&self) -> BitmapRuns<'_> {
        BitmapRuns { bitmap: self, page: self.range.first_page() }
    }

    /// Returns the bits of `count` pages, at most 64, from `page` on. Those of pages that are not in
    /// the range are clear.
    #[inline]
    pub(crate) fn mask(&self, page: u64, count: u64) -> u64 {
        debug_assert!(self.range.first_page() <= page && count <= WORD_PAGES);
        let offset = page - self.range.first_page();
        let (index, shift) = ((offset / WORD_PAGES) as usize, (offset % WORD_PAGES) as u32);
        let word = |index| self.words.get(index).copied().unwrap_or(0);
        let low = word(index) >> shift;
        let high = if shift == 0 { 0 } else { word(index + 1) << (u64::BITS - shift) };
        (low | high) & low_bits(count.min(self.range.end_page().saturating_sub(page)))
    }

    /// Tells whether all pages of `pages`, which are pages of the range, are in.
    pub(crate) fn contains_all(&self, pages: GpaRange) -> bool {
        words_of(pages).all(|(page, count)| self.mask(page, count) == low_bits(count))
    }

    /// Returns the whole of it as a window.
    #[inline]
    pub(crate) fn window(&mut self) -> Window<'_> {
        Window::new(self.range, &mut self.words)
    }

    /// Checks that it has bits for all of `wanted`.
    pub(crate) fn check(&self, wanted: GpaRange) -> Result<(), NotCovered> {
        let bitmap = self.range;
        if bitmap.covers(wanted) { Ok(()) } else { Err(NotCovered { wanted, bitmap }) }
    }

    /// Returns the words that have a bit, each with the first page that it stands for.
    fn masks(&self) -> impl Iterator<Item = (u64, u64)> {
        let (first, end) = (self.range.first_page(), self.range.end_page());
        let pages = (first..end).step_by(WORD_PAGES as usize);
        pages.zip(&self.words).filter_map(move |(page, word)| {
            let mask = word & low_bits((end - page).min(WORD_PAGES));
            (mask != 0).then_some((page, mask))
        })
    }

    /// Returns the first page from `page` on that is in, or that is not; the end of the range if there
    /// is none.
    fn find(&self, mut page: u64, sought: Sought) -> u64 {
        let end = self.range.end_page();
        while page < end {
            let mask = match sought {
                Sought::In => self.mask(page, WORD_PAGES),
                Sought::Out => !self.mask(page, WORD_PAGES),
            };
            if mask != 0 {
                return end.min(page + u64::from(mask.trailing_zeros()));
            }
            // Once at the beginning of a word, it stays at one.
            let into = (page - self.range.first_page()) % WORD_PAGES;
            page += WORD_PAGES - into;
        }
        end
    }
}

/// Returns a word with the `count` lowest bits set, at most 64.
#[inline]
pub(crate) const fn low_bits(count: u64) -> u64 {
    if count >= WORD_PAGES { u64::MAX } else { (1 << count) - 1 }
}

/// Cuts `pages` into pieces of 64 and a rest: the first page of each, and how many.
pub(crate) fn words_of(pages: GpaRange) -> impl Iterator<Item = (u64, u64)> {
    let mut page = pages.first_page();
    iter::from_fn(move || {
        let count = (pages.end_page() - page).min(WORD_PAGES);
        let piece = (count > 0).then_some((page, count));
        page += count;
        piece
    })
}

impl PartialEq for Bitmap {
    fn eq(&self, other: &Self) -> bool {
        self.range == other.range && self.masks().eq(other.masks())
    }
}

impl Eq for Bitmap {}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("range", &self.range)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// What [`Bitmap::find`] looks for.
#[derive(Clone, Copy)]
enum Sought {
    In,
    Out,
}

/// The pages of a bitmap as ranges; made by [`Bitmap::runs`].
#[derive(Clone, Debug)]
pub struct BitmapRuns<'b> {
    bitmap: &'b Bitmap,
    /// The next page to look at.
    page: u64,
}

impl Iterator for BitmapRuns<'_> {
    type Item = GpaRange;

    fn next(&mut self) -> Option<GpaRange> {
        let first = self.bitmap.find(self.page, Sought::In);
        if first == self.bitmap.range.end_page() {
            self.page = first;
            return None;
        }
        self.page = self.bitmap.find(first, Sought::Out);
        Some(GpaRange::between(first, self.page))
    }
}

impl iter::FusedIterator for BitmapRuns<'_> {}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
