//! What is in a page: a witness that it was handed over properly.

#![expect(unsafe_code, reason = "a cell that the schedulers watch")]

use crate::sched::Cell;

/// The contents of a guest page: a plain word that no atomic protects.
///
/// Whoever owns the page writes it, and whoever was given the page reads it. If nothing orders the
/// two, loom fails the execution, and Miri and ThreadSanitizer report a data race.
#[derive(Debug)]
pub struct Page(Cell);

// SAFETY: a scenario accesses a page only if it was handed over; that it was is what the schedulers
// check, and what these tests are for.
unsafe impl Sync for Page {}
// SAFETY: it is a number.
unsafe impl Send for Page {}

impl Page {
    /// Makes a page that holds zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Writes the page, as its only owner.
    pub fn write(&self, contents: u64) {
        self.0.with_mut(|word| {
            // SAFETY: the pointer is the cell's, and the caller owns the page.
            unsafe { *word = contents }
        });
    }

    /// Reads the page, which nobody writes meanwhile.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.with(|word| {
            // SAFETY: the pointer is the cell's, and nobody writes the page.
            unsafe { *word }
        })
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}
