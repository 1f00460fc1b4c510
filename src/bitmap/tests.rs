use std::{collections::BTreeSet, vec::Vec};

use proptest::prelude::*;

use super::*;

fn range(first: u64, pages: u64) -> GpaRange {
    GpaRange::between(first, first + pages)
}

fn at(page: u64) -> Gpa {
    Gpa::of_page(page)
}

#[test]
fn page_i_of_the_range_is_bit_i() {
    let mut bitmap = Bitmap::new(range(5, 130));
    assert_eq!(bitmap.words(), [0, 0, 0]);
    for page in [5, 6, 68, 69, 134] {
        assert_eq!(bitmap.set(at(page)), Ok(false));
        assert_eq!(bitmap.set(at(page)), Ok(true));
    }
    assert_eq!(bitmap.words(), [0b11 | 1 << 63, 1, 0b10]);
    assert_eq!(bitmap.count(), 5);
    assert!(bitmap.contains(Gpa::new(68 * 4096 + 4095)));
    assert!(!bitmap.contains(at(7)) && !bitmap.contains(at(4)) && !bitmap.contains(at(135)));
    bitmap.clear();
    assert!(bitmap.is_empty() && bitmap.words() == [0, 0, 0]);
}

#[test]
fn pages_outside_of_the_range_are_refused() {
    let mut bitmap = Bitmap::new(range(64, 64));
    for wanted in [range(63, 1), range(128, 1), range(0, 1)] {
        let refused = Err(NotCovered { wanted, bitmap: range(64, 64) });
        assert_eq!(bitmap.set(wanted.start()).map(drop), refused);
        assert_eq!(bitmap.set_range(wanted), refused);
    }
    let wanted = range(100, 29);
    assert_eq!(bitmap.set_range(wanted), Err(NotCovered { wanted, bitmap: range(64, 64) }));
    assert!(bitmap.is_empty());
}

#[test]
fn bits_past_the_end_are_never_reported() {
    let mut bitmap = Bitmap::new(range(3, 70));
    bitmap.words_mut().fill(u64::MAX);
    assert_eq!(bitmap.count(), 70);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [range(3, 70)]);
    assert!(bitmap.contains(at(72)) && !bitmap.contains(at(73)));
    assert!(bitmap.contains_all(range(3, 70)));
    assert_eq!(bitmap.mask(70, 64), 0b111);

    let mut other = Bitmap::new(range(3, 70));
    assert_ne!(bitmap, other);
    other.merge(&bitmap).unwrap();
    assert_eq!(other.words(), [u64::MAX, (1 << 6) - 1]);
    assert_eq!(bitmap, other);

    bitmap.words_mut().fill(1 << 63);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [range(66, 1)]);
}

#[test]
fn the_last_page_of_the_space_has_a_bit() {
    let last = GpaRange::ALL.end_page() - 1;
    let mut bitmap = Bitmap::new(range(last - 64, 65));
    bitmap.set(Gpa::new(u64::MAX)).unwrap();
    assert_eq!(bitmap.words(), [0, 1]);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [range(last, 1)]);
}

#[test]
fn only_bitmaps_of_one_range_merge() {
    let mut bitmap = Bitmap::new(range(0, 64));
    let other = Bitmap::new(range(0, 65));
    let refused = RangesDiffer { range: range(0, 64), other: range(0, 65) };
    assert_eq!(bitmap.merge(&other), Err(refused));
}

#[test]
fn windows_fill_one_bitmap() {
    let mut bitmap = Bitmap::new(range(7, 200));
    let windows: Vec<_> = bitmap.window().part(range(80, 100)).split(1).collect();
    let ranges: Vec<_> = windows.iter().map(Window::range).collect();
    assert_eq!(ranges, [range(71, 64), range(135, 64)]);
    for mut window in windows {
        let all = window.range();
        window.set(all);
    }
    assert_eq!(bitmap.words(), [0, u64::MAX, u64::MAX, 0]);
    let windows = bitmap.window().split(3).map(|window| window.range());
    assert_eq!(windows.collect::<Vec<_>>(), [range(7, 192), range(199, 8)]);
}

/// A bitmap of some pages, and ranges of them.
fn ranges() -> impl Strategy<Value = (u64, u64, Vec<(u64, u64)>)> {
    (0..200_u64, 1..400_u64).prop_flat_map(|(first, pages)| {
        let part = (0..pages, 1..=pages).prop_map(move |(from, count)| (from, count));
        (Just(first), Just(pages), prop::collection::vec(part, 0..12))
    })
}

proptest! {
    #[test]
    fn it_is_a_set((first, pages, parts) in ranges(), garbage: bool) {
        let mut bitmap = Bitmap::new(range(first, pages));
        let mut model = BTreeSet::new();
        for (from, count) in parts {
            let count = count.min(pages - from);
            bitmap.set_range(range(first + from, count)).unwrap();
            model.extend(first + from..first + from + count);
        }
        let ones: u32 = bitmap.words().iter().map(|word| word.count_ones()).sum();
        prop_assert_eq!(ones as usize, model.len());
        if garbage && pages % 64 != 0 {
            *bitmap.words_mut().last_mut().unwrap() |= u64::MAX << (pages % 64);
        }
        prop_assert_eq!(bitmap.count(), model.len() as u64);
        prop_assert_eq!(bitmap.is_empty(), model.is_empty());
        for page in first.saturating_sub(3)..first + pages + 70 {
            prop_assert_eq!(bitmap.contains(at(page)), model.contains(&page));
        }
        let runs: Vec<_> = bitmap.runs().collect();
        prop_assert!(runs.windows(2).all(|two| two[0].end_page() < two[1].first_page()));
        let inside = runs.iter().flat_map(|run| run.first_page()..run.end_page());
        prop_assert!(inside.eq(model.iter().copied()));
        for run in runs {
            prop_assert!(bitmap.contains_all(run));
        }
        for page in first..first + pages {
            let expected = (page..page + 64).filter(|page| model.contains(page));
            let expected = expected.fold(0, |mask, other| mask | 1 << (other - page));
            prop_assert_eq!(bitmap.mask(page, 64), expected);
            prop_assert_eq!(bitmap.mask(page, 5), expected & 0b1_1111);
        }
    }

    #[test]
    fn a_mask_lands_where_it_should(first in 0..100_u64, offset in 0..300_u64, mask in 1_u64..) {
        let mut bitmap = Bitmap::new(range(first, 400));
        bitmap.window().set_mask(first + offset, mask);
        let set = (0..64).filter(|bit| mask >> bit & 1 != 0);
        let pages = bitmap.runs().flat_map(|run| run.first_page()..run.end_page());
        prop_assert!(pages.eq(set.map(|bit| first + offset + bit)));
    }
}
