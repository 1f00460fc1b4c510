//! On processors that must not have two sizes for a page: the MMU finds nothing while the old size is
//! shot down, software goes on finding the page, and what is changed meanwhile wins.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use slat::{
    AnyFormat, Bitmap, CollapseError, Format, Levels, MapError, Mark, ObserverId, PageSize, Prot,
    Resize, SplitError, Tracking,
    mmu::{Access, Cause, Mode},
};

use crate::{
    FRAME, M2, STEPS,
    common::{Checked, GIB, PAGE, RWX, SMALL, any, at, dump, ept, long_mode, npt, pfn, range},
    mapped, maps_on, nobody,
};

const GPA: u64 = 4 * GIB;
const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);

/// Each format, where leaves change their size as `resize` says.
fn formats(resize: Resize) -> impl Iterator<Item = AnyFormat> {
    [Levels::Four, Levels::Five].into_iter().flat_map(move |levels| {
        [
            any(ept(levels).with_resize(resize)),
            any(npt(levels).with_resize(resize)),
            any(long_mode(levels).with_resize(resize)),
        ]
    })
}

/// Changes a size, by `change`, while an observer is inside, and calls `meanwhile` when it is shot down:
/// each time that it is tried.
fn beside_a_guest<T>(
    table: &Checked<AnyFormat>,
    meanwhile: impl Fn(),
    change: impl FnOnce(&dyn Fn(ObserverId)) -> T,
) -> T {
    let (entered, out, over) = (&Barrier::new(2), &AtomicBool::new(false), &AtomicBool::new(false));
    let mut observer = table.observer();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut first = true;
            while !over.load(Ordering::Acquire) {
                let inside = observer.enter(Tracking::On);
                if std::mem::take(&mut first) {
                    entered.wait();
                }
                while !out.swap(false, Ordering::AcqRel) && !over.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                drop(inside);
            }
        });
        entered.wait();
        let kick = |_: ObserverId| {
            meanwhile();
            out.store(true, Ordering::Release);
        };
        let changed = catch_unwind(AssertUnwindSafe(|| change(&kick)));
        over.store(true, Ordering::Release);
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A large leaf, or all the small ones.
fn full(format: AnyFormat, size: PageSize, leaves: u64) -> Checked<AnyFormat> {
    let table = Checked::new(format, 16);
    mapped(&table, GPA, size, leaves, FRAME);
    table
}

#[test]
fn sizes_change_to_the_same_as_where_both_may_be_there() {
    for (live, breaks) in formats(Resize::Live).zip(formats(Resize::BreakFirst)) {
        for (size, below) in STEPS {
            let tables = [full(live, size, 1), full(breaks, size, 1)];
            let same = |step: &str| assert!(dump(&tables[0]) == dump(&tables[1]), "{step}");
            for table in &tables {
                table.pin().slot(at(GPA)).unwrap().set_dirty();
                assert_eq!(table.split(at(GPA), below, &nobody), Ok(()));
            }
            same("split");
            for table in &tables {
                assert_eq!(
                    table.pin().protect(range(GPA, below.bytes()), Prot::R).unwrap().0,
                    below.pages()
                );
                let uneven = CollapseError::Uneven { gpa: at(GPA + below.bytes()) };
                assert_eq!(table.collapse(at(GPA), size, &nobody), Err(uneven));
            }
            same("uneven");
            for table in &tables {
                drop(table.pin().protect(range(GPA, below.bytes()), Prot::RWX).unwrap());
                assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
            }
            same("collapse");
            let ranges = tables.each_ref().map(|table| {
                let split = table.split_range(range(GPA, size.bytes()), below, &nobody, |_| ());
                let done = table.collapse_range(range(GPA, size.bytes()), size, &nobody, |_| ());
                (split, done.unwrap())
            });
            assert_eq!(ranges[0], ranges[1]);
            same("ranges");
        }
    }
}

/// What everybody sees while it is broken.
fn is_there_but_for_the_mmu(table: &Checked<AnyFormat>, size: PageSize) {
    let mut observer = table.observer();
    let inside = observer.enter(Tracking::On);
    let fault = inside.mmu().translate(at(GPA + PAGE), WRITE).unwrap_err();
    assert_eq!(fault.cause(), Cause::NotPresent);
    drop(inside);
    let pin = table.pin();
    let leaf = pin.lookup(at(GPA + PAGE)).unwrap();
    assert_eq!((leaf.size, leaf.frame_of(at(GPA + PAGE))), (size, Some(pfn(FRAME + 1))));
    let all = range(GPA, M2.bytes());
    let mut found = Bitmap::new(all);
    assert_eq!(pin.query(all, Mark::Dirty, &mut found), Ok(if size == M2 { 512 } else { 1 }));
    assert_eq!(pin.mapped(all), Ok(512));
}

#[test]
fn the_mmu_faults_and_software_finds_the_page_while_the_old_size_is_shot_down() {
    for format in formats(Resize::BreakFirst) {
        for (size, leaves) in [(M2, 1), (SMALL, 512)] {
            let table = full(format, size, leaves);
            table.pin().slot(at(GPA + 3 * PAGE)).unwrap().set_dirty();
            let before = std::cell::Cell::new(0);
            let meanwhile = || {
                is_there_but_for_the_mmu(&table, size);
                before.set(before.get() + 1);
            };
            beside_a_guest(&table, meanwhile, |kick| match size {
                PageSize::Size2M => assert_eq!(table.split(at(GPA), SMALL, &kick), Ok(())),
                _ => assert_eq!(table.collapse(at(GPA), M2, &kick), Ok(())),
            });
            assert_eq!(before.get(), 1);
            maps_on(&table, GPA, M2.bytes(), FRAME);
            assert!(table.pin().lookup(at(GPA + 3 * PAGE)).unwrap().dirty);
        }
    }
}

