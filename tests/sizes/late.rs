//! What a processor does through what it has cached of a table that was collapsed: until the shoot-down is
//! complete, nobody knows, and then it is all in the leaf.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use slat::{
    Format, GpaRange, Mapped, Mapping, ObserverId, PageSize, PageTable, Prot, Scope, Tracking,
    mmu::{Access, CacheConfig, DirtyChange, Mode, TranslationCache},
};

use crate::{
    FRAME, M2, STEPS,
    common::{Checked, Frames, GIB, PAGE, RWX, SMALL, at, every_format, pfn, range},
    fresh, mapped, maps_on, nobody,
};

/// As the page's attributes are: nothing here is a user's.
const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
const READ: Access = Access::READ.in_mode(Mode::Supervisor);

const GPA: u64 = 4 * GIB;
/// In the table that goes.
const PAGE_READ: u64 = GPA + 7 * PAGE;

type Handle<F> = PageTable<F, Arc<Frames>>;

/// What a processor does with the table that it remembers, before it comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Read,
    Write,
}

/// Collapses the small leaves at `GPA`; once the large leaf is there, and while a processor can still come
/// to the old table, does `meanwhile`. Then the processor does its last, and comes out.
fn beside_a_stale_mmu<F: Format>(
    table: &Checked<F>,
    (size, below): (PageSize, PageSize),
    last: Last,
    meanwhile: impl Fn(&Handle<F>),
) {
    let (entered, kicked) = (&Barrier::new(2), &AtomicBool::new(false));
    let mut observer = table.observer();
    thread::scope(|scope| {
        scope.spawn(move || {
            // No leaves: it walks from the table that it remembers.
            let config = CacheConfig { tlb_entries: 0, walk_entries: 16 };
            let mut cache = TranslationCache::new(config);
            let inside = observer.enter(Tracking::On);
            inside.mmu().translate_cached(&mut cache, at(PAGE_READ), READ).unwrap();
            entered.wait();
            while !kicked.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let gpa = at(GPA + 300 * below.bytes() + 5);
            let access = match last {
                Last::Nothing => return,
                Last::Read => READ,
                Last::Write => WRITE,
            };
            let reached = inside.mmu().translate_cached(&mut cache, gpa, access).unwrap();
            // It came to the table that was collapsed.
            assert_eq!((reached.size, reached.pfn), (below, pfn(FRAME + 300 * below.pages())));
            assert_eq!(reached.dirty == DirtyChange::Set, last == Last::Write);
        });
        entered.wait();
        let kick = |_: ObserverId| {
            meanwhile(table);
            kicked.store(true, Ordering::Release);
        };
        assert_eq!(table.collapse(at(GPA), size, &kick), Ok(()));
    });
}

fn full<F: Format>(format: F, below: PageSize) -> Checked<F> {
    let table = Checked::new(format, 16);
    mapped(&table, GPA, below, 512, FRAME);
    table
}

fn whole(size: PageSize, accessed: bool, dirty: bool) -> Mapping {
    Mapping { accessed, dirty, ..fresh(GPA, size, FRAME) }
}

fn leaf_at<F: Format>(table: &Handle<F>) -> Option<Mapping> {
    table.pin().lookup(at(GPA + PAGE))
}

/// Panics instead of kicking.
fn panics(id: ObserverId) {
    panic!("no way to kick {id}");
}

/// Collapses beside an observer that nobody can kick: the collapse panics.
fn given_up<F: Format>(table: &Checked<F>, size: PageSize) {
    let (entered, done) = (&Barrier::new(2), &Barrier::new(2));
    let mut observer = table.observer();
    thread::scope(|scope| {
        scope.spawn(move || {
            let inside = observer.enter(Tracking::On);
            entered.wait();
            done.wait();
            drop(inside);
        });
        entered.wait();
        let collapse = AssertUnwindSafe(|| table.collapse(at(GPA), size, &panics));
        assert!(catch_unwind(collapse).is_err());
        assert_eq!(table.stats().waiting, 1);
        done.wait();
    });
}

