//! Large leaves divided, and small ones taken together.

use super::*;
use crate::level::SLOTS;

/// The sizes that a format's leaves can be split from, each with the one below.
fn steps(format: &impl Format) -> impl Iterator<Item = (PageSize, PageSize)> {
    let pairs = [(PageSize::Size2M, PageSize::Size4K), (PageSize::Size1G, PageSize::Size2M)];
    pairs.into_iter().filter(|(size, below)| format.supports(*size) && format.supports(*below))
}

/// Every format with every one of its steps.
fn every_step(mut check: impl FnMut(AnyFormat, PageSize, PageSize)) {
    for format in examples() {
        for (size, below) in steps(&format) {
            check(format, size, below);
        }
    }
}

/// The accessed and the dirty bit, in each of their four states.
fn marks_of(format: &impl Format) -> [u64; 4] {
    let (a, d) = (format.accessed_bit(), format.dirty_bit());
    [0, a, d, a | d]
}

fn leaf(format: &impl Format, size: PageSize, pfn: u64, attr: Attr) -> Entry {
    format.leaf(size, HostPfn::new(pfn), attr).unwrap().without(format.accessed_bit())
}

/// A table's worth of leaves from `pfn` on, each encoded by itself.
fn leaves(format: &impl Format, size: PageSize, pfn: u64, attr: Attr) -> Vec<Entry> {
    (0..SLOTS as u64).map(|index| leaf(format, size, pfn + index * size.pages(), attr)).collect()
}

fn union(format: &impl Format, size: PageSize, entries: &[Entry]) -> Result<Union, Uneven> {
    Union::of(format, size, entries.iter().copied())
}

/// Places in a table: both ends, their neighbours, and the middle.
const PLACES: [usize; 5] = [0, 1, 255, 510, 511];

#[test]
fn what_was_divided_and_taken_together_is_as_it_was_but_late() {
    every_step(|format, size, below| {
        for attr in all_attrs() {
            let Ok(whole) = format.leaf(size, HostPfn::new(FRAME), attr) else { continue };
            for marks in marks_of(&format) {
                let whole = whole.without(format.accessed_bit()).with(marks);
                let first = divided(&format, size, below, whole);
                assert_eq!(first, leaf(&format, below, FRAME, attr).with(marks), "{attr:?}");
                let small: Vec<_> =
                    (0..SLOTS as u64).map(|index| first.advanced(index * below.pages())).collect();
                let last = leaf(&format, below, FRAME + 511 * below.pages(), attr);
                assert_eq!(small[511], last.with(marks));
                let together = union(&format, below, &small).unwrap();
                assert_eq!(together.leaf(&format, size), Ok(late(whole)), "{attr:?}");
            }
        }
    });
}

#[test]
fn a_leaf_has_the_same_attributes_when_it_is_divided() {
    every_step(|format, size, below| {
        for attr in all_attrs() {
            let Ok(whole) = format.leaf(size, HostPfn::new(FRAME), attr) else { continue };
            let first = divided(&format, size, below, whole);
            assert!(format.is_well_formed(below.level(), first));
            assert_eq!(format.attr(below, first), attr);
            assert_eq!(format.leaf_frame(below, first), HostPfn::new(FRAME));
        }
    });
}

#[test]
fn a_late_leaf_is_divided_into_accessed_and_dirty_ones() {
    every_step(|format, size, below| {
        let whole = leaf(&format, size, FRAME, Attr::new(Prot::RW));
        let both = marks_of(&format)[3];
        for marks in marks_of(&format) {
            let first = divided(&format, size, below, late(whole.with(marks)));
            assert_eq!(first, leaf(&format, below, FRAME, Attr::new(Prot::RW)).with(both));
        }
    });
}

#[test]
fn a_leaf_is_not_accessed_because_fresh_ones_are() {
    for format in examples() {
        for (size, below) in steps(&format) {
            let whole = leaf(&format, size, FRAME, Attr::new(Prot::RWX));
            assert!(!divided(&format, size, below, whole).has(format.accessed_bit()));
            let small = leaves(&format, below, FRAME, Attr::new(Prot::RWX));
            let together = union(&format, below, &small).unwrap().leaf(&format, size);
            assert_eq!(together, Ok(late(whole)), "{format:?}");
        }
    }
}

#[test]
fn it_is_accessed_or_dirty_if_any_leaf_is() {
    every_step(|format, size, below| {
        let attr = Attr::new(Prot::RW);
        let whole = late(leaf(&format, size, FRAME, attr));
        for place in PLACES {
            for marks in marks_of(&format) {
                for other in PLACES {
                    let mut small = leaves(&format, below, FRAME, attr);
                    small[place] = small[place].with(marks);
                    small[other] = small[other].with(format.accessed_bit());
                    let together = union(&format, below, &small).unwrap();
                    let marks = marks | format.accessed_bit();
                    assert_eq!(together.leaf(&format, size), Ok(whole.with(marks)));
                }
                let mut small = leaves(&format, below, FRAME, attr);
                small[place] = small[place].with(marks);
                let together = union(&format, below, &small).unwrap();
                assert_eq!(together.leaf(&format, size), Ok(whole.with(marks)));
                // Of a late one nobody knows whether it is.
                small[place] = late(small[place]);
                let together = union(&format, below, &small).unwrap();
                let both = marks_of(&format)[3];
                assert_eq!(together.leaf(&format, size), Ok(whole.with(both)));
            }
        }
    });
}

