//! A mapper stops in the middle, at each step of its walk in turn, and a vacate comes and goes.

use std::{sync::Arc, thread};

use slat::{
    Format, FrameSource, GpaRange, MapError, MapRangeError, Mapped, ObserverId, Reader, Tracking,
    UnmapError, VacateError,
    mmu::{CacheConfig, DirtyChange, TranslationCache},
};

use super::jolts::{self, Jolts, Stop};
use crate::{
    WRITE,
    common::{BASE, Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range},
};

type Handle<F> = Checked<F, Jolts>;

fn table<F: Format>(format: F) -> Handle<F> {
    Checked::with(format, Jolts::new(Frames::with_base(BASE, 24)))
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

/// Starts a mapper that stops at some places; when it has, or is done, calls `meanwhile`, once for each.
fn stopped<F: Format>(
    table: &Handle<F>,
    way: Way,
    stops: &[Stop],
    mut meanwhile: impl FnMut(usize),
) -> Result<Mapped, MapError> {
    let source = table.source();
    let reader = table.reader();
    thread::scope(|scope| {
        let mapper = scope.spawn(move || {
            jolts::stop_at(stops);
            way.map(&reader)
        });
        for stop in 0..stops.len() {
            source.wait_for(stop as u64 + 1, &mapper);
            meanwhile(stop);
            source.turn();
        }
        mapper.join().unwrap()
    })
}

/// The places where a late mapper stops: at the leaf table, before the exchange, and when it has found
/// that there was a claim, behind it.
fn before_and_behind<F: Format>(table: &Handle<F>, turns: [u64; 2]) -> [Stop; 2] {
    let steps = table.format().levels().root() as u32 - 1;
    [Stop { steps, turns: turns[0] }, Stop { steps: 0, turns: turns[1] }]
}

every_format! {
    /// Invariants 1, 6, 9, 10.
    fn a_page_is_mapped_or_vacated_wherever_its_mapper_stops(format: impl Format) {
        let mut late = 0;
        for (area, beside) in ranges() {
            for (way, steps) in Way::ALL.into_iter().flat_map(|way| (0..20).map(move |steps| (way, steps))) {
                let table = table(format);
                table.populate(area, SMALL).unwrap();
                beside.iter().for_each(|&beside| table.populate(beside, SMALL).unwrap());
                let mut vacated = None;
                let mapped = stopped(&table, way, &[Stop { steps, turns: 1 }], |_| {
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
                        assert!(mapped.is_err_and(|error| told.contains(&error)), "{way:?} {steps}: {mapped:?}");
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
        let stops = before_and_behind(&table, [1, 1]);
        let mapped = stopped(&table, Way::Map, &stops, |stop| {
            if stop == 0 {
                table.vacate(area).unwrap();
            } else {
                let written = inside.mmu().translate_cached(&mut cache, at(GPA), WRITE).unwrap();
                assert_eq!((written.pfn, written.dirty), (pfn(FRAME), DirtyChange::Set));
            }
        });
        let told = MapError::Vacated { gpa: at(GPA), accessed: true, dirty: true };
        assert_eq!(mapped, Err(told));
        // The pin is gone; the observer, which is not told, may still walk there.
        assert_eq!(table.reclaim(&|_: ObserverId| ()).freed, 0);
        assert_eq!(table.source().free_frames(), free);
        drop(inside);
        table.reclaim(&|id: ObserverId| panic!("{id} is inside"));
        assert!(table.source().free_frames() > free);
    }

    /// Invariants 1 and 5.
    fn of_a_late_mapper_and_a_slow_unmap_exactly_one_has_the_frame(format: impl Format) {
        let gpa = at(GPA);
        for round in 0..20 {
            let table = table(format);
            let area = range(GIB - 2 * MIB, 2 * MIB);
            table.populate(area, SMALL).unwrap();
            let (here, there) = (table.reader(), table.reader());
            let source: &Jolts = table.source();
            let (mapped, unmapped) = thread::scope(|scope| {
                let late = before_and_behind(&table, [1, 1]);
                // It comes to the dead leaf table when the leaf is in it.
                let slow = [Stop { turns: 2, ..late[0] }];
                let mapper = scope.spawn(move || {
                    jolts::stop_at(&late);
                    let mapped = Way::Map.map(&there);
                    (0..round).for_each(|_| std::hint::spin_loop());
                    mapped
                });
                let unmapper = scope.spawn(move || {
                    jolts::stop_at(&slow);
                    here.pin().unmap(gpa).map(|(mapping, _)| mapping.pfn)
                });
                source.wait_for(2, &mapper);
                table.vacate(area).unwrap();
                source.turn();
                source.wait_for(3, &mapper);
                source.turn();
                (mapper.join().unwrap(), unmapper.join().unwrap())
            });
            let told = MapError::Vacated { gpa, accessed: false, dirty: false };
            match unmapped {
                Ok(taken) => assert_eq!((mapped, taken), (Ok(Mapped::New), pfn(FRAME))),
                Err(error) => {
                    assert_eq!((mapped, error), (Err(told), UnmapError::NotMapped { gpa }));
                }
            }
            assert_eq!(table.pin().lookup(gpa), None);
        }
    }

    /// Invariant 5. The leaves are alike, so a late mapper may take the other one's out, as happens here: then
    /// each is told what became of the other's, and the sums are right.
    fn of_late_mappers_of_one_frame_as_many_are_new_as_were_unmapped(format: impl Format) {
        let table = table(format);
        let area = range(GIB - 2 * MIB, 2 * MIB);
        table.populate(area, SMALL).unwrap();
        let readers = [table.reader(), table.reader()];
        let source: &Jolts = table.source();
        let mapped = thread::scope(|scope| {
            let stops = before_and_behind(&table, [1, 2]);
            let [first, second] = readers.map(|reader| move || {
                jolts::stop_at(&stops);
                Way::Map.map(&reader)
            });
            let first = scope.spawn(first);
            source.wait_for(1, &first);
            // A claim that comes to nothing, so that it will look twice.
            table.vacate(range(8 * GIB, PAGE)).unwrap_err();
            source.turn();
            source.wait_for(2, &first);
            assert_eq!(table.pin().unmap(at(GPA)).unwrap().0.pfn, pfn(FRAME));
            let second = scope.spawn(second);
            source.wait_for(3, &second);
            table.vacate(area).unwrap();
            source.turn();
            source.wait_for(4, &second);
            source.turn();
            let first = first.join().unwrap();
            source.turn();
            [first, second.join().unwrap()]
        });
        assert_eq!(mapped.iter().filter(|&&mapped| mapped == Ok(Mapped::New)).count(), 1, "{mapped:?}");
        assert_eq!(table.pin().lookup(at(GPA)), None);
    }
}
