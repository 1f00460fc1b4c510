//! Tables that come and go: populate, vacate and refine against each other, and against who walks in them.

use loom_tests::{
    Arc, Cpu, RWX, World, explore, frame, gpa, leaf::clear_dirty, no_kick, pages, pair,
    race_unpinned, sizes::TABLE,
};
use slat::{
    Bitmap, GpaRange, MapError, Mapped, Mark, Noted, PageSize, PopulateError, Prot, RefineError,
    VacateError,
};

fn populate(cpu: &Cpu, range: GpaRange) -> Result<(), PopulateError> {
    cpu.table().populate(range, PageSize::Size4K)
}

fn refine(cpu: &Cpu) -> Result<(), RefineError> {
    cpu.table().refine(pages(1, 2), PageSize::Size4K)
}

fn vacate(cpu: &Cpu, range: GpaRange) -> Result<(), VacateError> {
    cpu.table().vacate(range)
}

/// A table with room for one large leaf, and frames for so many leaf tables.
fn roomy(leaf_tables: u64) -> Arc<World> {
    let world = World::new(leaf_tables);
    world.table.populate(pages(0, TABLE), PageSize::Size2M).unwrap();
    Arc::new(world)
}

#[test]
fn a_leaf_table_stays_if_pages_are_populated_in_it_while_its_others_are_vacated() {
    pair(3, |play| {
        let world = World::new(1);
        world.table.populate(pages(0, 2), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let said = play.race(
            &world,
            |cpu| vacate(cpu, pages(0, 2)),
            |cpu| populate(cpu, pages(2, 4)).map_err(drop),
        );
        (said, world.end())
    })
    .as_in_turn();
}

#[test]
fn of_a_refine_and_a_populate_that_have_a_frame_for_one_the_other_changes_nothing() {
    pair(3, |play| {
        let world = roomy(1);
        let next = pages(TABLE, TABLE + 1);
        let said =
            play.race(&world, |cpu| refine(cpu).is_ok(), move |cpu| populate(cpu, next).is_ok());
        (said, world.end())
    })
    .as_in_turn();
}

#[test]
fn room_is_refined_and_vacated_or_vacated_and_not_refined() {
    pair(3, |play| {
        let world = roomy(1);
        let all = pages(0, TABLE);
        (play.race(&world, refine, move |cpu| vacate(cpu, all)), world.end())
    })
    .as_in_turn();
}

#[test]
fn two_refines_of_one_room_make_one_table() {
    pair(3, |play| {
        let world = roomy(1);
        let other = |cpu: &Cpu| cpu.table().refine(pages(0, 1), PageSize::Size4K);
        (play.race(&world, refine, other), world.end())
    })
    .as_in_turn();
}

#[test]
fn of_a_refine_and_a_split_that_have_a_frame_for_one_the_other_changes_nothing() {
    for world in [World::new, World::breaking] {
        pair(3, move |play| {
            let world = Arc::new(world(1));
            world.table.populate(pages(0, TABLE), PageSize::Size2M).unwrap();
            let next = pages(TABLE, 2 * TABLE);
            world.table.populate_mapped(next, PageSize::Size2M, frame(TABLE), RWX).unwrap();
            let split = |cpu: &Cpu| cpu.table().split(gpa(TABLE), PageSize::Size4K, &no_kick);
            let said = play.race(&world, |cpu| refine(cpu).is_ok(), move |cpu| split(cpu).is_ok());
            (said, world.end())
        })
        .as_in_turn();
    }
}

#[test]
fn a_large_leaf_that_is_split_beside_a_vacate_stops_it_all_the_same() {
    for world in [World::new, World::breaking] {
        pair(3, move |play| {
            let world = world(1);
            let all = pages(0, TABLE);
            world.table.populate_mapped(all, PageSize::Size2M, frame(0), RWX).unwrap();
            let world = Arc::new(world);
            let split = |cpu: &Cpu| cpu.table().split(gpa(0), PageSize::Size4K, &no_kick);
            (play.race(&world, split, move |cpu| vacate(cpu, all)), world.end())
        })
        .as_in_turn();
    }
}

/// Room that is made smaller, and a page that is mapped there and made dirty.
fn refine_and_map(cpu: &Cpu, step: usize) {
    match step {
        0 => refine(cpu).unwrap(),
        1 => assert_eq!(cpu.map(1, 1), Ok(Mapped::New)),
        _ => assert!(!cpu.pin().slot(gpa(1)).unwrap().set_dirty()),
    }
}

#[test]
fn who_looks_through_room_that_is_refined_meets_what_is_mapped_there_by_then() {
    let all = || pages(0, TABLE);
    let looks: [fn(&Cpu, GpaRange) -> u64; 4] = [
        |cpu, range| cpu.pin().protect(range, Prot::R).unwrap().0,
        |cpu, range| {
            let mut found = Bitmap::new(range);
            cpu.pin().harvest(range, Mark::Dirty, &mut found).unwrap().0
        },
        |cpu, range| cpu.pin().mapped(range).unwrap(),
        |cpu, range| cpu.pin().watch(range).unwrap().0,
    ];
    for look in looks {
        pair(2, move |play| {
            let world = roomy(1);
            let said = play.race_steps(&world, move |cpu| look(cpu, all()), 3, refine_and_map);
            (said, world.end())
        })
        .as_in_turn();
    }
}

/// A page of the second table, which is mapped, made dirty and watched while others are on their way.
fn populate_next(cpu: &Cpu, step: usize) {
    let page = pages(TABLE, TABLE + 1);
    match step {
        0 => cpu.table().populate_mapped(page, PageSize::Size4K, frame(9), RWX).unwrap(),
        1 => assert_eq!(cpu.pin().note_dirty(gpa(TABLE)), Ok(Noted::New)),
        _ => drop(cpu.pin().watch(page).unwrap()),
    }
}

#[test]
fn who_goes_through_a_range_beside_a_populate_visits_what_is_there_when_it_comes() {
    let visits: [fn(&Cpu, GpaRange) -> u64; 4] = [
        |cpu, range| cpu.pin().unmap_range(range, |_| ()).unwrap().0,
        |cpu, range| {
            let mut found = Bitmap::new(range);
            cpu.pin().harvest(range, Mark::Dirty, &mut found).unwrap().0
        },
        |cpu, range| {
            let mut selection = Bitmap::new(range);
            selection.set_range(range).unwrap();
            cpu.pin().set_dirty(&selection).unwrap()
        },
        |cpu, range| cpu.pin().unwatch(range).unwrap(),
    ];
    // The last three find the page as it was mapped, or dirty, or watched.
    for (visit, steps) in visits.into_iter().zip([1, 2, 1, 3]) {
        pair(2, move |play| {
            let world = World::new(2);
            let here = pages(0, 1);
            world.table.populate_mapped(here, PageSize::Size4K, frame(0), RWX).unwrap();
            let world = Arc::new(world);
            let all = pages(0, 2 * TABLE);
            let visit = move |cpu: &Cpu| visit(cpu, all);
            (play.race_steps(&world, visit, steps, populate_next), world.end())
        })
        .as_in_turn();
    }
}

#[test]
fn a_bit_is_set_in_a_page_of_room_that_is_refined_when_it_is_mapped() {
    pair(3, |play| {
        let world = roomy(1);
        let set = |cpu: &Cpu| cpu.pin().slot(gpa(1)).unwrap().set_accessed();
        (play.race_steps(&world, set, 2, refine_and_map), world.end())
    })
    .as_in_turn();
}

/// A page that is unmapped, so that its table can be vacated, while its rights are changed.
#[test]
fn rights_that_change_in_a_table_that_is_vacated_change_in_a_page_that_was_mapped() {
    pair(2, |play| {
        let world = Arc::new(World::mapped(1));
        let said = play.race_steps(
            &world,
            |cpu| cpu.pin().protect(pages(0, TABLE), Prot::R).unwrap().0,
            2,
            |cpu, step| match step {
                0 => cpu.unmap(1).map(|old| old.attr.prot()).map_err(drop),
                _ => vacate(cpu, pages(0, TABLE)).map(|()| Prot::empty()).map_err(drop),
            },
        );
        (said, world.end())
    })
    .as_in_turn();
}

/// What a walker in a table that was vacated does to it, or finds there.
fn visits() -> [fn(&Cpu) -> bool; 8] {
    [
        |cpu| cpu.lookup(1).is_some(),
        |cpu| cpu.pin().translate(gpa(1), 8, Prot::R).is_ok(),
        |cpu| cpu.unmap(1).is_ok(),
        |cpu| cpu.pin().protect(pages(0, TABLE), Prot::R).unwrap().0 > 0,
        clear_dirty,
        |cpu| cpu.pin().note_dirty(gpa(1)).is_ok(),
        |cpu| cpu.pin().watch(pages(0, TABLE)).unwrap().0 > 0,
        |cpu| {
            let mut found = Bitmap::new(pages(0, TABLE));
            cpu.pin().harvest(pages(0, TABLE), Mark::Dirty, &mut found).unwrap().0 > 0
        },
    ]
}

/// Vacates the first leaf table, has it freed, and populates the second range, for which there is no other
/// frame: all its pages are mapped, and the second one is dirty.
fn next_life(cpu: &Cpu) -> bool {
    vacate(cpu, pages(0, TABLE)).unwrap();
    let freed = cpu.table().reclaim(&no_kick);
    let next = pages(TABLE, 2 * TABLE);
    let populated = cpu.table().populate_mapped(next, PageSize::Size4K, frame(0), RWX).is_ok();
    assert!(populated || freed.waiting > 0);
    if populated {
        assert!(!cpu.pin().slot(gpa(TABLE + 1)).unwrap().set_dirty());
    }
    populated
}

#[test]
fn nobody_who_is_in_a_table_that_was_vacated_meets_its_next_life() {
    for visit in visits() {
        explore(2, move || {
            let world = Arc::new(World::populated());
            let (populated, met) = race_unpinned(&world, next_life, visit);
            assert!(!met);
            if populated {
                let leaf = world.lookup(TABLE + 1).unwrap();
                assert!(leaf.dirty && leaf.attr == RWX);
            }
            populated
        })
        .are(&[true, false]);
    }
}

/// Late or not: the frame that the table gets next is a clean one, and is not cleaned again.
#[test]
fn a_map_in_a_table_that_was_vacated_leaves_nothing_for_its_next_life() {
    explore(2, || {
        let world = Arc::new(World::populated());
        let next = pages(TABLE, 2 * TABLE);
        let (populated, map) = race_unpinned(
            &world,
            move |cpu| {
                let vacated = vacate(cpu, pages(0, TABLE)).is_ok();
                cpu.table().reclaim(&no_kick);
                vacated && populate(cpu, next).is_ok()
            },
            |cpu| cpu.map(1, 7),
        );
        assert_eq!(world.lookup(1).is_some(), map.is_ok());
        assert_eq!(world.table.pin().mapped(next), Ok(0));
        assert!(!populated || map.is_err());
        match map {
            Ok(mapped) => assert_eq!(mapped, Mapped::New),
            Err(MapError::Vacated { accessed: false, dirty: false, .. }) => {}
            Err(error) => assert_eq!(error, MapError::NotPopulated { gpa: gpa(1) }),
        }
        (populated, matches!(map, Err(MapError::Vacated { .. })))
    })
    // Found too late, it still held a pin when the frame was wanted, or did not any more.
    .are(&[(false, false), (false, true), (true, false), (true, true)]);
}

/// A table of two leaf tables, the first of which was vacated, and waits for nobody any more; behind them is
/// room for a large leaf, and one.
fn waiting() -> World {
    waiting_in(World::new(2))
}

fn waiting_in(world: World) -> World {
    let [room, large] = [2, 3].map(|number| pages(number * TABLE, (number + 1) * TABLE));
    world.table.populate(pages(0, 2 * TABLE), PageSize::Size4K).unwrap();
    world.table.populate(room, PageSize::Size2M).unwrap();
    world.table.populate_mapped(large, PageSize::Size2M, frame(0), RWX).unwrap();
    let pin = world.table.pin();
    world.table.vacate(pages(0, TABLE)).unwrap();
    drop(pin);
    assert_eq!(world.table.stats().waiting, 1);
    world
}

/// Frees what waits, and a second time: what another has just retired may have had to wait for it.
fn reclaim(cpu: &Cpu) -> u64 {
    cpu.table().reclaim(&no_kick).freed
}

#[test]
fn of_two_reclaims_one_frees_the_table() {
    pair(3, |play| {
        let world = Arc::new(waiting());
        (play.race(&world, reclaim, reclaim), world.end())
    })
    .as_in_turn();
}

#[test]
fn a_table_that_is_retired_beside_a_reclaim_is_freed_as_well() {
    pair(3, |play| {
        let world = Arc::new(waiting());
        let next = pages(TABLE, 2 * TABLE);
        let said = play.race(&world, reclaim, move |cpu| vacate(cpu, next));
        let freed = world.table.reclaim(&no_kick);
        assert_eq!(freed.waiting, 0);
        (said.1, world.end())
    })
    .as_in_turn();
}

/// There are no frames but those that wait.
#[test]
fn who_wants_the_frame_that_is_being_reclaimed_gets_it() {
    let wants: [fn(&Cpu) -> bool; 3] = [
        |cpu| populate(cpu, pages(0, 1)).is_ok(),
        |cpu| cpu.table().refine(pages(2 * TABLE, 2 * TABLE + 1), PageSize::Size4K).is_ok(),
        |cpu| cpu.table().split(gpa(3 * TABLE), PageSize::Size4K, &no_kick).is_ok(),
    ];
    let split = wants[2];
    let any = wants.into_iter().map(|want| (want, World::new as fn(u64) -> World));
    for (want, world) in any.chain([(split, World::breaking as fn(u64) -> World)]) {
        pair(3, move |play| {
            let world = Arc::new(waiting_in(world(2)));
            let (_, wanted) = play.race(&world, reclaim, want);
            assert!(wanted.is_none_or(|got| got));
            (wanted, world.end())
        })
        .as_in_turn();
    }
}