every_format! {
    /// Invariants 2 and 7.
    fn what_is_written_through_the_old_table_is_in_the_large_leaf(format: impl Format) {
        for (size, below) in STEPS {
            for last in [Last::Nothing, Last::Read, Last::Write] {
                let table = full(format, below);
                beside_a_stale_mmu(&table, (size, below), last, |table| {
                    // Nobody knows yet.
                    assert_eq!(leaf_at(table), Some(whole(size, true, true)));
                });
                // The processor read one page before.
                assert_eq!(leaf_at(&table), Some(whole(size, true, last == Last::Write)));
            }
        }
    }

    /// Invariant 2.
    fn a_bit_that_is_cleared_before_the_shootdown_is_not_lost(format: impl Format) {
        for (size, below) in STEPS {
            for last in [Last::Read, Last::Write] {
                let table = full(format, below);
                table.pin().slot(at(GPA)).unwrap().set_dirty();
                beside_a_stale_mmu(&table, (size, below), last, |table| {
                    let pin = table.pin();
                    let slot = pin.slot(at(GPA + 3 * PAGE)).unwrap();
                    for _ in 0..2 {
                        assert!(slot.clear_dirty() && slot.clear_accessed(), "until it is known");
                        assert!(slot.dirty() && slot.accessed());
                    }
                });
                // That it was reported before is no harm.
                assert_eq!(leaf_at(&table), Some(whole(size, true, true)));
            }
        }
    }

    /// Invariants 2 and 3.
    fn a_late_leaf_is_unmapped_with_both_bits_and_all_that_leads_there(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            beside_a_stale_mmu(&table, (size, below), Last::Write, |table| {
                let (old, flush) = table.pin().unmap(at(GPA)).unwrap();
                assert_eq!(old, whole(size, true, true));
                assert_eq!((flush.range(), flush.scope()), (Some(old.range()), Scope::Structure));
                drop(flush);
            });
            assert_eq!(leaf_at(&table), None);
            // The room is the large leaf's.
            assert_eq!(table.pin().map(at(GPA), pfn(FRAME), size, RWX), Ok(Mapped::New));
        }
    }

    fn a_leaf_that_is_mapped_again_meanwhile_is_a_new_one(format: impl Format) {
        for (size, below) in STEPS {
            for frame in [FRAME, 2 * FRAME] {
                let table = full(format, below);
                beside_a_stale_mmu(&table, (size, below), Last::Write, |table| {
                    let pin = table.pin();
                    let _ = pin.unmap(at(GPA)).unwrap();
                    assert_eq!(pin.map(at(GPA), pfn(frame), size, RWX), Ok(Mapped::New));
                });
                // What was written was written to the mapping that was unmapped.
                assert_eq!(leaf_at(&table), Some(fresh(GPA, size, frame)));
            }
        }
    }

    fn rights_that_are_taken_meanwhile_stay_away(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let all = range(GPA, size.bytes());
            beside_a_stale_mmu(&table, (size, below), Last::Write, |table| {
                let (pages, flush) = table.pin().protect(all, Prot::R).unwrap();
                assert_eq!((pages, flush.scope()), (size.pages(), Scope::Structure));
                drop(flush);
            });
            let attr = RWX.with_prot(Prot::R);
            assert_eq!(leaf_at(&table), Some(Mapping { attr, ..whole(size, true, true) }));
        }
    }

    /// Invariant 2.
    fn a_late_leaf_is_split_into_leaves_with_both_bits(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            beside_a_stale_mmu(&table, (size, below), Last::Write, |table| {
                assert_eq!(table.split(at(GPA), below, &nobody), Ok(()));
            });
            let leaves: Vec<_> = table.pin().mappings(range(GPA, size.bytes())).unwrap().collect();
            assert_eq!(leaves.len(), 512);
            assert!(leaves.iter().all(|leaf| leaf.accessed && leaf.dirty && leaf.size == below));
            // And together again, beside nobody.
            assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
            assert_eq!(leaf_at(&table), Some(whole(size, true, true)));
        }
    }

    /// Invariant 9.
    fn a_kick_that_panics_leaves_a_leaf_that_counts_as_both(format: impl Format) {
        for (size, below) in STEPS {
            let table = full(format, below);
            let free = slat::FrameSource::free_frames(table.source());
            given_up(&table, size);
            maps_on(&table, GPA, size.bytes(), FRAME);
            assert_eq!(leaf_at(&table), Some(whole(size, true, true)));
            table.reclaim(&nobody);
            assert_eq!(slat::FrameSource::free_frames(table.source()), free + 1);
            // Another call finds the leaf that was wanted, and does not know better.
            assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
            assert_eq!(leaf_at(&table), Some(whole(size, true, true)));
            assert_eq!(table.pin().map(at(GPA), pfn(FRAME), size, RWX), Ok(Mapped::Same));
            // To split it and take it together again makes it one like any other.
            assert_eq!(table.split(at(GPA), below, &nobody), Ok(()));
            let pin = table.pin();
            for index in 0..512 {
                let slot = pin.slot(at(GPA + index * below.bytes())).unwrap();
                assert!(slot.clear_accessed() && slot.clear_dirty());
            }
            drop(pin);
            assert_eq!(table.collapse(at(GPA), size, &nobody), Ok(()));
            assert_eq!(leaf_at(&table), Some(whole(size, false, false)));
        }
    }

    fn others_collapse_after_a_kick_that_panicked(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, GPA, SMALL, 1024, FRAME);
        given_up(&table, M2);
        let second = GPA + M2.bytes();
        assert_eq!(table.collapse(at(second), M2, &nobody), Ok(()));
        let found = table.pin().lookup(at(second));
        assert_eq!(found, Some(fresh(second, M2, FRAME + 512)));
        assert_eq!(leaf_at(&table), Some(whole(M2, true, true)));
        let (_, flush) = table.pin().unmap(at(GPA)).unwrap();
        assert_eq!(flush.scope(), Scope::Structure);
        drop(flush);
    }

    /// Invariant 2: leaves of 2 MiB of which nobody knows make one of 1 GiB that counts as both.
    fn late_leaves_are_collapsed_further(format: impl Format) {
        let table = Checked::new(format, 32);
        mapped(&table, GPA, SMALL, 512, FRAME);
        mapped(&table, GPA + M2.bytes(), M2, 511, FRAME + 512);
        given_up(&table, M2);
        assert_eq!(table.collapse(at(GPA), PageSize::Size1G, &nobody), Ok(()));
        assert_eq!(leaf_at(&table), Some(whole(PageSize::Size1G, true, true)));
        let all: GpaRange = range(GPA, GIB);
        let pin = table.pin();
        let slot = pin.slot(at(GPA)).unwrap();
        assert!(slot.clear_dirty() && !slot.dirty(), "the mark went with the shoot-down");
        assert_eq!(pin.mapped(all), Ok(all.pages()));
    }
}
