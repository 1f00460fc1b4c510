//! Mistakes on purpose, which AddressSanitizer has to see: `ci/asan` expects each to end its test.

use std::hint;

use slat::{FrameRun, FrameSource, Hint, HostPfn, Level, Levels, ObserverId};

use crate::common::{BASE, Checked, Freed, MIB, at, ept, table_frame};

const NOBODY: fn(ObserverId) = |id| panic!("{id} is inside");

/// Returns a table of which a leaf table was freed, and that one's frame.
fn vacated() -> (Checked<slat::Ept, Freed>, HostPfn) {
    let table = Checked::with(ept(Levels::Four), Freed::with_base(BASE, 8));
    table.populate_pages(0, MIB);
    let leaf = table_frame(&table, at(0), Level::L1);
    let before = table.source().free_frames();
    table.vacate_pages(0, MIB);
    let freed = (0..1000).any(|_| table.reclaim(&NOBODY).waiting == 0);
    assert!(freed && table.source().free_frames() > before);
    (table, leaf)
}

#[test]
#[ignore = "reads a table that was freed: a control of ci/asan"]
fn a_walk_in_a_table_that_was_freed_is_a_use_after_free() {
    let (table, leaf) = vacated();
    // SAFETY: there is no proof: the frame was freed.
    let gone = unsafe { table.source().table(leaf) };
    hint::black_box(gone.entry(0));
}

#[test]
#[ignore = "frees a table twice: a control of ci/asan"]
fn a_table_that_is_freed_twice_is_found() {
    let (table, leaf) = vacated();
    // SAFETY: there is no proof: the frame was freed.
    unsafe { table.source().free(FrameRun { first: leaf, count: 1 }, slat::Content::Unknown) };
}

#[test]
#[ignore = "loses a frame: a control of ci/asan"]
fn a_frame_that_never_comes_back_is_a_leak() {
    let source = Freed::with_base(BASE, 8);
    source.allocate(1, Hint::new(at(0)), &mut Vec::new()).unwrap();
}
