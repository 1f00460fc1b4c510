//! Somebody stops in the middle, at each step of a walk in turn, and a collapse comes; or the collapse stops,
//! and somebody else comes.

use std::{sync::Arc, thread};

use slat::{
    CollapseError, Format, Mapped, ObserverId, PageSize, Prot, Reader, Tracking,
    mmu::{CacheConfig, DirtyChange, TranslationCache},
};

use crate::{
    READ, WRITE,
    common::{
        BASE, Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at, every_format, frame_at, pfn, range,
    },
    removal::jolts::{self, Jolts, Stop},
};

const SIZE: PageSize = PageSize::Size2M;
const GPA: u64 = GIB;
const FRAME: u64 = 0x10_0000;
/// The page that somebody changes.
const PAGE_AT: u64 = GPA + 77 * PAGE;
/// More steps than any walk here takes.
const STEPS: u32 = 24;

type Handle<F> = Checked<F, Jolts>;

/// A table full of small leaves that follow on each other.
fn full<F: Format>(format: F) -> Handle<F> {
    let table = Checked::with(format, Jolts::new(Frames::with_base(BASE, 24)));
    table.populate_mapped(range(GPA, SIZE.bytes()), SMALL, pfn(FRAME), RWX).unwrap();
    table
}

/// What somebody does to the small leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Unmap,
    UnmapMany,
    UnmapRange,
    Remap,
    Protect,
    Slot,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// The small leaf is gone, or another.
    Changed,
    /// The large leaf, whole.
    Whole,
    /// It would have cut the large leaf.
    Refused,
    /// Only a bit was touched.
    Marked,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Unmap, Self::UnmapMany, Self::UnmapRange, Self::Remap, Self::Protect, Self::Slot];

    fn go<F: Format>(self, reader: &Reader<F, Arc<Jolts>>) -> Came {
        let pin = reader.pin();
        let page = range(PAGE_AT, PAGE);
        let of = |size| if size == SIZE { Came::Whole } else { Came::Changed };
        match self {
            Self::Unmap => of(pin.unmap(at(PAGE_AT)).unwrap().0.size),
            Self::UnmapMany => {
                let mut came = None;
                drop(pin.unmap_many([at(PAGE_AT)], |_, gone| came = Some(of(gone.unwrap().size))));
                came.unwrap()
            }
            Self::UnmapRange => match pin.unmap_range(page, drop) {
                Ok((pages, _)) => {
                    assert_eq!(pages, 1);
                    Came::Changed
                }
                Err(slat::UnmapRangeError::CutsLarge { gpa }) => {
                    assert_eq!(gpa, at(GPA));
                    Came::Refused
                }
                Err(error) => panic!("{error:?}"),
            },
            Self::Remap => {
                let size = pin.unmap(at(PAGE_AT)).unwrap().0.size;
                if size == SMALL {
                    // What it has unmapped it can map again, whoever collapses: it is pinned.
                    let mapped = pin.map(at(PAGE_AT), pfn(7), SMALL, RWX);
                    assert_eq!(mapped, Ok(Mapped::New));
                }
                of(size)
            }
            Self::Protect => match pin.protect(page, Prot::R) {
                Ok((pages, _)) => {
                    assert_eq!(pages, 1);
                    Came::Changed
                }
                Err(slat::ProtectError::CutsLarge { .. }) => Came::Refused,
                Err(error) => panic!("{error:?}"),
            },
            Self::Slot => {
                // It may be set already, as far as anybody knows.
                pin.slot(at(PAGE_AT)).unwrap().set_dirty();
                Came::Marked
            }
        }
    }
}

/// Checks that the leaves are what both calls have reported.
fn agree<F: Format>(table: &Handle<F>, way: Way, came: Came, done: Result<(), CollapseError>) {
    let pin = table.pin();
    let there = pin.lookup(at(PAGE_AT));
    let beside = pin.lookup(at(GPA));
    match (came, done) {
        // It was large, and is gone whole.
        (Came::Whole, Ok(())) => assert_eq!((there, beside), (None, None)),
        (Came::Refused, Ok(())) => {
            assert_eq!((there, there.unwrap().size), (beside, SIZE));
        }
        // Invariant 2.
        (Came::Marked, Ok(())) => assert!(there.unwrap().size == SIZE && there.unwrap().dirty),
        (Came::Marked, Err(CollapseError::Busy)) => {
            assert!(there.unwrap().size == SMALL && there.unwrap().dirty);
        }
        // Invariant 1: what was reported of the small leaf is so.
        (
            Came::Changed,
            Err(
                CollapseError::Busy
                | CollapseError::NotMapped { .. }
                | CollapseError::Uneven { .. },
            ),
        ) => {
            assert_eq!(beside.map(|leaf| leaf.size), Some(SMALL), "{way:?}");
            match way {
                Way::Remap => assert_eq!(there.unwrap().pfn, pfn(7)),
                Way::Protect => assert_eq!(there.unwrap().attr.prot(), Prot::R),
                _ => assert_eq!(there, None),
            }
        }
        other => panic!("{way:?}: {other:?}"),
    }
    // No mark is left: it can be collapsed, or it is said why not.
    let rest = (0..512).filter(|page| pin.lookup(at(GPA + page * PAGE)).is_some()).count();
    assert!([0, 511, 512].contains(&rest), "{rest}");
}

