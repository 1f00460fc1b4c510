//! Leaves of all sizes: room for them, what maps there, and how one size becomes another.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source, and passes frames on")]
#![expect(clippy::disallowed_types, reason = "no model runs these")]

mod amid;
mod broken;
mod collapse;
#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
#[path = "../common/mod.rs"]
mod common;
mod late;
mod map;
mod populate;
mod range;
mod refine;
mod split;
mod turns;
mod vacate;

use common::{Checked, RWX, at, pfn, range as bytes_at};
use slat::{Format, FrameSource, Mapped, Mapping, ObserverId, PageSize, Pinned};

const M2: PageSize = PageSize::Size2M;
const G1: PageSize = PageSize::Size1G;
const LARGE: [PageSize; 2] = [M2, G1];
/// Each large size, and the one that it is made of.
const STEPS: [(PageSize, PageSize); 2] = [(M2, PageSize::Size4K), (G1, M2)];

/// A frame that is aligned to all sizes, and none of the tables'.
const FRAME: u64 = 0x80_0000;

/// A kick for where nobody is inside.
fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

/// Populates room for leaves of `size`.
#[track_caller]
fn room<F: Format, S: FrameSource>(table: &Checked<F, S>, start: u64, size: PageSize, leaves: u64) {
    table.populate(bytes_at(start, leaves * size.bytes()), size).unwrap();
}

/// Populates, and maps to the frames from `frame` on.
#[track_caller]
fn mapped<F: Format, S: FrameSource>(
    table: &Checked<F, S>,
    start: u64,
    size: PageSize,
    leaves: u64,
    frame: u64,
) {
    let range = bytes_at(start, leaves * size.bytes());
    table.populate_mapped(range, size, pfn(frame), RWX).unwrap();
}

/// Maps one leaf, where there is room for it.
#[track_caller]
fn map<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>, gpa: u64, size: PageSize, frame: u64) {
    assert_eq!(pin.map(at(gpa), pfn(frame), size, RWX), Ok(Mapped::New), "at {gpa:#x}");
}

/// A leaf as it was mapped, with neither bit.
fn fresh(gpa: u64, size: PageSize, frame: u64) -> Mapping {
    Mapping { gpa: at(gpa), pfn: pfn(frame), size, attr: RWX, accessed: false, dirty: false }
}

/// Returns the sizes of the leaves in a range.
fn sizes<F: Format, S: FrameSource>(
    table: &Checked<F, S>,
    start: u64,
    bytes: u64,
) -> Vec<PageSize> {
    table.pin().mappings(bytes_at(start, bytes)).unwrap().map(|leaf| leaf.size).collect()
}

/// Checks that the pages from `start` on are mapped to the frames from `frame` on, by whatever leaves.
#[track_caller]
fn maps_on<F: Format, S: FrameSource>(table: &Checked<F, S>, start: u64, bytes: u64, frame: u64) {
    let pin = table.pin();
    let run = pin.translate(at(start), bytes, slat::Prot::R).unwrap();
    assert_eq!((run.pfn, run.offset, run.len), (pfn(frame), 0, bytes));
    assert_eq!(pin.mapped(bytes_at(start, bytes)), Ok(bytes / common::PAGE));
}
