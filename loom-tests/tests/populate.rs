//! Populate beside itself and beside everything that takes no lock.

use loom_tests::{Arc, Cpu, RWX, World, explore, frame, gpa, pages, race, race3, sizes::TABLE};
use slat::{Entry, FrameSource, GpaRange, Level, MapError, Mapped, PageSize, PopulateError, Prot};

fn populate(range: GpaRange) -> impl Fn(&Cpu) -> Result<(), PopulateError> + Copy {
    move |cpu| cpu.table().populate(range, PageSize::Size4K)
}

fn populated(world: &World, page: u64) -> bool {
    world.entry(page) != Entry::UNPOPULATED
}

/// Every table that a walk passes checks, in the model, that it was initialised before.
#[test]
fn a_walk_that_sees_a_new_table_sees_it_initialised() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let (result, steps) = race(&world, populate(pages(1, 3)), |cpu| {
            let walk = cpu.pin().walk(gpa(0), Level::L1);
            assert_eq!(walk.last().unwrap().entry, Entry::UNPOPULATED);
            walk.last().unwrap().level == Level::L1
        });
        assert_eq!(result, Ok(()));
        assert_eq!([0, 1, 2, 3].map(|page| populated(&world, page)), [false, true, true, false]);
        steps
    })
    .are(&[true, false]);
}

#[test]
fn a_map_beside_populate_is_refused_or_stands() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let (result, mapped) = race(&world, populate(pages(1, 3)), |cpu| cpu.map(1, 7));
        assert_eq!(result, Ok(()));
        let stands = world.lookup(1).map(|mapping| mapping.pfn);
        match mapped {
            Ok(how) => assert_eq!((how, stands), (Mapped::New, Some(frame(7)))),
            Err(error) => {
                assert_eq!((error, stands), (MapError::NotPopulated { gpa: gpa(1) }, None));
            }
        }
        mapped.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_map_beside_the_page_of_a_populate_is_refused() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let (result, mapped) = race(&world, populate(pages(1, 3)), |cpu| cpu.map(3, 7));
        assert_eq!((result, mapped), (Ok(()), Err(MapError::NotPopulated { gpa: gpa(3) })));
        assert_eq!(world.entry(3), Entry::UNPOPULATED);
    })
    .are(&[()]);
}

/// The second range lies in a leaf table that is live already.
#[test]
fn pages_are_populated_in_a_table_that_is_in_use() {
    explore(4, || {
        let world = World::new(1);
        world.table.populate(pages(0, 2), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let (result, below, within) =
            race3(&world, populate(pages(2, 4)), |cpu| cpu.map(1, 7), |cpu| cpu.map(2, 8));
        assert_eq!((result, below), (Ok(()), Ok(Mapped::New)));
        assert_eq!(world.lookup(1).unwrap().pfn, frame(7));
        assert_eq!(world.lookup(2).is_some(), within.is_ok());
        within.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn of_two_overlapping_populates_one_wins_whole() {
    explore(4, || {
        // Together they would need three leaf tables; each alone needs two.
        let world = Arc::new(World::new(3));
        let first = pages(0, TABLE + 1);
        let second = pages(TABLE, 3 * TABLE);
        let (one, two) = race(&world, populate(first), populate(second));
        let winner = match (one, two) {
            (Ok(()), Err(PopulateError::Overlap { gpa: at }))
            | (Err(PopulateError::Overlap { gpa: at }), Ok(())) => {
                assert_eq!(at, gpa(TABLE));
                if one.is_ok() { first } else { second }
            }
            other => panic!("{other:?}"),
        };
        for page in [0, TABLE - 1, TABLE, TABLE + 1, 2 * TABLE, 3 * TABLE - 1] {
            assert_eq!(populated(&world, page), winner.contains(gpa(page)), "page {page}");
        }
        assert_eq!(world.table.frames().free_frames(), 1);
        one.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn two_populates_of_one_leaf_table_both_succeed() {
    explore(4, || {
        let world = Arc::new(World::new(1));
        let (one, two) = race(&world, populate(pages(0, 2)), populate(pages(2, TABLE)));
        assert_eq!((one, two), (Ok(()), Ok(())));
        assert!((0..4).all(|page| populated(&world, page)));
    })
    .are(&[()]);
}

#[test]
fn of_two_populates_that_have_frames_for_one_the_other_changes_nothing() {
    explore(4, || {
        let world = Arc::new(World::new(2));
        let ranges = [pages(0, 2 * TABLE), pages(2 * TABLE, 4 * TABLE)];
        let (one, two) = race(&world, populate(ranges[0]), populate(ranges[1]));
        let loser = match (one, two) {
            (Ok(()), Err(PopulateError::OutOfFrames(_))) => 1,
            (Err(PopulateError::OutOfFrames(_)), Ok(())) => 0,
            other => panic!("{other:?}"),
        };
        assert!(!populated(&world, ranges[loser].start().get() / slat::PAGE_BYTES));
        assert!(populated(&world, ranges[1 - loser].start().get() / slat::PAGE_BYTES));
        loser
    })
    .are(&[0, 1]);
}

#[test]
fn a_lookup_beside_populate_mapped_finds_the_page_with_its_contents() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                let range = pages(1, 3);
                cpu.table().populate_mapped(range, PageSize::Size4K, frame(7), RWX).unwrap();
            },
            |cpu| {
                cpu.lookup(1).map(|mapping| {
                    assert_eq!(mapping.pfn, frame(7));
                    cpu.page(1).read()
                })
            },
        );
        found
    })
    .are(&[None, Some(42)]);
}

#[test]
fn a_lookup_beside_populate_mapped_in_a_live_table_finds_the_page_with_its_contents() {
    explore(5, || {
        let world = World::new(1);
        world.table.populate(pages(0, 1), PageSize::Size4K).unwrap();
        let world = Arc::new(world);
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                let range = pages(1, 3);
                cpu.table().populate_mapped(range, PageSize::Size4K, frame(7), RWX).unwrap();
            },
            |cpu| cpu.lookup(1).map(|_| cpu.page(1).read()),
        );
        found
    })
    .are(&[None, Some(42)]);
}

