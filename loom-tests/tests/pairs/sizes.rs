//! Sizes: split, collapse and refine, against each other and against tables that come and go.

use loom_tests::{
    Arc, Cpu, End, Exception, RWX, World, explore, frame, gpa,
    leaf::clear_dirty,
    no_kick, pages, pair, race_unpinned,
    sizes::{LARGE, SMALL, TABLE, collapse, split},
};
use slat::{Bitmap, CollapseError, Mark, PAGE_BYTES, Prot};

/// The pages of the neighbouring leaf table, or large leaf.
fn next() -> slat::GpaRange {
    pages(TABLE, 2 * TABLE)
}

/// Whether the leaves were collapsed, or not all of them were there; `None` if others were in the way.
type Said = Option<bool>;

/// Collapses the first leaf table. Which leaf is missing is looked at one by one.
fn try_collapse(cpu: &Cpu) -> Said {
    match cpu.table().collapse(gpa(0), LARGE, &no_kick) {
        Ok(()) => Some(true),
        Err(CollapseError::NotMapped { .. }) => Some(false),
        Err(CollapseError::Busy) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A collapse that gave up is none.
const fn gave_up<T: Clone>() -> Exception<(Option<Said>, T, End)> {
    Exception::new("Busy: nothing was changed", |(said, other, end)| {
        (*said == Some(None)).then(|| (None, other.clone(), end.clone()))
    })
}

#[test]
fn two_splits_of_one_leaf_make_one_table() {
    for world in [World::new, World::breaking] {
        pair(3, move |play| {
            let world = Arc::new(world(1).filled(LARGE));
            (play.race(&world, split, split), world.end())
        })
        .as_in_turn();
    }
}

#[test]
fn two_collapses_of_one_table_make_one_leaf() {
    pair(2, |play| {
        let world = Arc::new(World::new(1).filled(SMALL));
        (play.race(&world, try_collapse, try_collapse), world.end())
    })
    .as_in_turn();
}

/// The lock is let go of while the collapse waits.
#[test]
fn a_neighbour_comes_or_goes_beside_a_collapse() {
    let changes: [fn(&Cpu) -> bool; 4] = [
        |cpu| cpu.table().populate(pages(2 * TABLE, 3 * TABLE), SMALL).is_ok(),
        |cpu| cpu.table().vacate(pages(TABLE, 2 * TABLE)).is_ok(),
        |cpu| cpu.table().refine(pages(3 * TABLE, 3 * TABLE + 1), SMALL).is_ok(),
        |cpu| cpu.table().reclaim(&no_kick).waiting == 0,
    ];
    for change in changes {
        pair(2, move |play| {
            let world = World::new(4).filled(SMALL);
            world.table.populate(next(), SMALL).unwrap();
            world.table.populate(pages(3 * TABLE, 4 * TABLE), LARGE).unwrap();
            let world = Arc::new(world);
            let (collapsed, _) = play.race(&world, try_collapse, change);
            while world.table.reclaim(&no_kick).waiting > 0 {}
            (collapsed, world.end())
        })
        .as_in_turn();
    }
}

/// The table goes, and comes again with other frames, while its collapse waits.
#[test]
fn a_collapse_is_of_the_table_that_is_there_when_it_is_decided() {
    pair(1, |play| {
        let world = Arc::new(World::with_lives(2).filled(SMALL));
        let all = || pages(0, TABLE);
        let change = move |cpu: &Cpu, step| match step {
            0 => cpu.pin().unmap_range(all(), |_| ()).unwrap().0,
            1 => cpu.table().vacate(all()).map_or(0, |()| TABLE),
            _ => {
                let first = frame(TABLE);
                cpu.table().populate_mapped(all(), SMALL, first, RWX).map_or(0, |()| TABLE)
            }
        };
        let (collapsed, said) = play.race_steps(&world, try_collapse, 3, change);
        (collapsed, said, world.end())
    })
    .as_in_turn_but(&[gave_up()]);
}

#[test]
fn a_leaf_is_split_beside_a_collapse_of_its_neighbours() {
    pair(2, |play| {
        let world = World::new(2).filled(SMALL);
        world.table.populate_mapped(next(), LARGE, frame(TABLE), RWX).unwrap();
        let world = Arc::new(world);
        let split = |cpu: &Cpu| cpu.table().split(gpa(TABLE), SMALL, &no_kick);
        let (collapsed, split) = play.race(&world, try_collapse, split);
        (collapsed, split, world.end())
    })
    .as_in_turn();
}

#[test]
fn of_a_split_and_a_populate_that_have_a_frame_for_one_the_other_changes_nothing() {
    for world in [World::new, World::breaking] {
        pair(3, move |play| {
            let world = Arc::new(world(1).filled(LARGE));
            let populate = |cpu: &Cpu| cpu.table().populate(next(), SMALL).is_ok();
            let said = play.race(&world, |cpu| split(cpu).is_ok(), populate);
            (said, world.end())
        })
        .as_in_turn();
    }
}

/// Whoever takes a bit from a table that is being replaced reports it; the leaf may have it as well.
#[test]
fn a_dirty_bit_taken_beside_a_collapse_is_reported_or_still_there() {
    let takes: [fn(&Cpu) -> bool; 2] = [clear_dirty, |cpu| {
        let mut found = Bitmap::new(pages(0, TABLE));
        let (_, flush) = cpu.pin().harvest(pages(0, TABLE), Mark::Dirty, &mut found).unwrap();
        drop(flush);
        found.contains(gpa(1))
    }];
    for take in takes {
        explore(2, move || {
            let world = World::new(1).filled(SMALL);
            assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
            let world = Arc::new(world);
            let (taken, collapsed) = race_unpinned(&world, take, collapse);
            assert!(taken);
            assert!(collapsed || !world.is_dirty(1));
            (collapsed, world.is_dirty(1))
        })
        .are(&[(true, false), (true, true), (false, false)]);
    }
}

/// All pages.
fn all() -> slat::GpaRange {
    pages(0, TABLE)
}

/// A change of page 1, and whether it shows.
type Change = (fn(&Cpu), fn(&World) -> bool);

/// Changes of leaves that allow writes.
fn changes() -> [Change; 6] {
    [
        (
            |cpu| drop(cpu.pin().unmap_range(all(), |_| ()).unwrap()),
            |world| world.lookup(1).is_none(),
        ),
        (
            |cpu| drop(cpu.pin().unmap_many([gpa(1)], |_, old| assert!(old.is_ok()))),
            |world| world.lookup(1).is_none(),
        ),
        (
            |cpu| {
                let mut selection = Bitmap::new(all());
                selection.set(gpa(1)).unwrap();
                assert!(cpu.pin().set_dirty(&selection).unwrap() <= TABLE);
            },
            |world| world.is_dirty(1),
        ),
        (|cpu| assert!(cpu.pin().note_dirty(gpa(1)).is_ok()), |world| world.is_dirty(1)),
        (
            |cpu| _ = cpu.pin().slot(gpa(1)).unwrap().set_accessed(),
            |world| world.lookup(1).unwrap().accessed,
        ),
        (|cpu| drop(cpu.pin().watch(all()).unwrap()), is_watched),
    ]
}

/// Changes of leaves that are watched.
fn changes_of_watched() -> [Change; 2] {
    [
        (|cpu| assert!(cpu.pin().fix_write(gpa(1)).is_ok()), |world| world.is_dirty(1)),
        (|cpu| assert!(cpu.pin().unwatch(all()).is_ok()), |world| !is_watched(world)),
    ]
}

fn is_watched(world: &World) -> bool {
    world.table.pin().slot(gpa(1)).unwrap().watched()
}

/// Makes the change beside a collapse; it shows in whatever is there afterwards.
fn lasts(world: fn() -> World, (change, shows): Change) {
    explore(3, move || {
        let world = Arc::new(world());
        let ((), collapsed) = race_unpinned(&world, change, collapse);
        assert!(shows(&world));
        collapsed
    })
    .are(&[true, false]);
}

#[test]
fn whatever_changes_a_leaf_beside_a_collapse_has_changed_what_is_there_afterwards() {
    for change in changes() {
        lasts(|| World::new(1).filled(SMALL), change);
    }
}

#[test]
fn whatever_changes_a_watched_leaf_beside_a_collapse_has_changed_what_is_there_afterwards() {
    for change in changes_of_watched() {
        lasts(
            || {
                let world = World::new(1).filled(SMALL);
                drop(world.table.pin().watch(all()).unwrap());
                world
            },
            change,
        );
    }
}

/// Collapses the first leaf table, has it freed, and populates the second range, for which there is no other
/// frame: all its pages are mapped, and the second one is dirty.
fn next_life(cpu: &Cpu) -> bool {
    if !collapse(cpu) {
        return false;
    }
    cpu.table().reclaim(&no_kick);
    let populated = cpu.table().populate_mapped(next(), SMALL, frame(TABLE), RWX).is_ok();
    if populated {
        assert!(!cpu.pin().slot(gpa(TABLE + 1)).unwrap().set_dirty());
    }
    populated
}

#[test]
fn nobody_who_is_in_a_table_that_was_collapsed_meets_its_next_life() {
    let visits: [fn(&Cpu) -> bool; 3] = [
        |cpu| cpu.lookup(1).unwrap().frame_of(gpa(1)) == Some(frame(1)),
        |cpu| cpu.pin().translate(gpa(1), PAGE_BYTES, Prot::R).unwrap().pfn == frame(1),
        |cpu| {
            let mut found = Bitmap::new(pages(0, TABLE));
            // What is LATE counts as dirty.
            let count = cpu.pin().harvest(pages(0, TABLE), Mark::Dirty, &mut found).unwrap().0;
            count == 0 || count == TABLE
        },
    ];
    for visit in visits {
        explore(1, move || {
            let world = Arc::new(World::new(1).filled(SMALL));
            let (populated, as_before) = race_unpinned(&world, next_life, visit);
            assert!(as_before);
            assert!(!populated || world.is_dirty(TABLE + 1));
            populated
        })
        .are(&[true, false]);
    }
}
