//! Collapsing whatever can be collapsed in a range.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use slat::{CollapseError, Collapsed, EncodeError, Format, FrameSource, HeapFrames, Tracking};

use crate::{
    FRAME, G1, M2,
    common::{
        BASE, Checked, Counting, GIB, MIB, PAGE, SMALL, Space, TIB, at, census, dump, every_format,
        range, tables_visited,
    },
    fresh, mapped, maps_on, nobody, room, sizes,
};

/// Collapses, checks how progress is told, and returns the leaves that were made, and the tables that were
/// kept.
#[track_caller]
fn collapsed<F: Format, S: FrameSource>(
    table: &Checked<F, S>,
    start: u64,
    bytes: u64,
    size: slat::PageSize,
) -> (u64, u64) {
    let range = range(start, bytes);
    let mut told = Vec::new();
    let done = table.collapse_range(range, size, &nobody, |pages| told.push(pages)).unwrap();
    assert!(told.is_sorted_by(|one, next| one < next), "{told:?}");
    assert_eq!(told.last(), Some(&range.pages()));
    let Collapsed { leaves, kept, .. } = done;
    (leaves, kept)
}

every_format! {
    fn two_mib_come_before_one_gib(format: impl Format) {
        let table = Checked::new(format, 1040);
        mapped(&table, 4 * GIB, SMALL, GIB / PAGE + 1024, FRAME);
        assert_eq!(collapsed(&table, 4 * GIB, GIB + 4 * MIB, G1), (512 + 1 + 2, 0));
        assert_eq!(sizes(&table, 4 * GIB, GIB + 4 * MIB), [G1, M2, M2]);
        maps_on(&table, 4 * GIB, GIB + 4 * MIB, FRAME);
        assert_eq!(table.pin().lookup(at(4 * GIB)), Some(fresh(4 * GIB, G1, FRAME)));
        // Again there is nothing to do.
        assert_eq!(collapsed(&table, 4 * GIB, GIB + 4 * MIB, G1), (0, 0));
        table.reclaim(&nobody);
        assert_eq!(table.stats().waiting, 0);
    }

    fn leaves_of_one_size_only_if_asked_for_no_larger(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, GIB - 4 * MIB, SMALL, 2048, FRAME - 1024);
        mapped(&table, GIB + 4 * MIB, M2, 510, FRAME + 1024);
        assert_eq!(collapsed(&table, GIB - 4 * MIB, GIB + 4 * MIB, M2), (4, 0));
        assert_eq!(sizes(&table, GIB - 4 * MIB, GIB + 4 * MIB), [M2; 514]);
        assert_eq!(collapsed(&table, GIB - 4 * MIB, GIB + 4 * MIB, G1), (1, 0));
        assert_eq!(sizes(&table, GIB - 4 * MIB, GIB + 4 * MIB), [M2, M2, G1]);
    }

    fn what_would_go_past_the_range_is_left_alone(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, 4 * GIB, SMALL, 8 * 512, FRAME);
        // From page to page of the second and the seventh.
        let (start, end) = (4 * GIB + 3 * MIB, 4 * GIB + 13 * MIB);
        assert_eq!(collapsed(&table, start, end - start, G1), (4, 0));
        let wanted = [vec![SMALL; 1024], vec![M2; 4], vec![SMALL; 1024]].concat();
        assert_eq!(sizes(&table, 4 * GIB, 16 * MIB), wanted);
        // A range without a whole leaf.
        let before = dump(&table);
        assert_eq!(collapsed(&table, 4 * GIB + PAGE, 2 * MIB, G1), (0, 0));
        assert!(dump(&table) == before);
        maps_on(&table, 4 * GIB, 16 * MIB, FRAME);
    }

    fn what_cannot_be_collapsed_is_counted(format: impl Format) {
        let table = Checked::new(format, 100);
        mapped(&table, 0, SMALL, 70 * 512, FRAME);
        room(&table, 140 * MIB, M2, 3);
        table.populate_pages(146 * MIB, MIB);
        // A hole, a page of other attributes, a frame that does not follow.
        let pin = table.pin();
        let _ = pin.unmap(at(5 * MIB)).unwrap();
        let _ = pin.protect(range(9 * MIB, PAGE), slat::Prot::R).unwrap();
        let _ = pin.unmap(at(130 * MIB)).unwrap();
        crate::map(&pin, 130 * MIB, SMALL, 3 * FRAME);
        drop(pin);
        // And that of 1 GiB itself, and the one with nothing mapped.
        assert_eq!(collapsed(&table, 0, GIB, G1), (67, 5));
        assert_eq!(sizes(&table, 10 * MIB, 120 * MIB), [M2; 60]);
        assert_eq!(sizes(&table, 4 * MIB, 2 * MIB).len(), 511);
        // Nothing new.
        assert_eq!(collapsed(&table, 0, GIB, M2), (0, 4));
    }

    fn one_shootdown_serves_many_leaves(format: impl Format) {
        let table = Checked::new(format, 200);
        mapped(&table, 4 * GIB, SMALL, 128 * 512, FRAME);
        let (entered, kicks, done) = (&Barrier::new(2), &AtomicU64::new(0), &AtomicU64::new(0));
        let mut observer = table.observer();
        let result = thread::scope(|scope| {
            scope.spawn(move || {
                let mut inside = observer.enter(Tracking::On);
                entered.wait();
                while done.load(Ordering::Acquire) == 0 {
                    inside.acknowledge(|_| ());
                    thread::yield_now();
                }
            });
            entered.wait();
            let kick = |_| {
                kicks.fetch_add(1, Ordering::Relaxed);
            };
            let result = table.collapse_range(range(4 * GIB, 256 * MIB), M2, &kick, |_| ());
            done.store(1, Ordering::Release);
            result.unwrap()
        });
        assert_eq!((result.leaves, result.kept), (128, 0));
        assert!(kicks.load(Ordering::Relaxed) <= 2, "once a chunk");
    }

    fn a_range_or_a_size_that_is_none_is_refused(format: impl Format) {
        let table = Checked::new(format, 16);
        let space = Space::of(&format);
        let beyond = slat::GpaRange::from_pages(at(space.last_low_page()), 2).unwrap();
        let refused = table.collapse_range(beyond, M2, &nobody, |_| panic!("it came nowhere"));
        assert_eq!(refused, Err(CollapseError::OutOfRange { gpa: at(space.part) }));
        let bad = CollapseError::from(EncodeError::BadSize(SMALL));
        let refused = table.collapse_range(range(0, GIB), SMALL, &nobody, |_| ());
        assert_eq!(refused, Err(bad));
    }

    /// S12.
    fn holes_are_passed_at_the_cost_of_tables(format: impl Format) {
        let frames = HeapFrames::with_base(BASE, 32).unwrap();
        let table = Checked::with(format, Counting(frames));
        let bytes = (100 * TIB).min(Space::of(&format).part);
        for gpa in [0, 50 * TIB + 8 * GIB + 6 * MIB, bytes - 2 * MIB] {
            mapped(&table, gpa, SMALL, 512, FRAME);
        }
        let levels = u64::from(format.levels().count());
        let visited = tables_visited(|| {
            assert_eq!(collapsed(&table, 0, bytes, M2), (3, 0));
        });
        // The slots of three tables of each level but the lowest, each with a walk or two.
        assert!(visited < 3 * 512 * levels * levels * 2, "{visited}");
        assert_eq!(census(&table).leaves, 3);
    }
}
