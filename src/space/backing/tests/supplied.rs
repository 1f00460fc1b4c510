use std::{sync::Barrier, thread};

use super::*;

const FIRST: u64 = 0x1000;

fn supplied(pages: u64) -> (Supplied, Supplier) {
    Supplied::new(frame(FIRST), pages).unwrap()
}

/// Fetches the page on a thread of its own.
fn fetch_beside<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    backing: &'scope Supplied,
    page: u64,
) -> thread::ScopedJoinHandle<'scope, Result<(), BackingError>> {
    scope.spawn(move || backing.fetch(&read(page)))
}

#[test]
fn a_page_is_there_once_it_is_supplied() {
    let (backing, supplier) = supplied(130);
    assert_eq!((backing.pages(), supplier.pages()), (130, 130));
    for page in [0, 63, 64, 129] {
        waits(&backing.frame(&write(page)));
        assert!(!backing.is_supplied(page) && !supplier.is_supplied(page));
        supplier.supply(page).unwrap();
        assert!(backing.is_supplied(page) && supplier.is_supplied(page));
        let expected = frame(FIRST + page);
        assert_eq!(given(backing.frame(&write(page))), (expected, Prot::all()));
        assert_eq!(supplier.frame_of(page), Some(expected));
        backing.fetch(&read(page)).unwrap();
        // It stays so.
        backing.release(unmapped(page, expected));
        assert_eq!(given(backing.frame(&read(page))).0, expected);
    }
    assert_eq!((backing.supplied(), supplier.supplied()), (4, 4));
    waits(&backing.frame(&read(1)));
    assert_eq!(supplier.try_request(), None, "nobody waits for what was supplied unasked");
    smaller(&backing.frame(&Want::new(0, PageSize::Size2M, Prot::R)));
    assert_eq!(backing.largest(0, Gpa::new(0)), SMALL);
}

#[test]
fn there_is_nothing_beyond_the_end() {
    let (backing, supplier) = supplied(4);
    let end = BeyondEnd { page: 4, pages: 4 };
    assert_eq!(failed::<BeyondEnd>(backing.frame(&read(4))), end);
    assert_eq!(cause::<BeyondEnd>(&backing.fetch(&read(4)).unwrap_err()), end);
    assert_eq!(supplier.supply(4), Err(SupplyError::BeyondEnd(end)));
    assert_eq!(supplier.fail(4, BackingError::new("no")), Err(end.into()));
    let last = BeyondEnd { page: u64::MAX, pages: 4 };
    assert_eq!(supplier.supply(u64::MAX), Err(last.into()));
    assert_eq!(supplier.supply_range(2..6), Err(end.into()));
    assert_eq!(supplier.supply_range(7..9), Err(BeyondEnd { page: 7, pages: 4 }.into()));
    assert_eq!(supplier.frame_of(4), None);
    assert!(!supplier.is_supplied(4) && !backing.is_supplied(u64::MAX));
    assert_eq!(backing.supplied(), 0);
    let wraps = Supplied::new(frame(u64::MAX), 2).map(drop);
    assert_eq!(wraps, Err(FramesError::Wraps { first: frame(u64::MAX), pages: 2 }));
}

#[test]
fn a_page_is_supplied_once_and_a_range_as_a_whole() {
    let (backing, supplier) = supplied(200);
    supplier.supply(70).unwrap();
    let again = SupplyError::AlreadySupplied { page: 70 };
    assert_eq!(supplier.supply(70), Err(again));
    assert_eq!(supplier.fail(70, BackingError::new("late")), Err(again));
    assert_eq!(supplier.supply_range(60..80), Err(again));
    assert_eq!((backing.supplied(), backing.is_supplied(60)), (1, false));
    supplier.supply_range(3..3).unwrap();
    supplier.supply_range(71..200).unwrap();
    supplier.supply_range(0..70).unwrap();
    assert_eq!(backing.supplied(), 200);
    assert!((0..200).all(|page| backing.is_supplied(page)));
}

#[test]
fn a_page_is_asked_for_once_by_many() {
    let (backing, supplier) = supplied(4);
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| fetch_beside(scope, &backing, 2)).collect();
        let other = fetch_beside(scope, &backing, 1);
        let requests = [(); 2].map(|()| supplier.next_request().unwrap());
        let asked: BTreeSet<_> = requests.map(|request| request.page).into();
        assert_eq!(asked, BTreeSet::from([1, 2]));
        assert!(requests.iter().all(|r| Some(r.frame) == supplier.frame_of(r.page)));
        supplier.supply(1).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!(supplier.try_request(), None);
        supplier.supply(2).unwrap();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        assert_eq!(supplier.try_request(), None);
    });
}

