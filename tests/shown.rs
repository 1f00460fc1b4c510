//! What somebody sees who debugs: each handle says what it is of, without a lock that its owner may hold, and
//! without walking.
#![cfg(not(any(loom, shuttle)))]

use std::{fmt::Debug, sync::Arc};

use slat::{
    Attr, Bitmap, Contiguous, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Level, Levels,
    ObserverId, PageSize, PageTable, PhysWidth, Prot, Space, Supplied, ThreadKicks, Tracking,
};

/// Fails if a value shows itself without all of the words.
#[track_caller]
fn shows(value: &impl Debug, words: &[&str]) {
    let shown = format!("{value:?}");
    for word in words {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
}

fn range() -> GpaRange {
    GpaRange::from_pages(Gpa::new(0x1000), 16).unwrap()
}

fn table() -> PageTable<Ept, HeapFrames> {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    PageTable::new(ept, HeapFrames::new(8)).unwrap()
}

#[test]
fn ranges_and_bitmaps_show_their_pages() {
    shows(&range(), &["GpaRange", "0x1000"]);
    let mut bitmap = Bitmap::new(range());
    bitmap.set(range().start()).unwrap();
    shows(&bitmap, &["Bitmap", "0x1000", "count: 1"]);
    assert_eq!(Gpa::from(0x1000), range().start());
}

#[test]
fn entries_show_what_they_are() {
    let table = table();
    table.populate(range(), PageSize::Size4K).unwrap();
    let pin = table.pin();
    shows(&pin.walk(range().start(), Level::L1), &["EMPTY"]);
    shows(&pin.walk(Gpa::new(0), Level::L1), &["UNPOPULATED"]);
    pin.map(range().start(), HostPfn::new(0x77), PageSize::Size4K, Attr::new(Prot::RW)).unwrap();
    // Read and write, write-back, and the frame.
    shows(&pin.walk(range().start(), Level::L1), &["Entry(0x", "77033)"]);
    shows(&pin.mappings(range()), &["Mappings", "page: 1", "end: 17"]);
    shows(&pin.slot(range().start()).unwrap(), &["SlotRef"]);
}

#[test]
fn observers_and_what_they_are_told_of_show_generations() {
    let table = table();
    table.populate(range(), PageSize::Size4K).unwrap();
    let mut observer = table.observer();
    shows(&observer, &["Observer", "state", "last: None"]);
    let inside = observer.enter(Tracking::On);
    shows(&inside, &["Inside", "root_pointer", "generation", "due: All"]);
    shows(&inside.mmu(), &["Mmu", "root"]);
    let flush = table.flush_all();
    shows(&flush, &["Flush", "generation"]);
    let mut shootdown = flush.shootdown();
    shows(&shootdown, &["Shootdown", "laggards", &format!("{:?}", inside.id())]);
    drop(inside);
    shootdown.wait(&|_: ObserverId| ()).unwrap();
    let inside = observer.enter(Tracking::On);
    shows(inside.due(), &["All"]);
    drop(inside);

    let kicks = ThreadKicks::new();
    let _seat = kicks.sit(observer.id());
    shows(&kicks, &["ThreadKicks", "kicked"]);
}

#[test]
fn spaces_and_their_handles_show_themselves() {
    let space = Space::new(table(), |_: ObserverId| ());
    let memory = Contiguous::new(HostPfn::new(0x1000), range().pages()).unwrap();
    space.map_region(range(), Arc::new(memory), 0, Attr::new(Prot::RWX)).unwrap();
    shows(&space, &["Space", "table"]);
    let vcpu = space.vcpu();
    shows(&vcpu, &["Vcpu", "observer"]);
    let held = vcpu.hold(range().start(), Prot::W).unwrap();
    shows(&held, &["Hold", "0x1000", "access"]);
    let run = vcpu.hold_range(range().start(), 0x3000, Prot::R).unwrap();
    shows(&run, &["HoldRange", "gpa", "len"]);
    let (supplied, supplier) = Supplied::new(HostPfn::new(0x2000), 4).unwrap();
    shows(&supplied, &["frames"]);
    shows(&supplier, &["Supplier"]);
}
