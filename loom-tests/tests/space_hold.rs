//! Spaces: pages that a device holds, beside what takes them away.
//!
//! A frame that is given back is spoiled: before its hold is released that fails the model.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, beside, explore, frame, gpa, pages,
    space::{PAGE, Processor, Site, Stopped},
};
use slat::{FaultError, HoldEnd, HostPfn, OnDemand, PageSize, Prot, mmu::Access};

/// Holds the page for a moment, and reads it; returns its frame, and what became of it.
fn read_held(site: &Site, device: &Processor) -> Result<(HostPfn, HoldEnd), Stopped> {
    let hold = device.hold(Prot::R)?;
    let frame = hold.frame();
    assert_eq!(hold.gpa(), gpa(PAGE));
    let _ = site.ram.read(frame);
    Ok((frame, hold.release()))
}

#[test]
fn a_page_that_is_held_beside_an_unmap_of_its_region_comes_back_once_and_last() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let device = site.processor();
        let there = Arc::clone(&site);
        let (end, ()) = beside(|| read_held(&site, &device), move || there.unmap());
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        end.map(|(_, end)| end)
    })
    .are(&[Ok(HoldEnd::InPlace), Ok(HoldEnd::RegionGone), Err(Stopped::NoRegion)]);
}

#[test]
fn a_hold_that_is_released_beside_an_unmap_of_its_region_says_if_that_is_gone() {
    explore(3, || {
        let (site, pool) = Site::on_demand();
        let device = site.processor();
        let hold = device.hold(Prot::R).unwrap();
        let there = Arc::clone(&site);
        let ((was_gone, end), ()) = beside(
            || {
                let was_gone = hold.is_gone();
                let _ = site.ram.read(hold.frame());
                (was_gone, hold.release())
            },
            move || there.unmap(),
        );
        assert!(!was_gone || end == HoldEnd::RegionGone);
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        end
    })
    .are(&[HoldEnd::InPlace, HoldEnd::RegionGone]);
}

#[test]
fn a_page_that_is_held_beside_a_replacement_is_of_the_backing_that_it_says() {
    explore(2, || {
        let site = Site::new();
        let (old, new) = (site.lot(0), site.lot(1));
        site.map(old.clone());
        let device = site.processor();
        let site = Arc::new(site);
        let (there, next) = (Arc::clone(&site), new.clone());
        let (end, ()) = beside(|| read_held(&site, &device), move || there.replace(next));
        let (held, end) = end.unwrap();
        assert_eq!((old.answers(), new.answers()), (0, site.space.resident()));
        (held == frame(1), end)
    })
    // Moved: unmapped, and the backing not yet gone for good.
    .are(&[
        (false, HoldEnd::InPlace),
        (false, HoldEnd::Moved),
        (false, HoldEnd::RegionGone),
        (true, HoldEnd::InPlace),
    ]);
}

#[test]
fn a_page_that_is_held_beside_a_discard_stays_readable() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let device = site.processor();
        let hold = device.hold(Prot::RW).unwrap();
        let there = Arc::clone(&site);
        let (end, discarded) = beside(
            || {
                site.ram.write(hold.frame(), 7);
                hold.release_written()
            },
            move || there.discard(),
        );
        assert!(discarded);
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        end
    })
    .are(&[HoldEnd::InPlace, HoldEnd::Moved]);
}

/// Who has held the page for reading reads what was copied, also while it is copied.
#[test]
fn a_page_that_is_held_beside_a_copy_of_it_is_the_old_one_until_released_or_the_copy() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let (device, writer) = (site.warm(Access::READ), site.processor());
        let (end, _writer) = beside(
            || read_held(&site, &device),
            move || {
                writer.vcpu.fault_and_wait(gpa(PAGE), Prot::W).unwrap();
                writer
            },
        );
        assert_eq!((base.answers(), pool.taken(), site.mapped()), (0, 1, Some(frame(1))));
        let (held, end) = end.unwrap();
        (held == frame(0), end)
    })
    .are(&[(true, HoldEnd::InPlace), (true, HoldEnd::Moved), (false, HoldEnd::InPlace)]);
}

/// Nobody looks for dirty pages: writes are not tracked.
#[test]
fn a_page_that_was_left_to_the_next_look_comes_back_with_its_region() {
    explore(1, || {
        let (site, pool) = Site::on_demand();
        let device = site.processor();
        device.hold(Prot::W).unwrap().defer_written();
        site.unmap();
        assert_eq!(pool.taken(), 0);
    })
    .are(&[()]);
}

#[test]
fn of_two_holds_on_a_page_the_last_one_gives_it_back() {
    explore(2, || {
        let (site, pool) = Site::on_demand();
        let (device, other) = (site.processor(), site.processor());
        let (one, two) = (device.hold(Prot::R).unwrap(), other.hold(Prot::R).unwrap());
        site.unmap();
        let (there, count) = (Arc::clone(&site), StdArc::clone(&pool));
        assert!(count.taken() == 1 && one.is_gone() && two.is_gone());
        let (one, two) = beside(
            || {
                let _ = site.ram.read(one.frame());
                one.release()
            },
            move || {
                let _ = there.ram.read(two.frame());
                two.release()
            },
        );
        drop(other);
        assert_eq!(pool.taken(), 0);
        (one, two)
    })
    .are(&[(HoldEnd::RegionGone, HoldEnd::RegionGone)]);
}

/// Its frame is still held, or it may be mapped there again: with other contents, which nobody wrote.
#[test]
fn a_page_that_was_discarded_while_it_was_held_has_moved_whichever_frame_it_has_by_then() {
    for (frames, outcomes) in [(1, &[true, false][..]), (2, &[true])] {
        explore(2, move || {
            let site = Site::new();
            let pool = site.pool(0, frames);
            site.map(StdArc::new(OnDemand::new(pool, 1, PageSize::Size4K)));
            let (device, other) = (site.processor(), site.processor());
            let hold = device.hold(Prot::W).unwrap();
            assert!(site.discard());
            let (end, (came, _other)) = beside(
                || {
                    site.ram.write(hold.frame(), 7);
                    hold.release_written()
                },
                move || (other.fault(Prot::R).is_ok(), other),
            );
            assert_eq!(end, HoldEnd::Moved);
            assert!(site.space.table().pin().lookup(gpa(PAGE)).is_none_or(|leaf| !leaf.dirty));
            came
        })
        .are(outcomes);
    }
}

/// Leaves have for a while what their region has lost.
#[test]
fn who_was_denied_a_page_by_its_region_cannot_hold_it() {
    explore(2, || {
        let (site, _pool) = Site::on_demand();
        let device = site.warm(Access::WRITE);
        let there = Arc::clone(&site);
        let (said, ()) = beside(
            || {
                let denied = matches!(device.fault(Prot::W), Err(FaultError::Denied { .. }));
                (denied, device.vcpu.hold(gpa(PAGE), Prot::W).is_ok())
            },
            move || there.space.protect_region(pages(PAGE, PAGE + 1), Prot::R).unwrap(),
        );
        assert_ne!(said, (true, true));
        said
    })
    .are(&[(false, true), (false, false), (true, false)]);
}