#[test]
fn what_is_no_leaf_of_that_size_is_missing() {
    every_step(|format, _, below| {
        let attr = Attr::new(Prot::RW);
        let mut others =
            vec![Entry::EMPTY, Entry::UNPOPULATED, Entry::claimed(0), Entry::claimed(7)];
        if below > PageSize::Size4K {
            others.push(format.table(HostPfn::new(FRAME)));
            others.push(format.table(HostPfn::new(FRAME)).with(Entry::COLLAPSING));
        }
        for place in PLACES {
            for &other in &others {
                let mut small = leaves(&format, below, FRAME, attr);
                small[place] = other;
                assert_eq!(union(&format, below, &small), Err(Uneven::Missing(place)));
                // The first is named.
                small[511] = Entry::EMPTY;
                assert_eq!(union(&format, below, &small), Err(Uneven::Missing(place)));
            }
        }
    });
}

#[test]
fn a_leaf_that_does_not_follow_on_differs() {
    every_step(|format, _, below| {
        let attr = Attr::new(Prot::RW);
        let step = below.pages();
        let frame = |place: usize| FRAME + place as u64 * step;
        for place in PLACES {
            let prots = [Prot::R, Prot::RWX, Prot::RX].map(|prot| attr.with_prot(prot));
            let soft = [SoftBits::S0, SoftBits::S1].map(|soft| attr.with_soft(soft));
            let types = [MemType::UC, MemType::WT].map(|kind| attr.with_mem_type(kind));
            let flags = [LeafFlags::USER, LeafFlags::GLOBAL, LeafFlags::IGNORE_PAT];
            let flags = flags.map(|flags| attr.with_flags(flags));
            let others = prots.into_iter().chain(soft).chain(types).chain(flags);
            let of_attr = |attr| format.leaf(below, HostPfn::new(frame(place)), attr).ok();
            let of_frame = |pfn| leaf(&format, below, pfn, attr);
            let frames = [frame(place) + step, frame(place) - step, 0].map(of_frame);
            for other in others.filter_map(of_attr).chain(frames) {
                let mut small = leaves(&format, below, FRAME, attr);
                small[place] = other.without(format.accessed_bit());
                // By the first all others are judged.
                let named = place.max(1);
                assert_eq!(union(&format, below, &small), Err(Uneven::Differs(named)), "{other:?}");
            }
        }
    });
}

#[test]
fn leaves_of_a_frame_that_is_not_aligned_make_no_large_one() {
    every_step(|format, size, below| {
        let attr = Attr::new(Prot::RW);
        for off in [1, 256, 511] {
            let pfn = HostPfn::new(FRAME + off * below.pages());
            let small = leaves(&format, below, pfn.get(), attr);
            let together = union(&format, below, &small).unwrap().leaf(&format, size);
            assert_eq!(together, Err(EncodeError::Misaligned { pfn, size }));
        }
    });
}

#[test]
fn leaves_make_none_of_a_size_that_the_processor_does_not_have() {
    for format in examples() {
        for (size, below) in
            [(PageSize::Size2M, PageSize::Size4K), (PageSize::Size1G, PageSize::Size2M)]
        {
            if format.supports(size) || !format.supports(below) {
                continue;
            }
            let small = leaves(&format, below, FRAME, Attr::new(Prot::RW));
            let together = union(&format, below, &small).unwrap().leaf(&format, size);
            assert_eq!(together, Err(EncodeError::BadSize(size)));
        }
    }
}

#[test]
fn the_pat_bit_is_elsewhere_in_large_leaves() {
    // Write-back is at index 6 only: bits 1 and 2.
    let pat = Pat::from_msr(0x0706_0504_0100_0707).unwrap();
    let formats: [AnyFormat; 2] = [
        Npt::new(Levels::Four, width(43)).with_pat(pat).into(),
        LongMode::new(Levels::Five, width(43)).with_pat(pat).into(),
    ];
    for format in formats {
        let whole = leaf(&format, PageSize::Size1G, FRAME, Attr::new(Prot::RW));
        assert_eq!(whole.raw() & 0x1098, 0x1090, "bit 12, beside the size in bit 7, and PCD");
        let middle = divided(&format, PageSize::Size1G, PageSize::Size2M, whole);
        assert_eq!(middle, whole, "alike but for the level");
        let small = divided(&format, PageSize::Size2M, PageSize::Size4K, middle);
        assert_eq!(small.raw() & 0x1098, 0x0090, "bit 7");
        // Bit 12 is the frame's now.
        assert_eq!(small.advanced(1).raw() & 0x1098, 0x1090);
        let all = leaves(&format, PageSize::Size4K, FRAME, Attr::new(Prot::RW));
        let together = union(&format, PageSize::Size4K, &all).unwrap();
        assert_eq!(together.leaf(&format, PageSize::Size2M), Ok(late(middle)));
    }
}

#[test]
fn what_the_mmu_did_later_is_in_the_marks() {
    every_step(|format, _, below| {
        let attr = Attr::new(Prot::RW);
        let before = leaves(&format, below, FRAME, attr);
        let then = union(&format, below, &before).unwrap();
        let now = |entries: &[Entry]| then.marks_now(&format, entries.iter().copied());
        assert_eq!(now(&before), 0);
        let both = marks_of(&format)[3];
        for place in PLACES {
            for marks in marks_of(&format) {
                let mut after = before.clone();
                after[place] = after[place].with(marks);
                assert_eq!(now(&after), marks);
            }
            // Nobody knows what became of these.
            for other in [Entry::EMPTY, before[place].advanced(below.pages())] {
                let mut after = before.clone();
                after[place] = other;
                assert_eq!(now(&after), both);
            }
        }
        assert_eq!(now(&leaves(&format, below, FRAME + 512 * below.pages(), attr)), both);
        assert_eq!(now(&leaves(&format, below, FRAME, attr.with_prot(Prot::R))), both);
    });
}
