//! Regions of large leaves: faults that make room, or split, and collapses, beside changes.

use std::{ops::ControlFlow, sync::Arc as StdArc};

use loom_tests::{
    Arc, End, Exception, Pair, RWX, beside, explore, frame, gpa, no_kick, pages, pair,
    sizes::{LARGE, TABLE},
    space::{Processor, Site},
};
use slat::{CollapseError, Contiguous, Fault, FaultError, Gpa, Hold, HoldEnd, Prot, Tracking};

/// A change of the region.
type Change = fn(&Site);

fn region() -> slat::GpaRange {
    pages(0, TABLE)
}

fn memory(first: u64) -> StdArc<Contiguous> {
    StdArc::new(Contiguous::new(frame(first), TABLE).unwrap())
}

/// Takes the region away, or what is in it.
fn removals() -> [Change; 3] {
    [
        |site| site.space.unmap_region(region()).unwrap(),
        |site| site.space.replace_backing(region(), memory(TABLE), 0).unwrap(),
        |site| {
            site.space.discard(region()).unwrap();
        },
    ]
}

/// A region as large as a large leaf, whose frames allow one.
fn large() -> Site {
    let site = Site::new();
    site.space.map_region(region(), memory(0), 0, RWX).unwrap();
    site
}

/// The same with room for a large leaf where faults map small ones, since writes are tracked.
fn tracked() -> Arc<Site> {
    let site = large();
    site.space.track_dirty(Tracking::On).unwrap();
    Arc::new(site)
}

/// The same with all its pages mapped, by small leaves.
fn small() -> Arc<Site> {
    let site = tracked();
    site.space.prefault(region(), |_| ControlFlow::Continue(())).unwrap();
    site.space.track_dirty(Tracking::Off).unwrap();
    site
}

/// Faults; tells whether that was resolved, or `None` if it is to be tried again.
fn fault(processor: &Processor, at: Gpa) -> Option<bool> {
    match processor.vcpu.fault(at, Prot::W) {
        Ok(Fault::Resolved) => Some(true),
        Ok(Fault::Retry) => None,
        Err(FaultError::NoRegion { .. }) => Some(false),
        Err(error) => panic!("{error}"),
    }
}

/// Collapses all leaves to one; tells whether that went, or `None` if others were in the way.
fn collapse(site: &Site) -> Option<bool> {
    match site.space.table().collapse(gpa(0), LARGE, &no_kick) {
        Ok(()) => Some(true),
        Err(CollapseError::NotMapped { .. } | CollapseError::Uneven { .. }) => Some(false),
        Err(CollapseError::Busy) => None,
        Err(error) => panic!("{error}"),
    }
}

fn end(site: &Site) -> (End, u64) {
    (End::of(site.space.table()), site.space.resident())
}

#[test]
fn a_leaf_that_a_fault_maps_beside_the_start_of_tracking_is_small() {
    pair(2, |play| {
        let site = Arc::new(large());
        let (processor, there) = (site.processor(), Arc::clone(&site));
        let track = move || there.space.track_dirty(Tracking::On).unwrap();
        (play.beside(|| fault(&processor, gpa(1)), track), end(&site))
    })
    .as_in_turn();
}

#[test]
fn a_page_that_is_held_while_its_leaf_is_split_is_held() {
    pair(2, |play| {
        let site = Arc::new(large());
        let (processor, there) = (site.processor(), Arc::clone(&site));
        assert_eq!(fault(&processor, gpa(2)), Some(true));
        let track = move || there.space.track_dirty(Tracking::On).unwrap();
        let hold = || {
            let hold = processor.vcpu.hold(gpa(1), Prot::R).unwrap();
            assert_eq!(hold.frame(), frame(1));
            hold.release()
        };
        (play.beside(hold, track), end(&site))
    })
    .as_in_turn();
}

#[test]
fn two_faults_that_make_room_for_small_leaves_make_it_once() {
    pair(2, |play| {
        let site = tracked();
        let (here, there) = (site.processor(), site.processor());
        let two = move || fault(&there, gpa(2));
        (play.beside(|| fault(&here, gpa(1)), two), end(&site))
    })
    .as_in_turn();
}

