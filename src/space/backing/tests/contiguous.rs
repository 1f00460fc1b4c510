use super::*;
use crate::attr::{MemType, SoftBits};

const M2: PageSize = PageSize::Size2M;
const G1: PageSize = PageSize::Size1G;

#[test]
fn each_page_is_its_own_frame_for_good() {
    let memory = Contiguous::new(frame(0x100), 3).unwrap();
    assert_eq!(memory.pages(), 3);
    for page in 0..3 {
        for _ in 0..2 {
            assert_eq!(given(memory.frame(&read(page))), (frame(0x100 + page), Prot::all()));
            memory.release(unmapped(page, frame(0x100 + page)));
        }
    }
    let want = read(1).with_present(frame(0x101));
    assert_eq!(given(memory.frame(&want)).0, frame(0x101));
    memory.fetch(&read(0)).unwrap();
    let error: BeyondEnd = failed(memory.frame(&read(3)));
    assert_eq!((error.page, error.pages), (3, 3));
}

#[test]
fn frames_that_are_not_there_are_refused() {
    let last = frame(u64::MAX);
    for make in [Contiguous::new, Contiguous::rom, Contiguous::device] {
        assert_eq!(make(last, 0).unwrap_err(), FramesError::Empty { first: last });
        assert_eq!(make(last, 2).unwrap_err(), FramesError::Wraps { first: last, pages: 2 });
        assert_eq!(make(last, 1).unwrap().pages(), 1);
    }
}

#[test]
fn leaves_are_as_large_as_frames_and_addresses_allow() {
    let gib = G1.pages();
    let memory = Contiguous::new(frame(gib), 2 * gib).unwrap();
    let largest = |page, gpa| memory.largest(page, Gpa::of_page(gpa));
    assert_eq!(largest(0, 3 * gib), G1);
    assert_eq!(largest(512, 3 * gib + 512), G1);
    assert_eq!(largest(0, 512), M2);
    assert_eq!(largest(0, 1), SMALL);
    // In the last gibibyte there is a whole leaf of it; with another congruence none.
    assert_eq!(largest(gib + 7, 4 * gib + 7), G1);
    assert_eq!(largest(2 * gib, 5 * gib), SMALL);
    assert_eq!(largest(u64::MAX, u64::MAX >> 12), SMALL);

    // From an odd frame on, and too short for a leaf that both ends cut.
    let odd = Contiguous::new(frame(511), 512).unwrap();
    assert_eq!(odd.largest(0, Gpa::of_page(511)), SMALL);
    let odd = Contiguous::new(frame(511), 513).unwrap();
    assert_eq!(odd.largest(0, Gpa::of_page(511)), M2);
    assert_eq!(odd.largest(0, Gpa::of_page(0)), SMALL);
}

#[test]
fn a_leaf_is_given_where_its_first_frame_is_aligned_and_its_last_one_there() {
    let memory = Contiguous::new(frame(512), 512 + 511).unwrap();
    let ask = |page, size| memory.frame(&Want::new(page, size, Prot::R));
    assert_eq!(given(ask(0, M2)).0, frame(512));
    smaller(&ask(0, G1));
    smaller(&ask(1, M2));
    // It would go past the end.
    smaller(&ask(512, M2));
    assert_eq!(given(ask(512, SMALL)).0, frame(1024));
    for size in PageSize::ALL {
        let _: BeyondEnd = failed(ask(512 + 511, size));
        let _: BeyondEnd = failed(ask(u64::MAX, size));
    }
    let gibibyte = Contiguous::new(frame(G1.pages()), G1.pages()).unwrap();
    assert_eq!(given(gibibyte.frame(&Want::new(0, G1, Prot::R))).0, frame(G1.pages()));
}

#[test]
fn a_rom_is_not_written_and_a_device_is_neither_cached_nor_executed() {
    let all = Attr::new(Prot::all()).with_mem_type(MemType::WT).with_soft(SoftBits::S0);
    let memory = Contiguous::new(frame(1), 1).unwrap();
    assert_eq!(memory.attr(all), all);

    let rom = Contiguous::rom(frame(1), 1).unwrap();
    let rights = Prot::RX | Prot::XU;
    assert_eq!(rom.attr(all), all.with_prot(rights));
    assert_eq!(given(rom.frame(&read(0))), (frame(1), rights));

    let device = Contiguous::device(frame(1), 1).unwrap();
    assert_eq!(device.attr(all), all.with_prot(Prot::RW).with_mem_type(MemType::UC));
    assert_eq!(given(device.frame(&write(0))), (frame(1), Prot::RW));
    // Nothing is added to what is asked for.
    assert_eq!(device.attr(Attr::new(Prot::R)).prot(), Prot::R);
}