#[test]
fn what_is_changed_meanwhile_wins() {
    for format in formats(Resize::BreakFirst) {
        let table = full(format, M2, 1);
        let unmap = || {
            let (old, flush) = table.pin().unmap(at(GPA)).unwrap();
            assert_eq!((old.size, old.pfn), (M2, pfn(FRAME)));
            drop(flush);
        };
        let split = beside_a_guest(&table, unmap, |kick| table.split(at(GPA), SMALL, &kick));
        assert_eq!(split, Err(SplitError::NotMapped { gpa: at(GPA) }));

        let table = full(format, SMALL, 512);
        let unmap = || drop(table.pin().unmap(at(GPA)).unwrap());
        let collapsed = beside_a_guest(&table, unmap, |kick| table.collapse(at(GPA), M2, &kick));
        assert_eq!(collapsed, Err(CollapseError::Busy));
        assert_eq!(table.pin().mapped(range(GPA, M2.bytes())), Ok(511));

        // A fault each time: the mapper is told what is there, and the MMU finds it again.
        let table = full(format, M2, 1);
        let map = || {
            let mapped = table.pin().map(at(GPA), pfn(FRAME), SMALL, RWX);
            assert!(matches!(mapped, Err(MapError::Occupied(leaf)) if leaf.size == M2));
            let mut observer = table.observer();
            let inside = observer.enter(Tracking::On);
            assert_eq!(inside.mmu().translate(at(GPA), WRITE).unwrap().pfn, pfn(FRAME));
        };
        let split = beside_a_guest(&table, map, |kick| table.split(at(GPA), SMALL, &kick));
        assert!(matches!(split, Ok(()) | Err(SplitError::Busy)), "{split:?}");
        maps_on(&table, GPA, M2.bytes(), FRAME);
        assert!(table.pin().lookup(at(GPA)).unwrap().dirty);
    }
}

#[test]
fn a_harvest_takes_the_mark_of_a_broken_leaf() {
    for format in formats(Resize::BreakFirst) {
        let table = full(format, M2, 1);
        table.pin().slot(at(GPA)).unwrap().set_dirty();
        let leaf = range(GPA, M2.bytes());
        let harvest = || {
            let mut found = Bitmap::new(leaf);
            let (_, flush) = table.pin().harvest(leaf, Mark::Dirty, &mut found).unwrap();
            drop(flush);
            assert!(!table.pin().lookup(at(GPA)).unwrap().dirty);
        };
        let split = beside_a_guest(&table, harvest, |kick| table.split(at(GPA), SMALL, &kick));
        assert!(matches!(split, Ok(()) | Err(SplitError::Busy)), "{split:?}");
        maps_on(&table, GPA, M2.bytes(), FRAME);
        assert!(!table.pin().lookup(at(GPA)).unwrap().dirty);
    }
}

/// To take the accessed bit of the table's entry it has to mend that.
#[test]
fn a_round_takes_the_mark_of_a_leaf_in_a_broken_table() {
    for format in formats(Resize::BreakFirst) {
        let table = full(format, SMALL, 512);
        table.pin().slot(at(GPA)).unwrap().set_dirty();
        let all = range(GPA, M2.bytes());
        let round = || {
            let mut found = Bitmap::new(all);
            let (pages, flush) = table.harvest_round(all, Mark::Dirty, &mut found).unwrap();
            drop(flush);
            assert_eq!((pages, found.contains(at(GPA))), (1, true));
        };
        let collapsed = beside_a_guest(&table, round, |kick| table.collapse(at(GPA), M2, &kick));
        assert_eq!(collapsed, Err(CollapseError::Busy));
        maps_on(&table, GPA, M2.bytes(), FRAME);
        assert!(!table.pin().lookup(at(GPA)).unwrap().dirty);
    }
}

#[test]
fn a_kick_that_panics_leaves_the_old_size() {
    for format in formats(Resize::BreakFirst) {
        for (size, leaves) in [(M2, 1), (SMALL, 512)] {
            let table = full(format, size, leaves);
            let before = dump(&table);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                beside_a_guest(
                    &table,
                    || panic!("no way to kick"),
                    |kick| match size {
                        PageSize::Size2M => table.split(at(GPA), SMALL, &kick).is_ok(),
                        _ => table.collapse(at(GPA), M2, &kick).is_ok(),
                    },
                )
            }));
            assert!(panicked.is_err());
            assert!(dump(&table) == before);
        }
    }
}

#[test]
fn nobody_waits_for_an_observer_of_his_own() {
    for format in formats(Resize::BreakFirst) {
        let table = full(format, M2, 1);
        let before = dump(&table);
        let mut observer = table.observer();
        let inside = observer.enter(Tracking::On);
        let refused = table.split(at(GPA), SMALL, &nobody);
        assert!(matches!(refused, Err(SplitError::InsideGuest(_))), "{refused:?}");
        drop(inside);
        assert!(dump(&table) == before);
    }
}

#[test]
fn too_few_frames_leave_the_old_size() {
    for format in formats(Resize::BreakFirst) {
        let frames = u64::from(format.levels().count()) - 1;
        let table = Checked::new(format, frames);
        mapped(&table, GPA, M2, 1, FRAME);
        let before = dump(&table);
        let refused = table.split(at(GPA), SMALL, &nobody);
        assert!(matches!(refused, Err(SplitError::OutOfFrames(few)) if few.needed == 1));
        assert!(dump(&table) == before);
    }
}
