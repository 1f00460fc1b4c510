use slat::{Attr, Prot};

use super::*;
use crate::{backing::leaf, frame::Word};

const BITS: Bits = Bits { accessed: true, dirty: true };
const SMALL: PageSize = PageSize::Size4K;
const LARGE: PageSize = PageSize::Size2M;

/// The first page of a leaf, somewhere.
const PAGE: u64 = 0x4_0000;

/// A leaf that was mapped to the frames from `pfn` on, and comes back.
fn unmapped(pfn: HostPfn, size: PageSize) -> Released {
    let (gpa, attr) = (leaf(PAGE, size).start(), Attr::new(Prot::RWX));
    Released::unmapped(PAGE, &Leaf { gpa, pfn, size, attr, accessed: true, dirty: true })
}

/// Ends its stay; returns what was noted of it.
fn end(memory: &GuestMemory, pfn: HostPfn, size: PageSize) -> Life {
    memory.give_back(leaf(PAGE, size), unmapped(pfn, size));
    memory.journal().lives.pop().unwrap()
}

#[test]
fn a_frame_that_comes_back_is_the_next_to_go_and_its_words_tell() {
    let memory = GuestMemory::new(2).unwrap();
    let first = memory.allocate(SMALL).unwrap();
    let leaf = leaf(PAGE, SMALL);
    let stay = memory.assign(first, leaf);
    let frame = memory.frame(first).unwrap();
    assert_eq!(frame.stay(), Some(stay));
    assert_eq!(memory.tenant(stay), Some(leaf));
    assert_eq!(frame.add(3, 5).stay, Some(stay));

    assert_eq!(end(&memory, first, SMALL), Life { leaf, stay, bits: BITS, sum: 5 });
    assert_eq!(frame.load(3), Word { sum: 0, stay: None }, "the next tenant finds zeroes");

    assert_eq!(memory.allocate(SMALL), Some(first));
    let again = memory.assign(first, leaf);
    assert_ne!(again, stay, "the same page again is another stay");
    assert_eq!(memory.tenant(again), Some(leaf));
    memory.give_back(leaf, Released::unused(PAGE, first, SMALL));
    assert!(memory.journal().lives.is_empty(), "nobody ever saw that stay");
    assert_eq!(memory.traffic().in_use(), 0);
}

#[test]
fn what_comes_back_and_was_nobodys_is_noted() {
    let memory = GuestMemory::new(2).unwrap();
    memory.give_back(leaf(PAGE, SMALL), unmapped(FIRST, SMALL));
    let journal = memory.journal();
    assert_eq!((journal.strays, journal.lives.len()), (1, 0));
}

#[test]
fn a_page_that_moves_stays() {
    let memory = GuestMemory::new(2).unwrap();
    let (from, to) = (memory.allocate(SMALL).unwrap(), memory.allocate(SMALL).unwrap());
    let leaf = leaf(PAGE, SMALL);
    memory.assign(from, leaf);
    memory.frame(from).unwrap().add(511, 9);
    memory.copy(from, to, SMALL);
    let life = memory.life(leaf, from, BITS);
    memory.free(from, SMALL);
    assert!(life.is_some());
    assert_eq!(memory.life(leaf, to, BITS), life);
}

#[test]
fn the_frames_of_a_large_leaf_stay_and_move_together() {
    let memory = GuestMemory::new(3 * 512).unwrap();
    let small = memory.allocate(SMALL).unwrap();
    let [from, to] = [0; 2].map(|_| memory.allocate(LARGE).unwrap());
    assert!([from, to].iter().all(|pfn| pfn.get().is_multiple_of(512)), "as the MMU wants it");
    assert_eq!(memory.allocate(LARGE), None, "the small one is in the way");
    assert_eq!(memory.traffic().in_use(), 1 + 2 * 512);

    let stay = memory.assign(from, leaf(PAGE, LARGE));
    let last = |pfn: HostPfn| HostPfn::new(pfn.get() + 511);
    memory.frame(from).unwrap().add(0, 3);
    memory.frame(last(from)).unwrap().add(511, 4);
    memory.copy(from, to, LARGE);
    assert_eq!(memory.frame(last(to)).unwrap().load(511), Word { sum: 4, stay: Some(stay) });
    let life = end(&memory, to, LARGE);
    assert_eq!((life.sum, life.leaf.pages()), (7, 512));
    assert_eq!(memory.frame(last(to)).unwrap().stay(), None);

    memory.free(small, SMALL);
    assert_eq!(memory.allocate(LARGE), Some(to), "those that came back are of their size");
    memory.free(to, LARGE);
    assert_eq!(memory.allocate(SMALL), Some(small));
    assert_eq!(memory.traffic().in_use(), 1 + 512);
}

#[test]
fn frames_run_out_and_are_counted() {
    let memory = GuestMemory::new(2).unwrap();
    let (first, second) = (memory.allocate(SMALL).unwrap(), memory.allocate(SMALL).unwrap());
    assert_ne!(first, second);
    assert_eq!((memory.allocate(SMALL), memory.allocate(SMALL)), (None, None));
    assert_eq!(memory.traffic().in_use(), 2);
    memory.free(first, SMALL);
    memory.free(second, SMALL);
    assert_eq!(memory.allocate(SMALL), Some(second), "the last that came back is the first to go");
    assert_eq!(memory.traffic(), Traffic { handed_out: 3, given_back: 2 });
    for stray in [FIRST.get() + 2, 1] {
        assert!(memory.frame(HostPfn::new(stray)).is_none());
    }
}

#[test]
fn a_frame_that_was_never_handed_out_is_nobodys() {
    let memory = GuestMemory::new(2).unwrap();
    assert!(memory.frame(FIRST).is_none());
    let first = memory.allocate(SMALL).unwrap();
    assert_eq!(memory.frame(first).unwrap().stay(), None);
    assert!(memory.life(leaf(PAGE, SMALL), first, BITS).is_none(), "nor is it anybody's yet");
}