#[test]
fn a_page_that_came_unasked_meanwhile_is_not_asked_for() {
    let (backing, supplier) = supplied(4);
    thread::scope(|scope| {
        let waiter = fetch_beside(scope, &backing, 0);
        while backing.waiters(0) != 1 {
            thread::yield_now();
        }
        supplier.supply_range(0..4).unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(supplier.try_request(), None);
}

#[test]
fn who_waits_for_a_page_that_fails_is_told_and_the_next_one_asks_again() {
    #[derive(Clone, Debug, PartialEq, thiserror::Error)]
    #[error("block {0} is bad")]
    struct BadBlock(u32);

    let (backing, supplier) = supplied(1);
    for round in 0..2 {
        thread::scope(|scope| {
            let waiters = [(); 2].map(|()| fetch_beside(scope, &backing, 0));
            assert_eq!(supplier.next_request().unwrap().page, 0);
            while backing.waiters(0) != 2 {
                thread::yield_now();
            }
            supplier.fail(0, BackingError::new(BadBlock(round))).unwrap();
            for waiter in waiters {
                let error = waiter.join().unwrap().unwrap_err();
                let failure: SupplyFailed = cause(&error);
                assert_eq!(failure.page, 0);
                assert_eq!(cause::<BadBlock>(&failure.error), BadBlock(round));
                let text = std::format!("page 0 could not be supplied: block {round} is bad");
                assert_eq!(std::format!("{error}"), text);
                let source = error.source().unwrap().downcast_ref::<BadBlock>();
                assert_eq!(source, Some(&BadBlock(round)));
            }
        });
        assert_eq!(supplier.try_request(), None);
        waits(&backing.frame(&read(0)));
    }
    // Nobody waits: nobody is told.
    supplier.fail(0, BackingError::new("unheard")).unwrap();
    supplier.supply(0).unwrap();
    backing.fetch(&read(0)).unwrap();
    assert!(backing.is_quiet());
}

#[test]
fn a_supplier_that_goes_fails_all_who_wait_and_all_who_come() {
    let (backing, supplier) = supplied(3);
    supplier.supply(2).unwrap();
    thread::scope(|scope| {
        let waiters = [0, 1].map(|page| fetch_beside(scope, &backing, page));
        assert!(supplier.next_request().is_some());
        drop(supplier);
        for (page, waiter) in (0..).zip(waiters) {
            let error = waiter.join().unwrap().unwrap_err();
            assert_eq!(cause::<SupplierGone>(&error).page, page);
        }
    });
    assert_eq!(cause::<SupplierGone>(&backing.fetch(&read(1)).unwrap_err()).page, 1);
    waits(&backing.frame(&read(1)));
    // What is there, is there.
    backing.fetch(&read(2)).unwrap();
    assert_eq!(given(backing.frame(&read(2))).0, frame(FIRST + 2));
}

#[test]
fn a_supplier_that_is_closed_ends_all_waits_also_for_requests() {
    let (backing, supplier) = supplied(3);
    thread::scope(|scope| {
        let served = scope.spawn(|| (supplier.next_request(), supplier.next_request()));
        let waiter = fetch_beside(scope, &backing, 1);
        while backing.waiters(1) != 1 {
            thread::yield_now();
        }
        supplier.close();
        assert_eq!(cause::<SupplierGone>(&waiter.join().unwrap().unwrap_err()).page, 1);
        let (first, second) = served.join().unwrap();
        assert!(first.is_none_or(|request| request.page == 1));
        assert_eq!(second, None);
    });
    assert_eq!(cause::<SupplierGone>(&backing.fetch(&read(0)).unwrap_err()).page, 0);
    assert_eq!((supplier.next_request(), supplier.try_request()), (None, None));
    // What was on its way still comes.
    supplier.supply(1).unwrap();
    backing.fetch(&read(1)).unwrap();
    assert_eq!(given(backing.frame(&read(1))).0, frame(FIRST + 1));
}

#[test]
fn a_supplier_learns_that_nobody_is_left() {
    let (backing, supplier) = supplied(1);
    thread::scope(|scope| {
        let served = scope.spawn(|| supplier.next_request());
        drop(backing);
        assert_eq!(served.join().unwrap(), None);
    });
    assert_eq!(supplier.next_request(), None);
    // It may go on, as a stream does that does not look.
    supplier.supply(0).unwrap();
}

/// Pages that are streamed in order, and pages that are asked for, by several threads each.
#[test]
fn every_page_is_supplied_once_and_every_request_handed_out_once() {
    // Without the standard library who waits spins, in the way of those who work.
    const PAGES: u64 = if cfg!(miri) || cfg!(not(feature = "std")) { 40 } else { 600 };
    const FAULTS: u64 = 3;
    let (backing, supplier) = supplied(PAGES);
    let requests = Mutex::new(Vec::new());
    let won = Mutex::new(0);
    let start = Barrier::new(6);
    thread::scope(|scope| {
        let (start, supplier, requests, won) = (&start, &supplier, &requests, &won);
        let supply = move |page| match supplier.supply(page) {
            Ok(()) => *won.lock() += 1,
            Err(error) => assert_eq!(error, SupplyError::AlreadySupplied { page }),
        };
        for _ in 0..2 {
            scope.spawn(move || {
                start.wait();
                while let Some(Request { page, .. }) = supplier.next_request() {
                    requests.lock().push(page);
                    supply(page);
                }
            });
        }
        scope.spawn(move || {
            start.wait();
            (0..PAGES).step_by(3).for_each(supply);
        });
        let backing = Arc::new(backing);
        for seed in 0..FAULTS {
            let backing = Arc::clone(&backing);
            scope.spawn(move || {
                start.wait();
                for i in 0..PAGES {
                    // Each in an order of its own: these have no divisor in common with the number of pages.
                    let page = (i * [7, 11, 13][seed as usize] + seed) % PAGES;
                    backing.fetch(&read(page)).unwrap();
                    assert_eq!(given(backing.frame(&read(page))).0, frame(FIRST + page));
                }
            });
        }
    });
    assert_eq!((*won.lock(), supplier.supplied()), (PAGES, PAGES));
    let requests = requests.lock();
    let distinct: BTreeSet<_> = requests.iter().collect();
    assert_eq!(distinct.len(), requests.len(), "a page was asked for twice");
}
