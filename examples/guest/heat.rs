//! The picture of a precopy: which parts of memory were dirty in each round, as shades.
//!
//! A row for each round, a [`Heat`] map, and a column for each part of memory.

pub(crate) mod svg;

use std::num::NonZero;

use serde::Serializer;
use slat::Heat;

/// Columns of the picture.
pub(crate) const PARTS: NonZero<usize> = NonZero::new(64).expect("it is not 0");

/// How a terminal is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shading {
    Colours,
    Characters,
}

impl Shading {
    /// Returns a row as text.
    pub(crate) fn draw(self, row: &Heat) -> String {
        match self {
            Self::Colours => row.in_colour().to_string(),
            Self::Characters => row.to_string(),
        }
    }
}

/// Serializes a row as how much of each part was dirty, from 0 to 1.
pub(crate) fn serialize<S: Serializer>(row: &Heat, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(row.cells().map(|cell| cell.share() as f32))
}

#[cfg(test)]
mod tests;
