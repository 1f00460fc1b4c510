//! Vacate beside mappers, unmappers and itself: who wins, and that both know it.
//!
//! Ranges of whole leaf tables are claimed by the claim word, ranges within one by marks in its slots:
//! most scenarios are there for both.

use loom_tests::{Arc, Cpu, RWX, World, explore, frame, gpa, pages, race, race3, sizes::TABLE};
use slat::{Entry, GpaRange, Level, MapError, Mapped, PageSize, VacateError};

/// What a map came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    New,
    Same,
    Occupied,
    NotPopulated,
    Vacated,
}

/// What a vacate came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vacate {
    Done,
    StillMapped,
    NotPopulated,
    Busy,
}

fn map(cpu: &Cpu, page: u64, number: u64) -> Map {
    told(cpu.map(page, number))
}

fn told(mapped: Result<Mapped, MapError>) -> Map {
    match mapped {
        Ok(Mapped::New) => Map::New,
        Ok(Mapped::Same) => Map::Same,
        Err(MapError::Occupied(_)) => Map::Occupied,
        Err(MapError::NotPopulated { .. }) => Map::NotPopulated,
        // No MMU walks in these scenarios.
        Err(MapError::Vacated { accessed: false, dirty: false, .. }) => Map::Vacated,
        Err(error) => panic!("{error}"),
    }
}

fn vacate(cpu: &Cpu, range: GpaRange) -> Vacate {
    match cpu.table().vacate(range) {
        Ok(()) => Vacate::Done,
        Err(VacateError::StillMapped { .. }) => Vacate::StillMapped,
        Err(VacateError::NotPopulated { .. }) => Vacate::NotPopulated,
        Err(VacateError::Busy) => Vacate::Busy,
        Err(error) => panic!("{error}"),
    }
}

fn populate(cpu: &Cpu, range: GpaRange) {
    cpu.table().populate(range, PageSize::Size4K).unwrap();
}

/// A table whose first leaf table is populated, with frames for as many lives of it.
fn populated(lives: u64) -> Arc<World> {
    let world = World::with_lives(lives);
    world.table.populate(pages(0, TABLE), PageSize::Size4K).unwrap();
    Arc::new(world)
}

fn mapped(world: &World, page: u64) -> bool {
    world.lookup(page).is_some()
}

fn unpopulated(world: &World, page: u64) -> bool {
    world.entry(page) == Entry::UNPOPULATED
}

