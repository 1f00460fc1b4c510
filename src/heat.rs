//! Heat maps: how much of each part of a range is in a [`Bitmap`].

use alloc::{vec, vec::Vec};
use core::{
    fmt::{self, Write},
    num::NonZero,
};

use crate::{addr::GpaRange, bitmap::Bitmap};

/// From none of a cell's pages to all of them.
const CHARACTERS: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];
/// The same as colours of a terminal's palette of 256: black, then from blue to yellow.
const COLOURS: [u8; CHARACTERS.len()] = [16, 17, 18, 54, 90, 126, 162, 202, 214, 226];

/// A heat map of a range: how many pages of each of its parts are in a [`Bitmap`], such as one that
/// [`Pinned::harvest`](crate::Pinned::harvest) filled.
///
/// Printed, it is a line of a character for each part, from ` ` for nothing by `.:-=+*#%` to `@` for all of
/// its pages, without a newline: lines of one range can stand below each other, one a round.
///
/// ```
/// use core::num::NonZero;
/// use slat::{Bitmap, Gpa, GpaRange, Heat};
///
/// let mut dirty = Bitmap::new(GpaRange::from_pages(Gpa::new(0), 1000)?);
/// dirty.set(Gpa::new(0x1000))?;
/// dirty.set_range(GpaRange::from_pages(Gpa::new(0x20_0000), 300)?)?;
/// let heat = Heat::new(&dirty, NonZero::new(10).unwrap());
/// assert_eq!(heat.to_string(), ".    #@@. ");
/// let counts: Vec<u64> = heat.cells().map(|cell| cell.count).collect();
/// assert_eq!(counts, [1, 0, 0, 0, 0, 88, 100, 100, 12, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With the feature `serde` it can be serialized: an object with the `range`, the number of `cell_pages`, and
/// the `counts`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Heat {
    range: GpaRange,
    /// Pages of each cell; the last may have fewer.
    cell_pages: u64,
    /// One for each cell, at least one; none is greater than the cell's pages.
    counts: Vec<u64>,
}

/// A part of a [`Heat`] map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HeatCell {
    /// The pages of the part.
    pub range: GpaRange,
    /// How many of them were in the bitmap.
    pub count: u64,
}

impl Heat {
    /// Counts the pages of the bitmap in each of at most `cells` equal parts of its range.
    ///
    /// A part has whole pages, all have equally many, and the last may have fewer: so there can be less than
    /// `cells` of them.
    #[must_use]
    pub fn new(pages: &Bitmap, cells: NonZero<usize>) -> Self {
        let range = pages.range();
        let cell_pages = range.pages().div_ceil(cells.get() as u64);
        let mut counts = vec![0; range.pages().div_ceil(cell_pages) as usize];
        for run in pages.runs() {
            let mut page = run.first_page() - range.first_page();
            let end = run.end_page() - range.first_page();
            while page < end {
                let cell = page / cell_pages;
                let next = end.min((cell + 1) * cell_pages);
                counts[cell as usize] += next - page;
                page = next;
            }
        }
        Self { range, cell_pages, counts }
    }

    /// Returns the range of which it is a map: the bitmap's.
    #[must_use]
    pub fn range(&self) -> GpaRange {
        self.range
    }

    /// Returns the cells, in ascending order.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = HeatCell> + Clone {
        self.counts.iter().enumerate().map(|(number, &count)| {
            let first = self.range.first_page() + number as u64 * self.cell_pages;
            let end = self.range.end_page().min(first + self.cell_pages);
            HeatCell { range: GpaRange::between(first, end), count }
        })
    }

    /// Returns the map as text for a terminal of 256 colours: spaces on backgrounds from black by blue to
    /// yellow, and then the terminal's own again.
    pub fn in_colour(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            for cell in self.cells() {
                write!(f, "\x1b[48;5;{}m ", COLOURS[cell.shade()])?;
            }
            f.write_str("\x1b[0m")
        })
    }
}

impl HeatCell {
    /// Returns how much of the part was in the bitmap, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.count as f64 / self.range.pages() as f64
    }

    /// Returns which of ten shades stands for it: the first for nothing at all, the last for all.
    fn shade(&self) -> usize {
        let last = CHARACTERS.len() - 1;
        // In whole numbers: a share of nearly all must not be rounded up to all.
        let shade = (self.count * last as u64 / self.range.pages()) as usize;
        if self.count == 0 { 0 } else { shade.clamp(1, last) }
    }
}

impl fmt::Display for Heat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells().try_for_each(|cell| f.write_char(CHARACTERS[cell.shade()]))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
