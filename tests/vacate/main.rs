//! Vacate: what it gives up, refuses and leaves alone, and which tables go with the pages.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source, and passes frames on")]

mod amid;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod extent;
mod lives;
mod refusals;

use common::{Checked, SMALL, at, populated, shape};
use slat::{Format, GpaRange, VacateError};

fn not_populated(gpa: u64) -> VacateError {
    VacateError::NotPopulated { gpa: at(gpa) }
}

fn still_mapped(gpa: u64) -> VacateError {
    VacateError::StillMapped { gpa: at(gpa) }
}

/// Checks that the tree is what populating these ranges, and nothing else, makes.
#[track_caller]
fn is_as_if_populated<F: Format>(table: &Checked<F>, ranges: impl IntoIterator<Item = GpaRange>) {
    let fresh = Checked::new(*table.format(), 200);
    for range in ranges {
        fresh.populate(range, SMALL).unwrap();
    }
    assert_eq!(populated(table), populated(&fresh));
    assert!(shape(table) == shape(&fresh), "there are tables too many, or other entries");
}