/// The room that it has made may be all that is left of it.
#[test]
fn a_fault_that_makes_room_beside_a_removal_leaves_no_page_behind() {
    for removal in removals() {
        explore(1, move || {
            let site = tracked();
            let (processor, there) = (site.processor(), Arc::clone(&site));
            let (resolved, ()) = beside(|| fault(&processor, gpa(1)), move || removal(&there));
            let leaf = site.space.table().pin().lookup(gpa(1));
            assert_eq!(site.space.resident(), u64::from(leaf.is_some()));
            assert!(leaf.is_none() || resolved == Some(true));
            assert!(leaf.is_none_or(|leaf| leaf.size == slat::PageSize::Size4K));
            assert_eq!(fault(&processor, gpa(1)).unwrap(), site.space.stats().regions == 1);
            resolved == Some(true)
        })
        .are(&[true, false]);
    }
}

/// Two regions, with one leaf across both.
fn across() -> Arc<Site> {
    let site = Site::new();
    for range in [pages(0, 2), pages(2, TABLE)] {
        let backing = StdArc::new(Contiguous::new(frame(0), TABLE).unwrap());
        site.space.map_region(range, backing, range.start().get(), RWX).unwrap();
        site.space.prefault(range, |_| ControlFlow::Continue(())).unwrap();
    }
    assert_eq!(collapse(&site), Some(true));
    Arc::new(site)
}

/// What a fault says, and the change, and how the space stands in the end.
type Split = (Option<Option<bool>>, Option<()>, (End, u64));

/// The fault is about one of them, and splits the leaf, as does who takes away what is in that region.
fn split_beside(removal: Change) -> Pair<Split> {
    pair(1, move |play| {
        let site = across();
        let (processor, there) = (site.processor(), Arc::clone(&site));
        let (fault, removed) = play.beside(|| fault(&processor, gpa(1)), move || removal(&there));
        (fault, removed, end(&site))
    })
}

#[test]
fn a_fault_that_splits_a_leaf_beside_a_removal_leaves_no_page_behind() {
    split_beside(|site| site.space.unmap_region(pages(0, 2)).unwrap()).as_in_turn();
    split_beside(|site| site.space.replace_backing(pages(0, 2), memory(TABLE), 0).unwrap())
        .as_in_turn_but(&[Exception::new(
            "Retry: the range is closed",
            |(fault, removed, end)| (*fault == Some(None)).then(|| (None, *removed, end.clone())),
        )]);
}

/// What is removed is all there is, whether it was one leaf or many.
#[test]
fn a_region_that_is_collapsed_beside_a_removal_leaves_no_page_behind() {
    for removal in removals() {
        pair(1, move |play| {
            let site = small();
            let there = Arc::clone(&site);
            let (collapsed, _) = play.beside(|| collapse(&site), move || removal(&there));
            (collapsed, (), site.space.resident())
        })
        .as_in_turn_but(&[Exception::new("Busy: nothing was changed", |said| {
            (said.0 == Some(None)).then_some((None, (), said.2))
        })]);
    }
}

#[test]
fn a_fault_or_a_hold_beside_a_collapse_finds_its_page() {
    let finds: [fn(&Processor) -> bool; 2] = [
        |processor| fault(processor, gpa(1)) == Some(true),
        |processor| {
            let hold = processor.vcpu.hold(gpa(1), Prot::W).unwrap();
            assert_eq!(hold.frame(), frame(1));
            Hold::release_written(hold) == HoldEnd::InPlace
        },
    ];
    for (find, writes) in finds.into_iter().zip([false, true]) {
        explore(1, move || {
            let site = small();
            let (processor, there) = (site.processor(), Arc::clone(&site));
            let (found, collapsed) = beside(|| find(&processor), move || collapse(&there));
            assert!(found);
            let leaf = site.space.table().pin().lookup(gpa(1)).unwrap();
            assert_eq!((leaf.frame_of(gpa(1)), site.space.resident()), (Some(frame(1)), TABLE));
            assert_eq!(leaf.size == LARGE, collapsed == Some(true));
            assert!(leaf.dirty || !writes);
            collapsed
        })
        .are(&[Some(true), None]);
    }
}
