use super::*;
use crate::frame::Word;

const BITS: Bits = Bits { accessed: true, dirty: true };

#[test]
fn a_frame_that_comes_back_is_the_next_to_go_and_its_words_tell() {
    let memory = GuestMemory::new(2).unwrap();
    let first = memory.allocate().unwrap();
    memory.assign(first, 7);
    let frame = memory.frame(first).unwrap();
    let stay = frame.stay().unwrap();
    assert_eq!(memory.tenant(stay), Some(7));
    assert_eq!(frame.add(3, 5).stay, Some(stay));

    let life = memory.give_back(7, first, BITS).unwrap();
    assert_eq!(life, Life { page: 7, stay, bits: BITS, sum: 5 });
    assert_eq!(frame.load(3), Word { sum: 0, stay: None }, "the next tenant finds zeroes");

    assert_eq!(memory.allocate(), Some(first));
    memory.assign(first, 7);
    assert_ne!(frame.stay(), Some(stay), "the same page again is another stay");
    assert_eq!(memory.tenant(frame.stay().unwrap()), Some(7));
}

#[test]
fn a_page_that_moves_stays() {
    let memory = GuestMemory::new(2).unwrap();
    let (from, to) = (memory.allocate().unwrap(), memory.allocate().unwrap());
    memory.assign(from, 1);
    memory.frame(from).unwrap().add(511, 9);
    memory.copy(from, to);
    let life = memory.life(1, from, BITS);
    memory.free(from);
    assert!(life.is_some());
    assert_eq!(memory.life(1, to, BITS), life);
}

#[test]
fn frames_run_out_and_are_counted() {
    let memory = GuestMemory::new(2).unwrap();
    let (first, second) = (memory.allocate().unwrap(), memory.allocate().unwrap());
    assert_ne!(first, second);
    assert_eq!((memory.allocate(), memory.allocate()), (None, None));
    assert_eq!(memory.traffic().in_use(), 2);
    memory.free(first);
    memory.free(second);
    assert_eq!(memory.allocate(), Some(second), "the last that came back is the first to go");
    assert_eq!(memory.traffic(), Traffic { handed_out: 3, given_back: 2 });
    for stray in [FIRST.get() + 2, 1] {
        assert!(memory.frame(HostPfn::new(stray)).is_none());
    }
}

#[test]
fn a_frame_that_was_never_handed_out_is_nobodys() {
    let memory = GuestMemory::new(2).unwrap();
    assert!(memory.frame(FIRST).is_none());
    let first = memory.allocate().unwrap();
    assert_eq!(memory.frame(first).unwrap().stay(), None);
    assert!(memory.life(0, first, BITS).is_none(), "nor is it anybody's yet");
}