/// One vacate and one map of page 1: exactly one of them wins.
fn one_wins(world: &World, vacated: Vacate, map: Map) {
    match vacated {
        Vacate::Done => {
            assert!(matches!(map, Map::NotPopulated | Map::Vacated));
            assert!(unpopulated(world, 1));
        }
        Vacate::StillMapped => {
            assert_eq!(map, Map::New);
            assert!(mapped(world, 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vacate_of_a_whole_table_or_the_map_wins() {
    explore(2, || {
        let world = populated(1);
        let (vacated, map) = race(&world, |cpu| vacate(cpu, pages(0, TABLE)), |cpu| map(cpu, 1, 7));
        one_wins(&world, vacated, map);
        map
    })
    .are(&[Map::New, Map::NotPopulated, Map::Vacated]);
}

#[test]
fn a_vacate_of_a_part_or_the_map_inside_wins() {
    explore(3, || {
        let world = populated(1);
        let (vacated, map) = race(&world, |cpu| vacate(cpu, pages(0, 2)), |cpu| map(cpu, 1, 7));
        one_wins(&world, vacated, map);
        assert_eq!([2, 3].map(|page| world.entry(page)), [Entry::EMPTY; 2]);
        map
    })
    // In a table that lives on no map comes too late.
    .are(&[Map::New, Map::NotPopulated]);
}

#[test]
fn a_map_outside_the_range_is_none_of_the_vacates_business() {
    explore(3, || {
        let world = populated(1);
        let results = race(&world, |cpu| vacate(cpu, pages(1, 2)), |cpu| map(cpu, 2, 7));
        assert_eq!(results, (Vacate::Done, Map::New));
        assert!(mapped(&world, 2) && unpopulated(&world, 1));
    })
    .are(&[()]);
}

#[test]
fn a_map_in_another_table_is_none_of_the_vacates_business() {
    explore(2, || {
        let world = World::new(2);
        world.table.populate(pages(0, 2 * TABLE), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let results = race(&world, |cpu| vacate(cpu, pages(0, TABLE)), |cpu| map(cpu, TABLE, 7));
        assert_eq!(results, (Vacate::Done, Map::New));
        assert!(mapped(&world, TABLE) && unpopulated(&world, 1));
    })
    .are(&[()]);
}

/// The range ends inside the second table: one page of it stays.
#[test]
fn of_an_end_table_the_page_inside_goes_and_the_page_outside_stays() {
    explore(2, || {
        let world = World::new(2);
        world.table.populate(pages(0, TABLE + 2), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let (inside, outside, vacated) = race3(
            &world,
            |cpu| map(cpu, TABLE, 7),
            |cpu| map(cpu, TABLE + 1, 8),
            |cpu| vacate(cpu, pages(0, TABLE + 1)),
        );
        assert_eq!(outside, Map::New);
        assert!(mapped(&world, TABLE + 1));
        match vacated {
            Vacate::Done => assert!(unpopulated(&world, 0) && unpopulated(&world, TABLE)),
            Vacate::StillMapped => assert!(mapped(&world, TABLE) && !unpopulated(&world, 0)),
            other => panic!("{other:?}"),
        }
        inside
    })
    .are(&[Map::New, Map::NotPopulated]);
}

/// All of the last pages of a table go, and with them the table.
#[test]
fn an_end_table_without_pages_goes_as_well() {
    explore(2, || {
        let world = World::new(1);
        world.table.populate(pages(1, 3), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let (vacated, map) = race(&world, |cpu| vacate(cpu, pages(1, 3)), |cpu| map(cpu, 1, 7));
        one_wins(&world, vacated, map);
        let walk = world.table.pin().walk(gpa(1), Level::L1);
        assert_eq!(walk.len() == 1, vacated == Vacate::Done);
        map
    })
    .are(&[Map::New, Map::NotPopulated]);
}

fn two_mappers(range: GpaRange, pages: [u64; 2], numbers: [u64; 2]) -> (Vacate, [Map; 2]) {
    let world = populated(1);
    let (one, two, vacated) = race3(
        &world,
        move |cpu| map(cpu, pages[0], numbers[0]),
        move |cpu| map(cpu, pages[1], numbers[1]),
        move |cpu| vacate(cpu, range),
    );
    let results = [one, two];
    match vacated {
        Vacate::Done => {
            let none = |map| matches!(map, Map::NotPopulated | Map::Vacated);
            assert!(results.into_iter().all(none), "{results:?}");
            assert!(unpopulated(&world, 1));
        }
        Vacate::StillMapped => {
            let new = results.into_iter().filter(|&map| map == Map::New).count();
            assert_eq!(new, if pages[0] == pages[1] { 1 } else { 2 }, "{results:?}");
            assert!(mapped(&world, 1) && mapped(&world, pages[1]));
        }
        other => panic!("{other:?}"),
    }
    (vacated, results)
}

#[test]
fn two_maps_of_two_pages_both_win_or_the_vacate_does() {
    explore(2, || two_mappers(pages(0, TABLE), [1, 2], [7, 8]).0)
        .are(&[Vacate::Done, Vacate::StillMapped]);
}

#[test]
fn two_maps_of_one_page_agree_or_the_vacate_wins() {
    explore(2, || two_mappers(pages(0, TABLE), [1, 1], [7, 8]).0)
        .are(&[Vacate::Done, Vacate::StillMapped]);
}

/// The one that finds the other's leaf does not take its word for it.
#[test]
fn two_maps_of_one_page_to_one_frame_agree_or_the_vacate_wins() {
    explore(2, || {
        let (vacated, results) = two_mappers(pages(0, TABLE), [1, 1], [7, 7]);
        (vacated, results.contains(&Map::Same))
    })
    .are(&[(Vacate::Done, false), (Vacate::StillMapped, true)]);
}

#[test]
fn two_maps_in_an_end_table_agree_or_the_vacate_wins() {
    explore(2, || two_mappers(pages(1, 2), [1, 1], [7, 8]).0)
        .are(&[Vacate::Done, Vacate::StillMapped]);
}

fn unmap_beside(range: GpaRange) -> (Vacate, bool) {
    let world = Arc::new(World::mapped(1));
    let (vacated, old) = race(&world, move |cpu| vacate(cpu, range), |cpu| cpu.unmap(1));
    // It was mapped before anything else, so nobody but the unmap can have it.
    assert_eq!(old.unwrap().pfn, frame(1));
    assert_eq!(unpopulated(&world, 1), vacated == Vacate::Done);
    (vacated, mapped(&world, 1))
}

#[test]
fn an_unmap_gets_its_page_whatever_the_vacate_comes_to() {
    explore(3, || unmap_beside(pages(0, TABLE)))
        .are(&[(Vacate::Done, false), (Vacate::StillMapped, false)]);
}

#[test]
fn an_unmap_in_an_end_table_gets_its_page_whatever_the_vacate_comes_to() {
    explore(3, || unmap_beside(pages(1, 2)))
        .are(&[(Vacate::Done, false), (Vacate::StillMapped, false)]);
}

/// A page that is mapped and unmapped again while its table is taken away: whoever owns the frame in
/// the end, it is one of them.
fn map_and_unmap_beside(range: GpaRange) -> (Vacate, Map, bool) {
    let world = populated(1);
    let (map, old, vacated) =
        race3(&world, |cpu| map(cpu, 1, 7), |cpu| cpu.unmap(1), move |cpu| vacate(cpu, range));
    let (owned, taken) = (map == Map::New, old.is_ok());
    assert_eq!(mapped(&world, 1), owned && !taken);
    assert!(owned || !taken, "{map:?} was unmapped");
    if vacated == Vacate::Done {
        assert!(unpopulated(&world, 1));
    }
    assert!(matches!(vacated, Vacate::Done | Vacate::StillMapped), "{vacated:?}");
    (vacated, map, taken)
}

#[test]
fn a_page_that_is_unmapped_was_mapped_also_beside_a_vacate() {
    explore(2, || map_and_unmap_beside(pages(0, TABLE))).are(&[
        (Vacate::Done, Map::New, true),
        (Vacate::Done, Map::NotPopulated, false),
        (Vacate::Done, Map::Vacated, false),
        (Vacate::StillMapped, Map::New, false),
        (Vacate::StillMapped, Map::New, true),
    ]);
}

#[test]
fn a_page_of_an_end_table_that_is_unmapped_was_mapped_also_beside_a_vacate() {
    explore(2, || map_and_unmap_beside(pages(1, 2))).are(&[
        (Vacate::Done, Map::New, true),
        (Vacate::Done, Map::NotPopulated, false),
        (Vacate::StillMapped, Map::New, false),
        (Vacate::StillMapped, Map::New, true),
    ]);
}

/// Vacates `range` and populates it again, beside a map of page 1.
fn again_beside(range: GpaRange) -> Map {
    let world = populated(2);
    let (vacated, map) = race(
        &world,
        move |cpu| {
            let vacated = vacate(cpu, range);
            if vacated == Vacate::Done {
                populate(cpu, range);
            }
            vacated
        },
        |cpu| map(cpu, 1, 7),
    );
    assert_eq!(mapped(&world, 1), map == Map::New);
    assert!(!unpopulated(&world, 1));
    assert!(map == Map::New || vacated == Vacate::Done);
    map
}

#[test]
fn a_slow_map_stands_in_the_table_that_is_there_or_not_at_all() {
    explore(2, || again_beside(pages(0, TABLE))).are(&[Map::New, Map::NotPopulated, Map::Vacated]);
}

#[test]
fn a_slow_map_in_an_end_table_stands_as_long_as_nobody_takes_it_out() {
    explore(2, || again_beside(pages(1, 2))).are(&[Map::New, Map::NotPopulated]);
}

/// Two claims in a row, with another life of the page in between.
fn twice_beside(range: GpaRange) -> (Vacate, Vacate, Map) {
    let world = populated(3);
    let (vacated, map) = race(
        &world,
        move |cpu| {
            let first = vacate(cpu, range);
            if first == Vacate::Done {
                populate(cpu, range);
            }
            (first, vacate(cpu, range))
        },
        |cpu| map(cpu, 1, 7),
    );
    let (first, second) = vacated;
    assert_eq!(mapped(&world, 1), map == Map::New, "{vacated:?}, {map:?}");
    assert_eq!(second, if map == Map::New { Vacate::StillMapped } else { Vacate::Done });
    (first, second, map)
}

#[test]
fn a_map_that_sleeps_over_two_vacates_knows_what_it_came_to() {
    explore(1, || twice_beside(pages(0, TABLE))).are(&[
        (Vacate::StillMapped, Vacate::StillMapped, Map::New),
        (Vacate::Done, Vacate::StillMapped, Map::New),
        (Vacate::Done, Vacate::Done, Map::Vacated),
        (Vacate::Done, Vacate::Done, Map::NotPopulated),
    ]);
}

#[test]
fn a_map_in_an_end_table_that_sleeps_over_two_vacates_knows_what_it_came_to() {
    explore(1, || twice_beside(pages(1, 2))).are(&[
        (Vacate::StillMapped, Vacate::StillMapped, Map::New),
        (Vacate::Done, Vacate::StillMapped, Map::New),
        (Vacate::Done, Vacate::Done, Map::NotPopulated),
    ]);
}

/// Two claims in a row, of different ranges: what the mapper reads of the one must not be taken for the
/// other's.
#[test]
fn a_map_in_the_first_of_two_ranges_knows_what_it_came_to() {
    explore(1, || {
        let world = World::new(2);
        world.table.populate(pages(0, 2 * TABLE), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let (vacated, map) = race(
            &world,
            |cpu| [pages(0, TABLE), pages(TABLE, 2 * TABLE)].map(|range| vacate(cpu, range)),
            |cpu| map(cpu, 1, 7),
        );
        one_wins(&world, vacated[0], map);
        assert_eq!(vacated[1], Vacate::Done);
        map
    })
    .are(&[Map::New, Map::NotPopulated, Map::Vacated]);
}

/// The slot was taken before the vacate began; between, its owner looks at another page, whose walk
/// sees the tree as it is. If that shows that the page has its new table, the slot must know it.
#[test]
fn a_slot_kept_over_a_vacate_maps_where_the_page_is_now() {
    explore(1, || {
        let world = populated(2);
        let ((seen, map), ()) = race(
            &world,
            |cpu| {
                let pin = cpu.pin();
                let slot = pin.slot(gpa(1)).unwrap();
                let seen = pin.lookup(gpa(2)).is_some();
                let map = told(slot.map(frame(7), PageSize::Size4K, RWX));
                assert_eq!(slot.mapping().is_some(), map == Map::New);
                assert!(!slot.set_dirty());
                assert_eq!(slot.dirty(), map == Map::New);
                (seen, map)
            },
            |cpu| {
                if vacate(cpu, pages(0, TABLE)) == Vacate::Done {
                    populate(cpu, pages(0, TABLE));
                    cpu.map(2, 8).unwrap();
                }
            },
        );
        assert_eq!(mapped(&world, 1), map == Map::New);
        (seen, map)
    })
    .are(&[
        (false, Map::New),
        (false, Map::NotPopulated),
        (false, Map::Vacated),
        // Also if it was seen in time.
        (true, Map::New),
    ]);
}

#[test]
fn a_mapped_page_is_never_hidden_by_a_vacate_that_fails() {
    explore(4, || {
        let world = Arc::new(World::mapped(1));
        let (vacated, found) =
            race(&world, |cpu| vacate(cpu, pages(0, 2)), |cpu| cpu.lookup(1).unwrap().pfn);
        assert_eq!((vacated, found), (Vacate::StillMapped, frame(1)));
        assert_eq!([0, 2].map(|page| world.entry(page)), [Entry::EMPTY; 2]);
    })
    .are(&[()]);
}

/// Of a part of the table, or of all of it.
#[test]
fn a_map_is_not_refused_by_a_vacate_that_fails() {
    for end in [2, TABLE] {
        explore(2, move || {
            let world = Arc::new(World::mapped(1));
            let results = race(&world, move |cpu| vacate(cpu, pages(0, end)), |cpu| map(cpu, 0, 7));
            assert_eq!(results, (Vacate::StillMapped, Map::New));
            assert!(mapped(&world, 0));
        })
        .are(&[()]);
    }
}

#[test]
fn of_two_vacates_one_wins() {
    explore(2, || {
        let world = populated(1);
        let results =
            race(&world, |cpu| vacate(cpu, pages(0, TABLE)), |cpu| vacate(cpu, pages(0, TABLE)));
        assert!(unpopulated(&world, 1));
        results
    })
    .are(&[(Vacate::Done, Vacate::NotPopulated), (Vacate::NotPopulated, Vacate::Done)]);
}
