//! What is read is what was written: memory on demand, copies, and pages that somebody else supplies.

use std::{
    sync::{Arc, Barrier},
    thread,
};

use slat::{BackingError, Contiguous, CopyOnWrite, FaultError, OnDemand, Prot, Supplied, Supplier};

use crate::{
    common::{GIB, MIB, PAGE, SMALL, at, every_format, range},
    rig::{Audited, Memory, Rig, WRITE, go_on, nth, part, refused},
};

/// Supplies what is asked for: page numbers, from `first` on.
fn serve(memory: &Memory, supplier: &Supplier, first: u64) {
    while let Some(request) = supplier.next_request() {
        memory.write(request.frame, first + request.page);
        supplier.supply(request.page).unwrap();
    }
}

every_format! {
    #![and_without_bits]
    fn memory_on_demand_holds_what_was_written(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(2 * MIB - 30 * PAGE, 60 * PAGE);
        let mut cpus = [rig.cpu(), rig.cpu()];
        for round in 0..3 {
            for page in 0..60 {
                cpus[page as usize % 2].writes(nth(area, page), 100 * round + page);
            }
            for page in 0..60 {
                cpus[(page as usize + 1) % 2].reads(nth(area, page), 100 * round + page);
            }
        }
        assert_eq!((backing.counts().given, rig.resident()), (60, 60));
        rig.audit();
    }

    fn a_copy_is_private_and_its_base_is_everybodys(format: impl Format) {
        let (one, two) = (Rig::new(format), Rig::new(format));
        let area = range(GIB - 8 * PAGE, 16 * PAGE);
        // Both see the frames of the first one's host.
        let host = Arc::clone(&one.memory);
        let shared = host.fixed(16);
        (0..16).for_each(|page| host.write(shared.checked_add(page).unwrap(), 500 + page));
        let base = Audited::over(Contiguous::new(shared, 16).unwrap());
        let views: Vec<_> = [&one, &two]
            .into_iter()
            .map(|rig| {
                let base = Arc::clone(&base) as Arc<dyn slat::Backing>;
                let view = Audited::over(CopyOnWrite::new(base, Arc::clone(&host) as _));
                rig.map(area, &view);
                view
            })
            .collect();
        let mut first = one.cpu();
        let mut second = two.cpu_on(&host);
        for page in 0..16 {
            first.reads(nth(area, page), 500 + page);
            second.reads(nth(area, page), 500 + page);
        }
        for page in (0..16).step_by(2) {
            first.writes(nth(area, page), page);
            second.writes(nth(area, page + 1), 1000 + page);
        }
        for page in 0..16 {
            first.reads(nth(area, page), if page % 2 == 0 { page } else { 500 + page });
            second.reads(nth(area, page), if page % 2 == 1 { 999 + page } else { 500 + page });
            assert_eq!(host.read(shared.checked_add(page).unwrap()), 500 + page);
        }
        one.audit();
        two.audit();
        // A copy that is given up is the base's again.
        assert_eq!(one.discard(part(area, 0, 4)), Ok(4));
        first.reads(nth(area, 2), 502);
        first.reads(nth(area, 4), 4);
        // A page that is written before it was ever read.
        one.discard(area).unwrap();
        first.access(nth(area, 9), WRITE, |memory, pfn| memory.add(pfn, 1)).unwrap();
        first.reads(nth(area, 9), 510);
        one.audit();
        drop((first, second));
        one.clear();
        two.clear();
        views.iter().for_each(|view| view.check());
        base.check();
    }

    fn many_that_write_to_one_page_share_one_copy(format: impl Format) {
        const PAGES: u64 = 60;
        let rig = Rig::new(format);
        let area = range(GIB, PAGES * PAGE);
        let base = Contiguous::new(rig.memory.fixed(PAGES), PAGES).unwrap();
        let view = CopyOnWrite::new(Arc::new(base), Arc::clone(&rig.memory) as _);
        let view = Audited::over(view);
        rig.map(area, &view);
        for page in 0..PAGES {
            rig.memory.write(rig.memory.fixed(PAGES).checked_add(page).unwrap(), 10);
        }
        let barrier = &Barrier::new(3);
        thread::scope(|scope| {
            for thread in 0..3 {
                let mut cpu = rig.cpu();
                scope.spawn(move || {
                    for page in 0..PAGES {
                        if thread == page % 4 {
                            let _ = cpu.read(nth(area, page));
                        }
                        barrier.wait();
                        cpu.access(nth(area, page), WRITE, |memory, pfn| memory.add(pfn, 1))
                            .unwrap();
                    }
                });
            }
        });
        let mut cpu = rig.cpu();
        for page in 0..PAGES {
            cpu.reads(nth(area, page), 13);
        }
        assert_eq!(rig.memory.free() + PAGES, crate::rig::DATA);
        rig.audit();
    }

    fn a_copy_for_which_there_is_no_frame_leaves_the_base(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        let base = Contiguous::new(rig.memory.fixed(4), 4).unwrap();
        let view = CopyOnWrite::new(Arc::new(base), Arc::clone(&rig.memory) as _);
        rig.map(area, &Audited::over(view));
        rig.memory.write(rig.memory.fixed(4), 5);
        let mut cpu = rig.cpu();
        cpu.reads(GIB, 5);
        let all = rig.memory.leave(0);
        for _ in 0..3 {
            refused!(cpu.write(GIB, 6), FaultError::Backing { .. });
            cpu.reads(GIB, 5);
            refused!(cpu.write(GIB + PAGE, 6), FaultError::Backing { .. });
            rig.audit();
        }
        drop(all);
        cpu.writes(GIB, 7);
        cpu.reads(GIB, 7);
        rig.audit();
    }

    fn pages_are_supplied_when_they_are_needed(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB - 8 * PAGE, 16 * PAGE);
        let first = rig.memory.fixed(16);
        let (backing, supplier) = Supplied::new(first, 16).unwrap();
        let backing = Audited::over(backing);
        rig.map(area, &backing);
        rig.memory.write(first, 70);
        supplier.supply(0).unwrap();
        thread::scope(|scope| {
            let host = &rig.memory;
            let serving = scope.spawn(|| {
                let served = supplier;
                // Ten pages, and then no more.
                for _ in 0..10 {
                    let request = served.next_request().unwrap();
                    host.write(request.frame, 70 + request.page);
                    served.supply(request.page).unwrap();
                }
                served
            });
            let cpus: Vec<_> = (0..2)
                .map(|_| {
                    let mut cpu = rig.cpu();
                    scope.spawn(move || {
                        for page in 0..11 {
                            cpu.reads(nth(area, page), 70 + page);
                            cpu.writes(nth(area, page), 70 + page);
                        }
                    })
                })
                .collect();
            cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
            let supplier = serving.join().unwrap();
            // Unasked, and by range.
            (11..14).for_each(|page| host.write(first.checked_add(page).unwrap(), 70 + page));
            supplier.supply_range(11..14).unwrap();
            let failing = scope.spawn(move || {
                let request = supplier.next_request().unwrap();
                supplier.fail(request.page, BackingError::new("lost")).unwrap();
                supplier
            });
            let mut cpu = rig.cpu();
            refused!(cpu.read(nth(area, 14)), FaultError::Backing { .. });
            drop(failing.join().unwrap());
            refused!(cpu.read(nth(area, 15)), FaultError::Backing { .. });
            for page in 0..14 {
                cpu.reads(nth(area, page), 70 + page);
            }
        });
        assert_eq!(rig.resident(), 14);
        // It stays supplied.
        rig.discard(part(area, 3, 2)).unwrap();
        rig.cpu().reads(nth(area, 3), 73);
        rig.audit();
    }

    fn a_prefault_waits_for_every_page_that_is_supplied(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 40 * PAGE);
        let (backing, supplier) = Supplied::new(rig.memory.fixed(40), 40).unwrap();
        let backing = Audited::over(backing);
        rig.map(area, &backing);
        thread::scope(|scope| {
            let memory = &*rig.memory;
            scope.spawn(move || {
                for _ in 0..40 {
                    let request = supplier.next_request().unwrap();
                    memory.write(request.frame, 5 + request.page);
                    supplier.supply(request.page).unwrap();
                }
            });
            assert_eq!(rig.prefault(area, go_on).unwrap(), 40);
        });
        let mut cpu = rig.cpu();
        (0..40).for_each(|page| cpu.reads(nth(area, page), 5 + page));
        rig.audit();
    }

    fn a_copy_of_what_is_supplied_is_fetched_once(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 16 * PAGE);
        let first = rig.memory.fixed(16);
        let (base, supplier) = Supplied::new(first, 16).unwrap();
        let view = CopyOnWrite::new(Arc::new(base), Arc::clone(&rig.memory) as _);
        let view = Audited::over(view);
        rig.map(area, &view);
        thread::scope(|scope| {
            let memory = &*rig.memory;
            let serving = scope.spawn(move || {
                serve(memory, &supplier, 300);
            });
            let cpus: Vec<_> = (0..2)
                .map(|thread| {
                    let mut cpu = rig.cpu();
                    scope.spawn(move || {
                        for page in 0..16 {
                            // One only reads a page that the other writes.
                            if page % 2 == thread {
                                cpu.access(nth(area, page), WRITE, |memory, pfn| memory.add(pfn, 1000))
                                    .unwrap();
                            } else {
                                let word = cpu.read(nth(area, page)).unwrap();
                                assert!([300 + page, 1300 + page].contains(&word), "{word}");
                            }
                        }
                    })
                })
                .collect();
            for cpu in cpus {
                cpu.join().unwrap();
            }
            let mut cpu = rig.cpu();
            (0..16).for_each(|page| cpu.reads(nth(area, page), 1300 + page));
            // The base goes with the last view, and with it whoever waits for requests.
            rig.clear();
            rig.forget();
            drop(view);
            serving.join().unwrap();
        });
        for page in 0..16 {
            assert_eq!(rig.memory.read(first.checked_add(page).unwrap()), 300 + page);
        }
    }

    fn pages_of_two_regions_may_be_of_one_backing(format: impl Format) {
        let rig = Rig::new(format);
        let backing = Audited::over(Contiguous::new(rig.memory.fixed(8), 8).unwrap());
        let (low, high) = (range(GIB, 8 * PAGE), range(5 * GIB, 4 * PAGE));
        rig.map(low, &backing);
        rig.map_region(high, rig.watch(&backing), 2 * PAGE, crate::common::RWX).unwrap();
        let mut cpu = rig.cpu();
        (0..4).for_each(|page| cpu.writes(nth(high, page), page + 1));
        (0..4).for_each(|page| cpu.reads(nth(low, page + 2), page + 1));
        rig.unmap(high);
        (0..4).for_each(|page| cpu.reads(nth(low, page + 2), page + 1));
        // Two regions of one pool share its frames, and no page.
        let pool = || Audited::over(OnDemand::new(Arc::clone(&rig.memory) as _, 8, SMALL));
        rig.map(high, &pool());
        rig.map(range(6 * GIB, 8 * PAGE), &pool());
        cpu.writes(nth(high, 1), 1);
        cpu.reads(6 * GIB + PAGE, 0);
        assert_ne!(rig.frame(nth(high, 1)), rig.frame(6 * GIB + PAGE));
        assert_eq!(cpu.vcpu.fault(at(6 * GIB), Prot::RWX).unwrap(), slat::Fault::Resolved);
        rig.audit();
    }
}
