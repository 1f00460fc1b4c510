//! Harvests at random against a set of pages.

use std::collections::BTreeSet;

use proptest::prelude::*;
use slat::{Bitmap, Gpa, GpaRange, Levels, Mark};

use crate::{
    bitmap,
    common::{Checked, GIB, PAGE, RWX, SMALL, at, ept, pfn, scaled},
    gpas, nth,
};

/// Around the end of a gibibyte and of a leaf table.
const FIRST: u64 = GIB - 700 * PAGE;
const PAGES: u64 = 1400;

#[derive(Clone, Debug)]
enum Step {
    /// Sets the dirty bit of pages from the first on, so far apart.
    Write {
        first: u64,
        stride: u64,
        count: u64,
    },
    Unmap {
        page: u64,
    },
    Map {
        page: u64,
    },
    Harvest {
        first: u64,
        pages: u64,
        margin: u64,
    },
    Select {
        first: u64,
        pages: u64,
        stride: u64,
    },
    Query {
        first: u64,
        pages: u64,
    },
    SetDirty {
        first: u64,
        stride: u64,
        count: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let page = || 0..PAGES;
    let stride = || prop_oneof![Just(1), Just(2), Just(3), 4..200_u64];
    let count = || prop_oneof![1..4_u64, 1..PAGES];
    prop_oneof![
        3 => (page(), stride(), count())
            .prop_map(|(first, stride, count)| Step::Write { first, stride, count }),
        1 => page().prop_map(|page| Step::Unmap { page }),
        1 => page().prop_map(|page| Step::Map { page }),
        2 => (page(), count(), 0..130_u64)
            .prop_map(|(first, pages, margin)| Step::Harvest { first, pages, margin }),
        2 => (page(), count(), stride())
            .prop_map(|(first, pages, stride)| Step::Select { first, pages, stride }),
        1 => (page(), count()).prop_map(|(first, pages)| Step::Query { first, pages }),
        1 => (page(), stride(), count())
            .prop_map(|(first, stride, count)| Step::SetDirty { first, stride, count }),
    ]
}

fn part(first: u64, pages: u64) -> GpaRange {
    GpaRange::from_pages(at(FIRST + first * PAGE), pages.min(PAGES - first)).unwrap()
}

fn some(first: u64, stride: u64, count: u64) -> impl Iterator<Item = u64> {
    (first..PAGES).step_by(stride as usize).take(count as usize).map(|page| FIRST + page * PAGE)
}

fn among(pages: &BTreeSet<u64>, holds: impl Fn(Gpa) -> bool) -> Vec<u64> {
    pages.iter().copied().filter(|&gpa| holds(at(gpa))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        scaled("SLAT_MODEL_CASES", if cfg!(debug_assertions) { 64 } else { 512 }) as u32
    ))]

    #[test]
    fn harvests_report_what_was_set_since(steps in prop::collection::vec(step(), 1..40)) {
        let table = Checked::new(ept(Levels::Four), 64);
        table.populate_mapped(part(0, PAGES), SMALL, pfn(0x1000), RWX).unwrap();
        let pin = table.pin();
        let mut mapped: BTreeSet<u64> = (0..PAGES).map(|page| FIRST + page * PAGE).collect();
        let mut dirty = BTreeSet::new();
        for step in steps {
            match step {
                Step::Write { first, stride, count } => {
                    for gpa in some(first, stride, count) {
                        let slot = pin.slot(at(gpa)).unwrap();
                        prop_assert_eq!(slot.set_dirty(), dirty.contains(&gpa));
                        if mapped.contains(&gpa) {
                            dirty.insert(gpa);
                        }
                    }
                }
                Step::Unmap { page } => {
                    let gpa = FIRST + page * PAGE;
                    let unmapped = pin.unmap(at(gpa)).ok();
                    prop_assert_eq!(unmapped.is_some(), mapped.remove(&gpa));
                    let was_dirty = unmapped.is_some_and(|(mapping, _)| mapping.dirty);
                    prop_assert_eq!(was_dirty, dirty.remove(&gpa));
                }
                Step::Map { page } => {
                    let gpa = FIRST + page * PAGE;
                    if mapped.insert(gpa) {
                        pin.map(at(gpa), pfn(page), SMALL, RWX).unwrap();
                    }
                }
                Step::Harvest { first, pages, margin } => {
                    let range = part(first, pages);
                    let start = range.start().get() - margin * PAGE;
                    let wide = range.pages() + 2 * margin;
                    let mut found = Bitmap::new(GpaRange::from_pages(at(start), wide).unwrap());
                    let (count, flush) = pin.harvest(range, Mark::Dirty, &mut found).unwrap();
                    let expected = among(&dirty, |gpa| range.contains(gpa));
                    let hull = expected.first().zip(expected.last()).map(|(&first, &last)| {
                        GpaRange::new(at(first), last - first + PAGE).unwrap()
                    });
                    prop_assert_eq!((count, flush.range()), (expected.len() as u64, hull));
                    prop_assert_eq!(gpas(&found), expected);
                    dirty.retain(|&gpa| !range.contains(at(gpa)));
                }
                Step::Select { first, pages, stride } => {
                    let range = part(first, pages);
                    let pages = (0..range.pages()).step_by(stride as usize);
                    let selection = bitmap(range, pages.map(|page| nth(range, page).get()));
                    let mut found = Bitmap::new(range);
                    let (count, _flush) =
                        pin.harvest_selected(&selection, Mark::Dirty, &mut found).unwrap();
                    let expected = among(&dirty, |gpa| selection.contains(gpa));
                    prop_assert_eq!(count, expected.len() as u64);
                    prop_assert_eq!(gpas(&found), expected);
                    dirty.retain(|&gpa| !selection.contains(at(gpa)));
                }
                Step::Query { first, pages } => {
                    let range = part(first, pages);
                    let mut found = Bitmap::new(range);
                    let count = pin.query(range, Mark::Dirty, &mut found).unwrap();
                    let expected = among(&dirty, |gpa| range.contains(gpa));
                    prop_assert_eq!(count, expected.len() as u64);
                    prop_assert_eq!(gpas(&found), expected);
                }
                Step::SetDirty { first, stride, count } => {
                    let selection = bitmap(part(0, PAGES), some(first, stride, count));
                    let newly = gpas(&selection).into_iter().filter(|gpa| mapped.contains(gpa));
                    let newly = newly.filter(|&gpa| dirty.insert(gpa)).count();
                    prop_assert_eq!(pin.set_dirty(&selection), Ok(newly as u64));
                }
            }
        }
        let mut found = Bitmap::new(part(0, PAGES));
        pin.query(part(0, PAGES), Mark::Dirty, &mut found).unwrap();
        prop_assert!(gpas(&found).into_iter().eq(dirty));
    }
}
