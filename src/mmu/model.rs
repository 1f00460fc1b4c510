//! The step of the walk under loom: two processors write to a page while a thread unmaps it.

#![expect(unsafe_code, reason = "plants entries and walks them")]

use alloc::vec::Vec;

use loom::thread;

use super::*;
use crate::{
    addr::{Gpa, HostPfn},
    arena::{FrameSource, HeapFrames, Hint},
    attr::{Attr, Prot},
    entry::Entry,
    format::{Ept, EptCaps, Format, PhysWidth, Tracking},
    level::{Level, Levels, PageSize},
    sync::{Arc, explore},
    table::Race,
};

const GPA: Gpa = Gpa::new(0x9000);
const EPT: Ept = Ept::new(Levels::Two, PhysWidth::MAX, EptCaps::USUAL);

/// Makes one table below a root, and a leaf in it; returns the lower table's frame.
fn plant(frames: &HeapFrames) -> (HostPfn, HostPfn) {
    let mut runs = Vec::new();
    frames.allocate(2, Hint::new(GPA), &mut runs).unwrap();
    let (root, below) = (runs[0].first, runs[0].first.checked_add(1).unwrap());
    let leaf = EPT.leaf(PageSize::Size4K, HostPfn::new(7), Attr::new(Prot::RW)).unwrap();
    for (frame, level, entry) in [(root, Level::L2, EPT.table(below)), (below, Level::L1, leaf)] {
        // SAFETY: the frame was just allocated, and is never given back.
        let table = unsafe { frames.table(frame) };
        // SAFETY: nobody else has the table, and the entry names the other frame.
        unsafe { table.plant(level.index(GPA.page()), entry) };
    }
    (root, below)
}

/// Writes once; tells whether that made the page dirty.
fn write(frames: &HeapFrames, root: HostPfn) -> Result<bool, Cause> {
    // SAFETY: the tables of `plant` are never given back.
    let mmu = unsafe { Mmu::new(EPT, frames, EPT.root_pointer(root, Tracking::On)) }.unwrap();
    match mmu.translate(GPA, Access::WRITE) {
        Ok(found) => Ok(found.dirty == DirtyChange::Set),
        Err(fault) => Err(fault.cause()),
    }
}

#[test]
fn one_write_makes_the_page_dirty_and_the_unmap_takes_its_bit() {
    explore(3, || {
        let frames = Arc::new(HeapFrames::new(2));
        let (root, below) = plant(&frames);
        let writers = [(); 2].map(|()| {
            let frames = frames.clone();
            thread::spawn(move || write(&frames, root))
        });
        // SAFETY: as in `write`.
        let slot = unsafe { frames.table(below) }.slot(Level::L1.index(GPA.page()));
        let mut taken = slot.load();
        while let Err(Race) = slot.publish(taken, Entry::EMPTY) {
            taken = slot.load();
        }
        let written = writers.map(|writer| writer.join().unwrap());
        let made_dirty = written.iter().filter(|&&outcome| outcome == Ok(true)).count();
        let refused = |outcome: &Result<_, _>| *outcome == Err(Cause::NotPresent);
        assert_eq!(made_dirty, usize::from(taken.has(EPT.dirty_bit())));
        assert!(made_dirty == 1 || written.iter().all(refused));
        assert_eq!(slot.load(), Entry::EMPTY);
    });
}
