//! Spaces: faults, holds and looks beside changes of regions, and changes beside each other.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, End, RWX, beside, explore, gpa, no_kick, pages, pair,
    space::{Lot, PAGE, Processor, Site, WRITTEN},
};
use slat::{FaultError, Hold, HoldEnd, OnDemand, PageSize, Prot, SLOTS, Tracking, mmu::Access};

/// A change of the region; tells whether it was there to be changed.
///
/// The backing is for those that want one.
type Change = fn(&Site, StdArc<Lot>) -> bool;

fn region() -> slat::GpaRange {
    pages(PAGE, PAGE + 1)
}

fn unmap(site: &Site, _: StdArc<Lot>) -> bool {
    site.space.unmap_region(region()).is_ok()
}

fn replace(site: &Site, other: StdArc<Lot>) -> bool {
    site.space.replace_backing(region(), other, 0).is_ok()
}

fn discard(site: &Site, _: StdArc<Lot>) -> bool {
    site.space.discard(region()).is_ok()
}

fn restrict(site: &Site, _: StdArc<Lot>) -> bool {
    site.space.protect_region(region(), Prot::R).is_ok()
}

/// Looks the page up and reads its frame, under one pin.
fn read(site: &Site, processor: &Processor) -> Option<u64> {
    let pin = processor.vcpu.reader().pin();
    let leaf = pin.lookup(gpa(PAGE))?;
    Some(site.ram.read(leaf.pfn))
}

/// How the space stands when all is over: its table, how many pages are resident, and how many regions there are.
fn end(site: &Site) -> (End, u64, u64) {
    (End::of(site.space.table()), site.space.resident(), site.space.stats().regions)
}

