//! A mapper stops in the middle, at each step of its walk in turn, and a vacate comes and goes.

use std::{sync::Arc, thread};

use slat::{
    Format, FrameSource, GpaRange, HeapFrames, MapError, MapRangeError, Mapped, ObserverId, Reader,
    Tracking, VacateError,
    mmu::{CacheConfig, DirtyChange, TranslationCache},
};

use super::jolts::{self, Jolts};
use crate::{
    WRITE,
    common::{BASE, Checked, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range},
};

type Handle<F> = Checked<F, Jolts>;

fn table<F: Format>(format: F) -> Handle<F> {
    Checked::with(format, Jolts::new(HeapFrames::with_base(BASE, 24).unwrap()))
}

/// The page that is mapped.
const GPA: u64 = GIB - 3 * PAGE;
const FRAME: u64 = 0x77;

/// Ranges with the page in it: a whole leaf table and no more, the end of one that stays, part of one that
/// goes since it is left with nothing, tables of the level above.
fn ranges() -> [(GpaRange, Option<GpaRange>); 4] {
    [
        (range(GIB - 2 * MIB, 2 * MIB), Some(range(GIB - 4 * MIB, PAGE))),
        (range(GIB - 8 * PAGE, 8 * PAGE), Some(range(GIB - 9 * PAGE, PAGE))),
        (range(GIB - 8 * PAGE, 8 * PAGE), None),
        (range(GIB - 6 * MIB, 8 * MIB), None),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Map,
    Slot,
    Many,
    Range,
}

impl Way {
    const ALL: [Self; 4] = [Self::Map, Self::Slot, Self::Many, Self::Range];

    fn map<F: Format>(self, reader: &Reader<F, Arc<Jolts>>) -> Result<Mapped, MapError> {
        let pin = reader.pin();
        match self {
            Self::Map => pin.map(at(GPA), pfn(FRAME), SMALL, RWX),
            Self::Slot => pin.slot(at(GPA)).unwrap().map(pfn(FRAME), SMALL, RWX),
            Self::Many => {
                let mut result = None;
                pin.map_many([(at(GPA), pfn(FRAME))], RWX, |_, mapped| result = Some(mapped));
                result.unwrap()
            }
            Self::Range => match pin.map_range(range(GPA, PAGE), pfn(FRAME), RWX) {
                Ok(done) => {
                    assert_eq!(done.new, 1);
                    Ok(Mapped::New)
                }
                Err(MapRangeError::Page { source, .. }) => Err(source),
                Err(error) => panic!("{error:?}"),
            },
        }
    }
}

/// Starts a mapper that stops at a step; when it has, or has done, calls `meanwhile`, once per stop.
fn stopped<F: Format>(
    table: &Handle<F>,
    way: Way,
    (step, more): (u32, u32),
    mut meanwhile: impl FnMut(u32),
) -> Result<Mapped, MapError> {
    let source = table.source();
    let reader = table.reader();
    thread::scope(|scope| {
        let before = source.stops();
        let mapper = scope.spawn(move || {
            jolts::stop_at(step, more);
            let mapped = way.map(&reader);
            jolts::go_on();
            mapped
        });
        for stop in 0..=more {
            while source.stops() == before + u64::from(stop) && !mapper.is_finished() {
                thread::yield_now();
            }
            meanwhile(stop);
            source.turn();
        }
        mapper.join().unwrap()
    })
}

every_format! {
    /// Invariants 1, 6, 9, 10.
    fn a_page_is_mapped_or_vacated_wherever_its_mapper_stops(format: impl Format) {
        let mut late = 0;
        for (area, beside) in ranges() {
            for (way, step) in Way::ALL.into_iter().flat_map(|way| (0..20).map(move |step| (way, step))) {
                let table = table(format);
                table.populate(area, SMALL).unwrap();
                beside.iter().for_each(|&beside| table.populate(beside, SMALL).unwrap());
                let mut vacated = None;
                let mapped = stopped(&table, way, (step, 0), |_| {
                    let free = table.source().free_frames();
                    vacated = Some(table.vacate(area));
                    // Invariant 3: the mapper is pinned; none of its tables is freed.
                    let stats = table.stats();
                    let rest = table.source().frames.capacity() - stats.tables - stats.waiting;
                    assert_eq!((table.source().free_frames(), rest), (free, free));
                });
                let there = table.pin().lookup(at(GPA)).map(|there| there.pfn);
                match vacated.unwrap() {
                    Ok(()) => {
                        assert_eq!(there, None);
                        let gpa = at(GPA);
                        late += u32::from(matches!(mapped, Err(MapError::Vacated { .. })));
                        let told = [MapError::NotPopulated { gpa },
                            MapError::Vacated { gpa, accessed: false, dirty: false }];
                        assert!(mapped.is_err_and(|error| told.contains(&error)), "{way:?} {step}: {mapped:?}");
                        // Invariant 9, and what is used again is zero.
                        table.populate(area, SMALL).unwrap();
                        assert_eq!(table.pin().mapped(area).unwrap(), 0);
                    }
                    Err(error) => {
                        assert_eq!(error, VacateError::StillMapped { gpa: at(GPA) });
                        assert_eq!((mapped, there), (Ok(Mapped::New), Some(pfn(FRAME))));
                    }
                }
            }
        }
        assert!(late > 0, "no mapper was too late");
    }

    /// Invariants 2 and 3.
    fn what_an_mmu_writes_through_a_late_leaf_is_in_what_its_mapper_is_told(format: impl Format) {
        let table = table(format);
        let area = range(GIB - 2 * MIB, 2 * MIB);
        table.populate(area, SMALL).unwrap();
        let free = table.source().free_frames();
        let mut observer = table.observer();
        let inside = observer.enter(Tracking::On);
        // It walks by what it remembers of the tables above.
        let mut cache = TranslationCache::new(CacheConfig { tlb_entries: 0, walk_entries: 16 });
        table.map(GPA, 1);
        inside.mmu().translate_cached(&mut cache, at(GPA), WRITE).unwrap();
        drop(table.pin().unmap(at(GPA)).unwrap());
        // The last step before the exchange is into the leaf table; the next one is the look at whether that
        // is still there.
        let levels = table.format().levels().root() as u32;
        let mapped = stopped(&table, Way::Map, (levels - 1, 1), |stop| {
            if stop == 0 {
                table.vacate(area).unwrap();
            } else {
                let written = inside.mmu().translate_cached(&mut cache, at(GPA), WRITE).unwrap();
                assert_eq!((written.pfn, written.dirty), (pfn(FRAME), DirtyChange::Set));
            }
        });
        let told = MapError::Vacated { gpa: at(GPA), accessed: true, dirty: true };
        assert_eq!(mapped, Err(told));
        assert_eq!(table.source().free_frames(), free, "the observer may still walk there");
        drop(inside);
        table.reclaim(&|id: ObserverId| panic!("{id} is inside"));
        assert!(table.source().free_frames() > free);
    }
}
