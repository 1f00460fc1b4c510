use super::*;

#[test]
fn a_frame_that_comes_back_is_the_next_to_go_and_bears_another_stamp() {
    let memory = GuestMemory::new(2);
    let first = memory.allocate().unwrap();
    memory.assign(first, 7);
    let frame = memory.frame(first).unwrap();
    let stamp = frame.stamp();
    assert_eq!(stamp.page, Some(7));
    frame.add(3, 5);

    let bits = Bits { accessed: true, dirty: true };
    let life = memory.give_back(7, first, bits).unwrap();
    let stay = Stay { pfn: first, term: stamp.term };
    assert_eq!(life, Life { page: 7, stay, bits, sum: 5 });
    assert_eq!(frame.stamp().page, None);
    assert_eq!(frame.load(3), 0, "the next tenant finds zeroes");

    assert_eq!(memory.allocate(), Some(first));
    memory.assign(first, 7);
    assert_eq!(frame.stamp().page, Some(7));
    assert_ne!(frame.stamp(), stamp, "the same page again is another tenant");
}

#[test]
fn frames_run_out_and_are_counted() {
    let memory = GuestMemory::new(2);
    let (first, second) = (memory.allocate().unwrap(), memory.allocate().unwrap());
    assert_ne!(first, second);
    assert_eq!((memory.allocate(), memory.allocate()), (None, None));
    assert_eq!(memory.traffic().in_use(), 2);
    memory.free(second);
    assert_eq!(memory.allocate(), Some(second));
    assert_eq!(memory.traffic(), Traffic { handed_out: 3, given_back: 1 });
    for stray in [BASE + 2, 1] {
        assert!(memory.frame(HostPfn::new(stray)).is_none());
    }
}

#[test]
fn stamps_keep_the_first_and_the_last_page_apart_from_none() {
    for page in [None, Some(0), Some(Stamp::PAGES as usize - 1)] {
        for term in [NonZeroU32::MIN, NonZeroU32::MAX] {
            let stamp = Stamp { page, term };
            assert_eq!(Stamp::unpack(stamp.pack()), stamp);
            assert_ne!(stamp.next(page), stamp);
        }
    }
}