fn is_allowed<T>(result: Result<T, FaultError>) -> bool {
    match result {
        Ok(_) => true,
        Err(FaultError::NoRegion { .. } | FaultError::Denied { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_frame_that_was_looked_up_is_as_good_as_the_pin_beside_a_change() {
    for change in [unmap as Change, replace, discard] {
        explore(2, move || {
            let (site, pool) = Site::on_demand();
            let processor = site.warm(Access::WRITE);
            let (there, other) = (Arc::clone(&site), site.lot(3));
            let (found, changed) =
                beside(|| read(&site, &processor), move || change(&there, other));
            assert!(changed);
            assert_eq!((site.space.resident(), pool.taken()), (0, 0));
            found
        })
        .are(&[Some(WRITTEN), None]);
    }
}

#[test]
fn a_frame_that_was_looked_up_is_as_good_as_the_pin_beside_a_copy() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let (processor, writer) = (site.warm(Access::READ), site.processor());
        let (found, _writer) = beside(
            || read(&site, &processor),
            move || {
                writer.vcpu.fault_and_wait(gpa(PAGE), Prot::W).unwrap();
                writer
            },
        );
        assert_eq!((base.answers(), pool.taken()), (0, 1));
        found
    })
    .are(&[Some(0), None]);
}

/// The fault may have taken the page away, to copy it, when the region goes.
#[test]
fn a_fault_that_copies_a_page_beside_an_unmap_of_its_region_leaves_nothing_behind() {
    explore(1, || {
        let (site, base, pool) = Site::copy_on_write();
        let (mut reader, writer) = (site.warm(Access::READ), site.processor());
        let (there, other) = (Arc::clone(&site), site.lot(3));
        let (fault, unmapped) =
            beside(|| is_allowed(writer.fault(Prot::W)), move || unmap(&there, other));
        assert!(unmapped && reader.access(Access::READ).is_err());
        assert_eq!((base.answers(), pool.taken(), site.space.resident()), (0, 0, 0));
        fault
    })
    .are(&[true, false]);
}

/// Both wait for pins, under stamps that they take from one count.
#[test]
fn a_table_that_is_retired_beside_a_replacement_is_freed_and_the_old_page_comes_back() {
    let next = || pages(SLOTS as u64, 2 * SLOTS as u64);
    pair(2, move |play| {
        let (site, pool) = Site::on_demand();
        site.space.table().populate(next(), PageSize::Size4K).unwrap();
        let processor = site.warm(Access::WRITE);
        let (there, other) = (Arc::clone(&site), site.lot(3));
        let vacate = || site.space.table().vacate(next()).is_ok();
        let said = play.beside(vacate, move || replace(&there, other));
        assert!(said.1.is_none() || pool.taken() == 0);
        while site.space.table().reclaim(&no_kick).waiting > 0 {}
        drop(processor);
        (said, end(&site))
    })
    .as_in_turn();
}

#[test]
fn a_page_that_is_mapped_beside_a_change_of_its_regions_rights_has_no_more_than_they_are() {
    pair(2, |play| {
        let (site, _pool) = Site::on_demand();
        let (processor, there) = (site.processor(), Arc::clone(&site));
        let other = site.lot(3);
        let fault = || is_allowed(processor.fault(Prot::W));
        (play.beside(fault, move || restrict(&there, other)), end(&site))
    })
    .as_in_turn();
}

#[test]
fn a_hold_beside_a_change_of_its_regions_rights_is_allowed_or_denied() {
    explore(2, || {
        let (site, _pool) = Site::on_demand();
        let (processor, there) = (site.processor(), Arc::clone(&site));
        let other = site.lot(3);
        let (held, ()) = beside(
            || is_allowed(processor.vcpu.hold(gpa(PAGE), Prot::W).map(Hold::release)),
            move || assert!(restrict(&there, other)),
        );
        let leaf = site.space.table().pin().lookup(gpa(PAGE));
        assert!(leaf.is_none_or(|leaf| leaf.attr.prot() == Prot::R));
        assert!(!is_allowed(processor.vcpu.hold(gpa(PAGE), Prot::W)));
        held
    })
    .are(&[true, false]);
}

#[test]
fn a_hold_and_a_fault_on_a_page_share_its_frame() {
    pair(2, |play| {
        let (site, pool) = Site::on_demand();
        let (device, other) = (site.processor(), site.processor());
        let hold = || device.hold(Prot::W).map(Hold::release_written);
        let fault = move || (is_allowed(other.fault(Prot::R)), other).0;
        let (held, fault) = play.beside(hold, fault);
        assert_eq!(pool.taken(), 1);
        assert!(held.is_none_or(|held| held == Ok(HoldEnd::InPlace)));
        (fault, end(&site))
    })
    .as_in_turn();
}

#[test]
fn a_fault_beside_a_reclaim_of_its_regions_tables_finds_no_region() {
    pair(2, |play| {
        let (site, _pool) = Site::on_demand();
        let (processor, there) = (site.processor(), Arc::clone(&site));
        let other = site.lot(3);
        let fault = || is_allowed(processor.fault(Prot::R));
        let change =
            move || (unmap(&there, other), there.space.table().reclaim(&no_kick).waiting).0;
        (play.beside(fault, change), end(&site))
    })
    .as_in_turn();
}

/// A written release makes a leaf dirty, if that is of the frame that was written.
#[test]
fn what_a_device_wrote_beside_a_change_goes_with_its_frame() {
    for change in [unmap as Change, replace] {
        pair(2, move |play| {
            let (site, pool) = Site::on_demand();
            let device = site.processor();
            let hold = device.hold(Prot::W).unwrap();
            let (there, other) = (Arc::clone(&site), site.lot(3));
            let release = || {
                site.ram.write(hold.frame(), WRITTEN);
                hold.release_written() == HoldEnd::InPlace
            };
            let said = play.beside(release, move || change(&there, other));
            (said, site.space.resident(), pool.taken())
        })
        .as_in_turn();
    }
}

#[test]
fn a_release_of_a_written_page_and_a_write_of_the_guest_make_it_dirty() {
    pair(2, |play| {
        let (site, _pool) = Site::on_demand();
        let (device, mut guest) = (site.processor(), site.processor());
        site.space.track_dirty(Tracking::On).unwrap();
        let hold = device.hold(Prot::W).unwrap();
        let write = move || guest.access_with(Access::WRITE, |_, _| ()).map(drop);
        let said = play.beside(|| hold.release_written(), write);
        (said, end(&site))
    })
    .as_in_turn();
}

/// The second page comes or goes; the first one is the region's before and after.
#[test]
fn a_fault_beside_a_change_of_its_regions_size_is_of_the_region_or_of_none() {
    let sizes = [1, 2].map(|count| pages(PAGE, PAGE + count));
    for [before, after] in [[sizes[1], sizes[0]], sizes] {
        pair(2, move |play| {
            let site = Site::new();
            let pool = site.pool(0, 2);
            let backing = OnDemand::new(pool.clone(), 2, PageSize::Size4K);
            site.space.map_region(before, StdArc::new(backing), 0, RWX).unwrap();
            let site = Arc::new(site);
            let (processor, there) = (site.processor(), Arc::clone(&site));
            let fault = || is_allowed(processor.vcpu.fault(gpa(PAGE + 1), Prot::W));
            let said = play.beside(fault, move || there.space.resize_region(before, after).is_ok());
            assert_eq!(pool.taken(), site.space.resident());
            (said, end(&site))
        })
        .as_in_turn();
    }
}

/// One change at a time.
#[test]
fn two_changes_of_a_region_come_to_what_they_come_to_in_turn() {
    let changes: [Change; 7] = [
        unmap,
        replace,
        discard,
        restrict,
        |site, _| site.space.track_dirty(Tracking::On).is_ok(),
        |site, _| {
            let mut found = slat::Bitmap::new(region());
            site.space.dirty(region(), &mut found).is_ok_and(|pages| pages == 1)
        },
        |site, other| site.space.map_region(region(), other, 0, RWX).is_ok(),
    ];
    for (index, &one) in changes.iter().enumerate() {
        for &two in &changes[index..] {
            pair(3, move |play| {
                let (site, pool) = Site::on_demand();
                let processor = site.warm(Access::WRITE);
                let (there, lots) = (Arc::clone(&site), [site.lot(3), site.lot(4)]);
                let [here, other] = lots;
                let said = play.beside(|| one(&site, here), move || two(&there, other));
                drop(processor);
                (said, pool.taken(), end(&site))
            })
            .as_in_turn();
        }
    }
}
