//! Spaces: pages that are brought slowly, with no pin held, while the region goes, or another comes.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, Signal, beside, explore, frame, gpa,
    space::{Lot, PAGE, Site, Stopped, WRITTEN, resolved},
};
use slat::{
    Prot,
    mmu::{Access, Cause},
};

/// Makes a region of a page that has to be fetched; returns its backing, and another one.
fn away() -> (Arc<Site>, StdArc<Lot>, StdArc<Lot>) {
    let site = Site::new();
    let (old, new) = (site.lot(0), site.lot(1));
    old.send_away();
    site.map(old.clone());
    (Arc::new(site), old, new)
}

/// Faults beside a change; what is mapped in the end has to be what is there in the end. Returns what
/// came of the fault, and whether anything is mapped.
fn fault_beside(
    (site, old, new): &(Arc<Site>, StdArc<Lot>, StdArc<Lot>),
    change: impl FnOnce(&Site, StdArc<Lot>) + Send + 'static,
) -> (Result<(), Stopped>, bool) {
    let mut here = site.processor();
    let (there, next) = (Arc::clone(site), new.clone());
    let (fault, ()) = beside(
        || {
            let fault = resolved(here.fault(Prot::R));
            let _ = here.access(Access::READ);
            fault
        },
        move || change(&there, next),
    );
    let mapped = site.mapped();
    assert!(mapped.is_none_or(|mapped| mapped == frame(1)), "{mapped:?}");
    assert_eq!((old.answers(), new.answers()), (0, site.space.resident()));
    (fault, mapped.is_some())
}

#[test]
fn a_page_that_is_fetched_for_a_region_that_went_is_not_mapped() {
    explore(2, || fault_beside(&away(), |site, _| site.unmap()).0)
        .are(&[Ok(()), Err(Stopped::NoRegion)]);
}

#[test]
fn a_page_that_is_fetched_for_one_region_is_never_mapped_in_another() {
    explore(2, || {
        fault_beside(&away(), |site, new| {
            site.unmap();
            site.map(new);
        })
    })
    .are(&[(Ok(()), false), (Ok(()), true), (Err(Stopped::NoRegion), false)]);
}

#[test]
fn a_page_that_is_fetched_for_a_backing_that_was_replaced_is_not_mapped() {
    explore(2, || fault_beside(&away(), |site, new| site.replace(new))).are(&[
        (Ok(()), false),
        (Ok(()), true),
        (Err(Stopped::Retry), false),
    ]);
}

#[test]
fn a_page_is_fetched_by_one_of_two_faults() {
    explore(3, || {
        let (site, lot, _) = away();
        let (here, there) = (site.processor(), site.processor());
        let (one, (two, _there)) = beside(
            || resolved(here.fault(Prot::R)),
            move || (resolved(there.fault(Prot::R)), there),
        );
        assert_eq!((lot.fetches(), lot.answers(), site.space.resident()), (1, 1, 1));
        (one, two)
    })
    .are(&[(Ok(()), Ok(())), (Ok(()), Err(Stopped::Retry)), (Err(Stopped::Retry), Ok(()))]);
}

#[test]
fn who_waits_for_a_page_that_another_fetches_has_it() {
    explore(2, || {
        let (site, lot, _) = away();
        let (mut here, mut there) = (site.processor(), site.processor());
        let touch = |processor: &mut loom_tests::space::Processor| {
            processor.vcpu.fault_and_wait(gpa(PAGE), Prot::R).unwrap();
            processor.access(Access::READ).unwrap()
        };
        let (one, (two, _there)) = beside(|| touch(&mut here), move || (touch(&mut there), there));
        assert_eq!((one, two), (frame(0), frame(0)));
        assert_eq!((lot.fetches(), lot.answers(), site.space.resident()), (1, 1, 1));
    })
    .are(&[()]);
}

/// The reader knows the page by its caches.
#[test]
fn nobody_reads_the_page_that_was_copied_when_the_copy_is_written() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let (mut reader, mut writer) = (site.warm(Access::READ), site.processor());
        let signal = Arc::new(Signal::new());
        let written = Arc::clone(&signal);
        let ((after, reached), _writer) = beside(
            || {
                let after = signal.is_set();
                let reached = reader.access_with(Access::READ, |ram, reached| {
                    // The copy is being written.
                    if reached == frame(0) {
                        assert_eq!(ram.read(reached), 0);
                    }
                });
                (after, reached.ok())
            },
            move || {
                writer.vcpu.fault_and_wait(gpa(PAGE), Prot::W).unwrap();
                assert_eq!(writer.access(Access::WRITE), Ok(frame(1)));
                written.set();
                writer
            },
        );
        assert_eq!((base.answers(), pool.taken(), site.mapped()), (0, 1, Some(frame(1))));
        assert!(!(after && reached == Some(frame(0))), "the old page was read");
        (after, reached)
    })
    .are(&[
        (false, Some(frame(0))),
        (false, None),
        (false, Some(frame(1))),
        (true, Some(frame(1))),
    ]);
}