/// Lets who stopped go on when it is dropped, also if that is because something failed.
struct Release<'s>(&'s Jolts);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.turn();
    }
}

fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

every_format! {
    /// Invariants 1, 2, 7, 10.
    fn who_comes_while_a_collapse_stops_anywhere_is_not_stopped(format: impl Format) {
        let (mut made, mut thwarted) = (0, 0);
        for way in Way::ALL {
            for steps in 0..STEPS {
                let table = full(format);
                let source: &Jolts = table.source();
                let reader = table.reader();
                let (came, done) = thread::scope(|scope| {
                    let collapser = scope.spawn(|| {
                        jolts::stop_at(&[Stop { steps, turns: 1 }]);
                        table.collapse(at(GPA), SIZE, &nobody)
                    });
                    source.wait_for(1, &collapser);
                    let release = Release(source);
                    // Invariant 7: it hides no page.
                    for page in [0, 77, 511] {
                        let there = frame_at(&reader.pin(), GPA + page * PAGE);
                        assert_eq!(there, Some(FRAME + page));
                    }
                    // Nobody waits for it.
                    let came = way.go(&reader);
                    drop(release);
                    (came, collapser.join().unwrap())
                });
                made += u32::from(done.is_ok());
                thwarted += u32::from(done == Err(CollapseError::Busy));
                agree(&table, way, came, done);
            }
        }
        assert!(made > 0 && thwarted > 0, "{made} {thwarted}");
    }

    /// Invariants 1, 2, 10.
    fn a_collapse_that_comes_while_somebody_stops_anywhere_gives_up(format: impl Format) {
        let stops = Way::ALL.into_iter().flat_map(|way| (0..6).map(move |steps| (way, steps)));
        // Each way at one step, or two, and each step once; it takes that long to give up.
        for (way, steps) in stops.step_by(5) {
            let table = full(format);
            let source: &Jolts = table.source();
            let reader = table.reader();
            let (came, done) = thread::scope(|scope| {
                let stopped = scope.spawn(move || {
                    jolts::stop_at(&[Stop { steps, turns: 1 }]);
                    way.go(&reader)
                });
                source.wait_for(1, &stopped);
                let release = Release(source);
                let done = table.collapse(at(GPA), SIZE, &nobody);
                drop(release);
                (stopped.join().unwrap(), done)
            });
            let gave_up = matches!(done, Err(CollapseError::Busy | CollapseError::NotMapped { .. } | CollapseError::Uneven { .. }));
            assert!(gave_up || came == Came::Marked, "{way:?} {steps}: {done:?}");
            agree(&table, way, came, done);
        }
    }

    /// Invariants 2, 3, 7.
    fn a_processor_that_stops_anywhere_in_a_walk_loses_no_write(format: impl Format) {
        for steps in 0..8 {
            let table = full(format);
            let source: &Jolts = table.source();
            let mut observer = table.observer();
            let reached = thread::scope(|scope| {
                let vcpu = scope.spawn(move || {
                    let inside = observer.enter(Tracking::On);
                    let mut cache = TranslationCache::new(CacheConfig { tlb_entries: 0, walk_entries: 16 });
                    jolts::stop_at(&[Stop { steps, turns: 1 }]);
                    let reached = inside.mmu().translate_cached(&mut cache, at(PAGE_AT), WRITE).unwrap();
                    // Stopped or not, it stays for a while.
                    jolts::stop_at(&[Stop { steps: 0, turns: 1 }]);
                    let again = inside.mmu().translate(at(PAGE_AT), READ).unwrap();
                    assert_eq!(again.pfn, reached.pfn, "hidden");
                    reached
                });
                source.wait_for(1, &vcpu);
                let kick = |_: ObserverId| {
                    // It may stop twice.
                    while !vcpu.is_finished() {
                        source.turn();
                        thread::yield_now();
                    }
                };
                assert_eq!(table.collapse(at(GPA), SIZE, &kick), Ok(()));
                vcpu.join().unwrap()
            });
            assert_eq!((reached.pfn, reached.dirty), (pfn(FRAME + 77), DirtyChange::Set));
            let whole = table.pin().lookup(at(GPA)).unwrap();
            assert_eq!((whole.size, whole.accessed, whole.dirty), (SIZE, true, true));
            // Not because nobody knows.
            assert!(table.pin().slot(at(GPA)).unwrap().clear_dirty());
            assert!(!table.pin().lookup(at(GPA)).unwrap().dirty, "the mark is gone");
            assert_eq!(table.pin().mapped(range(GPA, 2 * MIB)), Ok(512));
        }
    }
}
