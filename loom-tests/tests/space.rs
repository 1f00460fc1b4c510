//! Spaces: faults beside each other, and beside changes of the region that they are in.
//!
//! A backing spoils what it gets back: a vCPU that still reaches it fails the model. So does a fault that
//! still reads a layout that was replaced, and freed.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, RWX, explore, frame, gpa, pages,
    sizes::TABLE,
    space::{PAGE, Processor, Site, Stopped, beside, resolved},
};
use slat::{Fault, FaultError, OnDemand, PageSize, Prot, mmu::Access};

#[test]
fn of_two_faults_on_a_page_both_are_resolved_and_one_frame_comes_back() {
    explore(3, || {
        let (site, pool) = Site::on_demand();
        let (mut here, mut there) = (site.processor(), site.processor());
        let touch = |processor: &mut Processor| {
            resolved(processor.fault(Prot::W)).unwrap();
            processor.access(Access::READ).unwrap()
        };
        let (one, (two, _there)) = beside(|| touch(&mut here), move || (touch(&mut there), there));
        assert_eq!(one, two);
        assert_eq!((site.space.resident(), pool.taken()), (1, 1));
        site.space.stats().lost
    })
    .are(&[0, 1]);
}

/// The backing counts its answers: both got the one frame.
#[test]
fn of_two_faults_on_a_page_that_is_always_one_frame_one_gives_it_back() {
    explore(3, || {
        let site = Site::new();
        let lot = site.lot(0);
        site.map(lot.clone());
        let (here, there) = (site.processor(), site.processor());
        let (one, (two, _there)) =
            beside(|| here.fault(Prot::R), move || (there.fault(Prot::R), there));
        assert_eq!((one.unwrap(), two.unwrap()), (Fault::Resolved, Fault::Resolved));
        assert_eq!((lot.answers(), site.space.resident()), (1, 1));
    })
    .are(&[()]);
}

/// Nobody should, but who does takes no frame along.
#[test]
fn a_fault_beside_a_vacate_of_its_table_gives_its_frame_back() {
    for region in [pages(PAGE, PAGE + 1), pages(0, TABLE)] {
        explore(3, move || {
            let site = Site::new();
            let pool = site.pool(0, 2);
            let backing = OnDemand::new(pool.clone(), region.pages(), PageSize::Size4K);
            site.space.map_region(region, StdArc::new(backing), 0, RWX).unwrap();
            let here = site.processor();
            let site = Arc::new(site);
            let there = Arc::clone(&site);
            let (fault, vacated) =
                beside(|| here.fault(Prot::R), move || there.space.table().vacate(region).is_ok());
            match fault {
                Ok(fault) => assert_eq!((fault, vacated), (Fault::Resolved, false)),
                Err(error) => {
                    assert!(matches!(error, FaultError::NotPopulated { .. }), "{error}");
                    assert!(vacated);
                }
            }
            assert_eq!(pool.taken(), u64::from(!vacated));
            vacated
        })
        .are(&[true, false]);
    }
}

#[test]
fn a_fault_beside_an_unmap_of_its_region_leaves_nothing_behind() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let mut here = site.processor();
        let there = Arc::clone(&site);
        let (reached, ()) = beside(|| here.touch(Access::READ), move || there.unmap());
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        reached.map(drop)
    })
    .are(&[Ok(()), Err(Stopped::NoRegion), Err(Stopped::Gone)]);
}

/// Its caches know the page from before.
#[test]
fn a_vcpu_reaches_nothing_of_a_region_that_is_gone() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let mut here = site.warm(Access::READ);
        let there = Arc::clone(&site);
        let (reached, ()) = beside(|| here.touch(Access::READ), move || there.unmap());
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        reached.map(drop)
    })
    .are(&[Ok(()), Err(Stopped::NoRegion)]);
}

#[test]
fn what_is_mapped_beside_a_replacement_is_of_the_new_backing_in_the_end() {
    explore(2, || {
        let site = Site::new();
        let (old, new) = (site.lot(0), site.lot(1));
        site.map(old.clone());
        let mut here = site.processor();
        let site = Arc::new(site);
        let (there, next) = (Arc::clone(&site), new.clone());
        let (fault, ()) = beside(
            || {
                let fault = resolved(here.fault(Prot::R));
                let _ = here.access(Access::READ);
                fault
            },
            move || {
                there.replace(next);
                assert_eq!(old.answers(), 0, "the old backing has not got back what it gave");
            },
        );
        let mapped = site.mapped();
        assert!(mapped.is_none_or(|mapped| mapped == frame(1)), "{mapped:?}");
        assert_eq!(new.answers(), site.space.resident());
        (fault, mapped.is_some())
    })
    .are(&[(Ok(()), true), (Ok(()), false), (Err(Stopped::Retry), false)]);
}

/// The guest knows the page of the old backing.
#[test]
fn a_vcpu_reaches_the_old_backing_or_the_new_one_and_never_back() {
    explore(2, || {
        let site = Site::new();
        let (old, new) = (site.lot(0), site.lot(1));
        site.map(old.clone());
        let mut here = site.warm(Access::READ);
        let site = Arc::new(site);
        let there = Arc::clone(&site);
        let (reached, ()) = beside(
            || [here.touch(Access::READ), here.touch(Access::READ)],
            move || {
                there.replace(new);
                assert_eq!(old.answers(), 0, "the old backing has not got back what it gave");
            },
        );
        if reached[0] != Ok(frame(0)) {
            assert_ne!(reached[1], Ok(frame(0)));
        }
        reached[1]
    })
    .are(&[Ok(frame(0)), Ok(frame(1)), Err(Stopped::Retry)]);
}

#[test]
fn a_fault_sees_a_region_that_is_made_whole_or_not_at_all() {
    explore(3, || {
        let site = Site::new();
        let (first, other) = (site.lot(0), site.lot(1));
        site.map(first);
        let here = site.processor();
        let site = Arc::new(site);
        let there = Arc::clone(&site);
        let after = pages(PAGE + 1, PAGE + 2);
        let (fault, ()) = beside(
            || resolved(here.vcpu.fault(gpa(PAGE + 1), Prot::R)),
            move || there.space.map_region(after, other, 0, RWX).unwrap(),
        );
        assert_eq!(site.space.resident(), u64::from(fault.is_ok()));
        fault
    })
    .are(&[Ok(()), Err(Stopped::NoRegion)]);
}

#[test]
fn a_fault_goes_on_beside_an_unmap_of_another_region() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let other = pages(PAGE + 1, PAGE + 2);
        site.space.map_region(other, site.lot(3), 0, RWX).unwrap();
        let mut here = site.processor();
        let there = Arc::clone(&site);
        let (reached, ()) =
            beside(|| here.touch(Access::READ), move || there.space.unmap_region(other).unwrap());
        assert_eq!((site.space.resident(), pool.taken()), (1, 1));
        reached
    })
    .are(&[Ok(frame(0))]);
}