/// Cold: the reader may be told of the old page just before the copy begins.
#[test]
fn a_read_fault_beside_a_write_fault_maps_the_old_page_or_the_copy_and_the_copy_in_the_end() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let (mut reader, writer) = (site.processor(), site.processor());
        let (reached, _writer) = beside(
            || reader.touch(Access::READ),
            move || {
                writer.vcpu.fault_and_wait(gpa(PAGE), Prot::W).unwrap();
                writer
            },
        );
        assert_eq!((base.answers(), pool.taken(), site.mapped()), (0, 1, Some(frame(1))));
        reached
    })
    .are(&[Ok(frame(0)), Ok(frame(1)), Err(Stopped::Retry), Err(Stopped::Gone)]);
}

/// The fault has taken the page away, and not yet shot it down.
#[test]
fn nobody_reaches_a_page_of_a_backing_that_went_while_it_was_copied() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let (mut reader, writer) = (site.warm(Access::READ), site.processor());
        let (there, new) = (Arc::clone(&site), site.lot(3));
        let (fault, (reached, _reader)) = beside(
            || resolved(writer.fault(Prot::W)),
            move || {
                there.replace(new);
                (reader.access(Access::READ), reader)
            },
        );
        assert!(matches!(reached, Ok(reached) if reached == frame(3)) || reached.is_err());
        // A copy that was made, and never mapped, goes with the backing.
        assert_eq!((base.answers(), pool.taken()), (0, 0));
        fault.map(|()| reached)
    })
    .are(&[Ok(Ok(frame(3))), Ok(Err(Cause::NotPresent)), Err(Stopped::Retry)]);
}

/// The other was told to wait before.
#[test]
fn a_page_that_one_has_fetched_and_given_up_is_not_fetched_by_another() {
    explore(2, || {
        let (site, lot, _) = away();
        let (here, there) = (site.processor(), site.processor());
        let (one, (two, _there)) = beside(
            || {
                let fault = resolved(here.fault(Prot::R));
                let _ = site.discard();
                fault
            },
            move || (resolved(there.fault(Prot::R)), there),
        );
        // Nobody may have: if the discard comes between the other's claim and its fetch.
        assert!(lot.fetches() == 1 || lot.fetches() == 0 && one.is_err() && two.is_err());
        assert_eq!(lot.answers(), site.space.resident());
        (one, two)
    })
    .are(&[
        (Ok(()), Ok(())),
        (Ok(()), Err(Stopped::Retry)),
        (Err(Stopped::Retry), Ok(())),
        (Err(Stopped::Retry), Err(Stopped::Retry)),
    ]);
}

#[test]
fn a_copy_that_is_discarded_beside_a_fault_comes_back_once() {
    explore(2, || {
        let (site, base, pool) = Site::copy_on_write();
        let mut here = site.warm(Access::WRITE);
        let there = Arc::clone(&site);
        let (contents, discarded) = beside(
            || {
                resolved(here.fault(Prot::R)).map(|()| {
                    let mut contents = None;
                    let _ = here.access_with(Access::READ, |ram, reached| {
                        contents = Some((reached, ram.read(reached)));
                    });
                    contents
                })
            },
            move || there.discard(),
        );
        assert!(discarded);
        if let Ok(Some((reached, contents))) = contents {
            assert_eq!(contents, if reached == frame(0) { 0 } else { WRITTEN });
        }
        let mapped = site.mapped();
        assert!(mapped.is_none_or(|mapped| mapped == frame(0)), "{mapped:?}");
        assert_eq!((base.answers(), pool.taken()), (site.space.resident(), 0));
        (contents.map(|contents| contents.is_some()), mapped.is_some())
    })
    .are(&[
        (Ok(true), false),
        (Ok(true), true),
        (Ok(false), false),
        (Err(Stopped::Retry), false),
    ]);
}
