//! The picture of a precopy: which parts of memory were dirty in each round, as shades.
//!
//! A row for each round, a column for each part of memory. On a terminal a cell is a space on a background
//! that says how many of the part's pages were dirty, elsewhere a character.

pub(crate) mod svg;

use slat::{Bitmap, PAGE_BYTES};

/// Columns of the picture.
pub(crate) const PARTS: usize = 64;

/// From none of a part's pages to all of them.
const CHARACTERS: &[u8] = b" .:-=+*#%@";
/// The same as colours of a terminal's palette of 256: black, then from blue to yellow.
const COLOURS: [u8; 10] = [16, 17, 18, 54, 90, 126, 162, 202, 214, 226];

/// How a terminal is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shading {
    Colours,
    Characters,
}

/// One round: how much of each part was dirty, from 0 to 1.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Row(Vec<f32>);

impl Row {
    /// Returns how much of each `part` pages is in the bitmap.
    pub(crate) fn of(pages: &Bitmap, part: usize) -> Self {
        let range = pages.range();
        let parts = (range.pages() as usize).div_ceil(part);
        let mut counts = vec![0_u64; parts];
        for run in pages.runs() {
            let first = (run.start().get() - range.start().get()) / PAGE_BYTES;
            (first..first + run.pages()).for_each(|page| counts[page as usize / part] += 1);
        }
        let density = |(number, count): (usize, u64)| {
            let pages = (range.pages() as usize - number * part).min(part);
            count as f32 / pages as f32
        };
        Self(counts.into_iter().enumerate().map(density).collect())
    }

    /// Returns how much of each part was dirty.
    pub(crate) fn parts(&self) -> &[f32] {
        &self.0
    }

    /// Returns the row as text.
    pub(crate) fn to_text(&self, shading: Shading) -> String {
        let cells = self.0.iter().map(|&density| shade(density));
        match shading {
            Shading::Characters => cells.map(|shade| char::from(CHARACTERS[shade])).collect(),
            Shading::Colours => {
                let cells = cells.map(|shade| format!("\x1b[48;5;{}m ", COLOURS[shade]));
                cells.collect::<String>() + "\x1b[0m"
            }
        }
    }
}

/// Returns which of ten shades stands for a density: the first for nothing at all, the last for all.
fn shade(density: f32) -> usize {
    let last = CHARACTERS.len() - 1;
    if density <= 0.0 { 0 } else { ((density * last as f32) as usize).clamp(1, last) }
}

#[cfg(test)]
mod tests;
