//! Collapse: leaves that follow on each other become one.

use std::sync::{
    Barrier,
    atomic::{AtomicBool, Ordering},
};
use std::thread;

use slat::{
    CollapseError, EncodeError, Format, FrameSource, Gpa, InsideGuest, Level, Mapping, PageSize,
    Prot, SoftBits, Tracking,
};

use crate::{
    FRAME, G1, LARGE, M2, STEPS,
    common::{
        Checked, GIB, MIB, PAGE, RWX, SMALL, Space, at, census, dump, every_format, pfn, range,
    },
    fresh, map, mapped, maps_on, nobody, room,
};

/// Where the leaf shall be.
const GPA: u64 = 4 * GIB;

/// A table with the small leaves of one large one.
fn full<F: Format>(format: F, below: PageSize) -> Checked<F> {
    let table = Checked::new(format, 16);
    mapped(&table, GPA, below, 512, FRAME);
    table
}

every_format! {
    /// Invariant 9.
    fn leaves_that_follow_on_each_other_become_one(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let (tables, free) = (census(&table).tables, table.source().free_frames());
            assert_eq!(table.stats().tables, tables);
            assert_eq!(table.collapse(at(GPA + 5 * PAGE), size, &nobody), Ok(()));
            assert_eq!(table.pin().lookup(at(GPA)), Some(fresh(GPA, size, FRAME)));
            maps_on(&table, GPA, size.bytes(), FRAME);
            assert_eq!((census(&table).tables, table.stats().tables), (tables - 1, tables - 1));
            table.reclaim(&nobody);
            assert_eq!((table.stats().waiting, table.source().free_frames()), (0, free + 1));
            // A leaf like any other.
            let (old, flush) = table.pin().unmap(at(GPA + PAGE)).unwrap();
            assert_eq!((old, flush.range()), (fresh(GPA, size, FRAME), Some(old.range())));
            assert_eq!(flush.scope(), slat::Scope::Leaves);
            drop(flush);
            map(&table.pin(), GPA, size, 2 * FRAME);
        }
    }

    fn it_keeps_every_attribute(format: impl Format) {
        for (size, below) in STEPS {
            for attr in [
                RWX.with_prot(Prot::R),
                RWX.with_prot(Prot::RX).with_soft(SoftBits::S1),
                RWX.with_soft(SoftBits::all()).with_mem_type(slat::MemType::UC),
            ] {
                let table = Checked::new(format, 16);
                let all = range(GPA, size.bytes());
                table.populate_mapped(all, below, pfn(FRAME), attr).unwrap();
                assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
                let whole = Mapping { attr, ..fresh(GPA, size, FRAME) };
                assert_eq!(table.pin().lookup(at(GPA)), Some(whole));
            }
        }
    }

    /// Invariant 2.
    fn it_is_accessed_or_dirty_if_a_leaf_was(format: impl Format) {
        for (size, below) in STEPS {
            for (one, other) in [(0, 511), (511, 0), (7, 300), (300, 300)] {
                for (accessed, dirty) in [(false, false), (true, false), (false, true), (true, true)] {
                    let table = full(format, below);
                    let pin = table.pin();
                    let slot = |index: u64| pin.slot(at(GPA + index * below.bytes())).unwrap();
                    let _ = (accessed && slot(one).set_accessed(), dirty && slot(other).set_dirty());
                    drop(pin);
                    assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
                    let whole = Mapping { accessed, dirty, ..fresh(GPA, size, FRAME) };
                    assert_eq!(table.pin().lookup(at(GPA)), Some(whole));
                }
            }
        }
    }

    fn a_page_that_is_not_mapped_is_named(format: impl Format) {
        for (size, below) in STEPS {
            let last = GPA + 511 * below.bytes();
            for gpa in [GPA, GPA + below.bytes(), GPA + 99 * below.bytes(), last] {
                let table = full(format, below);
                let _ = table.pin().unmap(at(last)).unwrap();
                let _ = table.pin().unmap(at(gpa));
                let before = dump(&table);
                let none = Err(CollapseError::NotMapped { gpa: at(gpa) });
                for inside in [GPA, last] {
                    assert_eq!(table.collapse(at(inside), size, &nobody), none);
                }
                assert!(dump(&table) == before);
                // Nor one without memory.
                table.vacate_pages(gpa, below.bytes());
                assert_eq!(table.collapse(at(GPA), size, &nobody), none);
            }
        }
    }

    fn where_no_table_is_nothing_is_mapped(format: impl Format) {
        let table = Checked::new(format, 16);
        room(&table, GIB, G1, 1);
        room(&table, 2 * GIB, M2, 1);
        let space = Space::of(&format);
        let before = dump(&table);
        for size in LARGE {
            for gpa in [0, GIB, 2 * GIB, 2 * GIB + 2 * MIB, space.last_page()] {
                let first = if size == G1 && gpa == 2 * GIB + 2 * MIB { 2 * GIB } else { gpa };
                let first = first / size.bytes() * size.bytes();
                let none = CollapseError::NotMapped { gpa: at(first) };
                assert_eq!(table.collapse(at(gpa), size, &nobody), Err(none), "{gpa:#x} {size:?}");
            }
            for gpa in space.outside().into_iter().map(Gpa::new) {
                let outside = Err(CollapseError::OutOfRange { gpa });
                assert_eq!(table.collapse(gpa, size, &nobody), outside);
            }
        }
        let bad = Err(EncodeError::BadSize(SMALL).into());
        assert_eq!(table.collapse(at(GIB), SMALL, &nobody), bad);
        assert!(dump(&table) == before);
    }

    fn leaves_of_a_smaller_size_yet_are_not_taken(format: impl Format) {
        let table = full(format, M2);
        let inside = GPA + 9 * M2.bytes();
        table.split(at(inside + PAGE), SMALL, &nobody).unwrap();
        let before = dump(&table);
        let none = Err(CollapseError::NotMapped { gpa: at(inside) });
        assert_eq!(table.collapse(at(GPA), G1, &nobody), none);
        assert!(dump(&table) == before);
        assert_eq!(table.collapse(at(inside), M2, &nobody), Ok(()));
        assert_eq!(table.collapse(at(GPA), G1, &nobody), Ok(()));
    }

    fn a_leaf_that_does_not_follow_on_is_named(format: impl Format) {
        for (size, below) in STEPS {
            for index in [1, 77, 511] {
                let gpa = GPA + index * below.bytes();
                let frame = FRAME + index * below.pages();
                let attr = RWX.with_soft(SoftBits::S0);
                for (frame, attr) in [(frame + below.pages(), RWX), (FRAME, RWX), (frame, attr)] {
                    let table = full(format, below);
                    let _ = table.pin().unmap(at(gpa)).unwrap();
                    table.pin().map(at(gpa), pfn(frame), below, attr).unwrap();
                    let before = dump(&table);
                    let uneven = Err(CollapseError::Uneven { gpa: at(gpa) });
                    assert_eq!(table.collapse(at(GPA), size, &nobody), uneven);
                    assert!(dump(&table) == before);
                }
                let table = full(format, below);
                let _ = table.pin().protect(range(gpa, below.bytes()), Prot::R).unwrap();
                let uneven = Err(CollapseError::Uneven { gpa: at(gpa) });
                assert_eq!(table.collapse(at(GPA), size, &nobody), uneven);
                // Equal again.
                let _ = table.pin().protect(range(GPA, size.bytes()), Prot::R).unwrap();
                assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
            }
        }
    }

    fn frames_that_are_not_aligned_make_no_large_leaf(format: impl Format) {
        for (size, below) in STEPS {
            let table = Checked::new(format, 16);
            let first = FRAME + 3 * below.pages();
            mapped(&table, GPA, below, 512, first);
            let before = dump(&table);
            let misaligned = EncodeError::Misaligned { pfn: pfn(first), size };
            assert_eq!(table.collapse(at(GPA), size, &nobody), Err(misaligned.into()));
            assert!(dump(&table) == before);
        }
    }

    fn a_leaf_that_is_there_already_is_what_was_wanted(format: impl Format) {
        for size in LARGE {
            let table = Checked::new(format, 16);
            mapped(&table, GPA, size, 1, FRAME);
            let generation = table.observer().enter(Tracking::On).generation();
            let before = dump(&table);
            for inside in [GPA, GPA + PAGE, GPA + size.bytes() - 1] {
                for size in LARGE.into_iter().filter(|&smaller| smaller <= size) {
                    assert_eq!(table.collapse(at(inside), size, &nobody), Ok(()));
                }
            }
            assert!(dump(&table) == before);
            // Nobody was told of anything.
            let now = table.observer().enter(Tracking::On).generation();
            assert_eq!(now, generation);
        }
    }

    /// Invariant 10.
    fn while_a_pin_is_held_it_is_busy(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let before = dump(&table);
            // The caller's own, and that of a reader on another thread.
            let own = table.pin();
            assert_eq!(table.collapse(at(GPA), size, &nobody), Err(CollapseError::Busy));
            drop(own);
            assert!(dump(&table) == before, "the mark is gone");
            let (pinned, done) = (&Barrier::new(2), &Barrier::new(2));
            let reader = table.reader();
            thread::scope(|scope| {
                scope.spawn(move || {
                    let pin = reader.pin();
                    pinned.wait();
                    done.wait();
                    // It looks only: that it is pinned is enough.
                    assert_eq!(pin.lookup(at(GPA)).unwrap().size, below);
                });
                pinned.wait();
                assert_eq!(table.collapse(at(GPA), size, &nobody), Err(CollapseError::Busy));
                done.wait();
            });
            assert!(dump(&table) == before);
            assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
        }
    }

    fn from_inside_an_observer_it_is_refused(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let mut observer = table.observer();
            let inside = observer.enter(Tracking::On);
            let before = dump(&table);
            let here = InsideGuest { observer: inside.id() };
            assert_eq!(table.collapse(at(GPA), size, &nobody), Err(here.into()));
            let refused = table.collapse_range(range(GPA, GIB), size, &nobody, |_| ());
            assert_eq!(refused, Err(here.into()));
            assert!(dump(&table) == before);
            drop(inside);
            // Out of the guest, it is no matter.
            assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
        }
    }

    /// Invariant 3.
    fn the_table_is_freed_when_observers_have_left(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let free = table.source().free_frames();
            let (entered, kicked, leave) = (&Barrier::new(2), &AtomicBool::new(false), &Barrier::new(2));
            let mut observer = table.observer();
            thread::scope(|scope| {
                scope.spawn(move || {
                    let mut inside = observer.enter(Tracking::On);
                    entered.wait();
                    while !kicked.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    // It is told, and stays.
                    inside.acknowledge(|due| assert_ne!(due, &slat::Due::None));
                    leave.wait();
                });
                entered.wait();
                let kick = |_| kicked.store(true, Ordering::Release);
                assert_eq!(table.collapse(at(GPA), size, &kick), Ok(()));
                assert!(kicked.load(Ordering::Acquire));
                leave.wait();
            });
            table.reclaim(&nobody);
            assert_eq!((table.stats().waiting, table.source().free_frames()), (0, free + 1));
            assert_eq!(table.pin().walk(at(GPA), Level::L1).last().unwrap().level, size.level());
        }
    }
}