#[test]
fn no_map_comes_between_populate_and_its_mappings() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let (result, mapped) = race(
            &world,
            |cpu| cpu.table().populate_mapped(pages(1, 3), PageSize::Size4K, frame(7), RWX),
            |cpu| cpu.map(1, 9),
        );
        assert_eq!(result, Ok(()));
        let stands = world.lookup(1).unwrap();
        assert_eq!(stands.pfn, frame(7));
        match mapped {
            Err(MapError::NotPopulated { .. }) => false,
            Err(MapError::Occupied(found)) => found == stands,
            other => panic!("{other:?}"),
        }
    })
    .are(&[true, false]);
}

#[test]
fn a_slot_taken_before_populate_follows_the_table_linked_below_it() {
    explore(5, || {
        let world = Arc::new(World::new(1));
        let (mapped, result) = race(
            &world,
            |cpu| {
                let pin = cpu.pin();
                let slot = pin.slot(gpa(1)).unwrap();
                let map = || slot.map(frame(7), PageSize::Size4K, RWX).ok();
                let mapped = [map(), map()];
                // The slot serves what it mapped, wherever that is by now.
                assert_eq!(slot.mapping().is_some(), mapped[1].is_some());
                assert!(!slot.set_dirty());
                assert_eq!(slot.dirty(), mapped[1].is_some());
                mapped
            },
            populate(pages(0, TABLE)),
        );
        assert_eq!(result, Ok(()));
        match mapped {
            [None, None] => 0,
            [None, Some(Mapped::New)] => 1,
            [Some(Mapped::New), Some(Mapped::Same)] => 2,
            other => panic!("{other:?}"),
        }
    })
    .are(&[0, 1, 2]);
}

/// A range operation on its way meets the tables that are there when it comes to them.
#[test]
fn a_range_operation_beside_populate_visits_what_it_meets() {
    explore(4, || {
        let world = World::new(2);
        world.table.populate_mapped(pages(0, 1), PageSize::Size4K, frame(0), RWX).unwrap();
        let world = Arc::new(world);
        let (result, changed) = race(
            &world,
            |cpu| {
                let range = pages(TABLE, TABLE + 1);
                cpu.table().populate_mapped(range, PageSize::Size4K, frame(9), RWX)
            },
            |cpu| cpu.pin().protect(pages(0, 2 * TABLE), Prot::R).unwrap().0,
        );
        assert_eq!(result, Ok(()));
        let rights = [0, TABLE].map(|page| world.lookup(page).unwrap().attr.prot());
        assert_eq!(rights, [Prot::R, if changed == 2 { Prot::R } else { Prot::RWX }]);
        changed
    })
    .are(&[1, 2]);
}
