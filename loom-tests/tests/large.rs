//! Large pages: refine, split and collapse beside whoever maps, unmaps, protects and translates.
//!
//! A leaf table is one large leaf, or all its small ones; page `n` maps frame `n` in either case, so who
//! comes may find both, and must find one.

use loom_tests::{
    Arc, Cpu, Guest, RWX, World, explore, frame, gpa, no_kick, pages, race, race_unpinned,
    race3_unpinned,
    sizes::{
        LARGE, SMALL, TABLE, collapse, reset_beside_split, split, unmap_beside_collapse,
        unmap_beside_split,
    },
};
use slat::{
    Bitmap, MapError, Mapped, Mark, Prot, ProtectError,
    mmu::{Access, Cause},
};

/// The mark of a leaf whose collapse is not over: docs/FORMATS.md.
const LATE: u64 = 1 << 56;

/// A table with room for one large leaf.
fn roomy() -> Arc<World> {
    let world = World::new(1);
    world.table.populate(pages(0, TABLE), LARGE).unwrap();
    Arc::new(world)
}

/// A table with one leaf, of the large size.
fn large() -> Arc<World> {
    Arc::new(World::new(1).filled(LARGE))
}

/// A table with the same pages mapped by small leaves.
fn small() -> World {
    World::new(1).filled(SMALL)
}

#[test]
fn a_small_map_beside_a_refine_finds_the_room_before_or_after() {
    explore(3, || {
        let world = roomy();
        let (refined, map) =
            race(&world, |cpu| cpu.table().refine(pages(1, 2), SMALL), |cpu| cpu.map(1, 1));
        assert_eq!(refined, Ok(()));
        assert_eq!(world.lookup(1).is_some(), map.is_ok());
        map.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn of_a_large_map_and_a_refine_one_comes_first() {
    explore(3, || {
        let world = roomy();
        let (refined, map) = race(
            &world,
            |cpu| cpu.table().refine(pages(1, 2), SMALL),
            |cpu| cpu.pin().map(gpa(0), frame(0), LARGE, RWX),
        );
        assert_eq!(world.size(), map.is_ok().then_some(LARGE));
        match map {
            Ok(mapped) => assert_eq!(mapped, Mapped::New),
            Err(error) => assert_eq!(error, MapError::WrongSize { gpa: gpa(0), granule: SMALL }),
        }
        assert_ne!(map.is_ok(), refined.is_ok());
        map.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_large_leaf_that_comes_and_goes_does_not_leave_large_room_behind_a_refine() {
    explore(3, || {
        let world = roomy();
        let (refined, came) = race(
            &world,
            |cpu| cpu.table().refine(pages(1, 2), SMALL),
            |cpu| {
                let came = cpu.pin().map(gpa(0), frame(0), LARGE, RWX).is_ok();
                came && cpu.unmap(0).is_ok()
            },
        );
        let small = world.table.pin().map(gpa(1), frame(1), SMALL, RWX);
        assert_eq!(small.is_ok(), refined.is_ok());
        (refined.is_ok(), came)
    })
    .are(&[(true, false), (true, true), (false, true)]);
}

#[test]
fn a_page_is_never_hidden_by_a_split() {
    explore(3, || {
        let world = large();
        let (split, seen) = race(&world, split, |cpu| cpu.lookup(1));
        assert_eq!(split, Ok(()));
        let seen = seen.unwrap();
        assert_eq!(seen.frame_of(gpa(1)), Some(frame(1)));
        seen.size
    })
    .are(&[LARGE, SMALL]);
}

#[test]
fn a_map_beside_a_split_is_told_of_the_large_leaf_or_finds_its_own() {
    explore(3, || {
        let world = large();
        let (split, map) = race(&world, split, |cpu| cpu.map(1, 1));
        assert_eq!(split, Ok(()));
        match map {
            Ok(mapped) => assert_eq!(mapped, Mapped::Same),
            Err(MapError::Occupied(mapping)) => assert_eq!(mapping.size, LARGE),
            Err(error) => panic!("{error}"),
        }
        map.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn an_unmap_beside_a_split_takes_the_large_leaf_or_a_small_one() {
    explore(3, || unmap_beside_split(World::new(1))).are(&[LARGE, SMALL]);
}

#[test]
fn rights_that_change_beside_a_split_change_in_what_is_there_afterwards() {
    explore(3, || {
        let world = large();
        let all = pages(0, TABLE);
        let (split, protected) =
            race(&world, split, move |cpu| cpu.pin().protect(all, Prot::R).map(|(n, _)| n));
        assert_eq!((split, protected), (Ok(()), Ok(TABLE)));
        for page in 0..4 {
            assert_eq!(world.lookup(page).unwrap().attr.prot(), Prot::R);
        }
    })
    .are(&[()]);
}

#[test]
fn a_write_beside_a_split_is_in_the_leaf_that_maps_its_page() {
    explore(3, || {
        let world = large();
        let (split, reached) = race(&world, split, |cpu| cpu.access(1, Access::WRITE));
        assert_eq!((split, reached), (Ok(()), Ok(frame(1))));
        assert!(world.is_dirty(1));
        // Written by the large leaf, all its pages are.
        world.is_dirty(2)
    })
    .are(&[true, false]);
}

#[test]
fn a_dirty_bit_taken_beside_a_split_is_reported_or_still_there() {
    explore(3, || reset_beside_split(World::new(1))).are(&[true, false]);
}

#[test]
fn a_page_is_never_hidden_by_a_collapse() {
    explore(3, || {
        let world = Arc::new(small());
        let (seen, collapsed) = race_unpinned(&world, |cpu| cpu.lookup(1).unwrap(), collapse);
        assert_eq!(seen.frame_of(gpa(1)), Some(frame(1)));
        // Who looks does not thwart it; a pin may last for longer than it waits.
        assert_eq!(world.size(), Some(if collapsed { LARGE } else { SMALL }));
        (seen.size, collapsed)
    })
    .are(&[(SMALL, true), (SMALL, false), (LARGE, true)]);
}

#[test]
fn an_unmap_beside_a_collapse_takes_the_large_leaf_or_thwarts_it() {
    explore(3, || unmap_beside_collapse(World::new(1))).are(&[true, false]);
}

#[test]
fn a_map_beside_a_collapse_finds_the_page_as_it_was() {
    explore(3, || {
        let world = Arc::new(small());
        let (map, collapsed) = race_unpinned(&world, |cpu| cpu.map(1, 1), collapse);
        match map {
            Ok(mapped) => assert_eq!(mapped, Mapped::Same),
            Err(MapError::Occupied(mapping)) => {
                assert_eq!((mapping.size, collapsed), (LARGE, true));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(world.size(), Some(if collapsed { LARGE } else { SMALL }));
        (map.is_ok(), collapsed)
    })
    .are(&[(true, true), (true, false), (false, true)]);
}

/// The last page that is missing.
#[test]
fn a_page_that_is_mapped_beside_a_collapse_stays_mapped() {
    explore(3, || {
        let world = Arc::new(small());
        let (_, flush) = world.table.pin().unmap(gpa(1)).unwrap();
        std::mem::forget(flush);
        let (map, collapsed) = race_unpinned(&world, |cpu| cpu.map(1, 1), collapse);
        assert_eq!(map, Ok(Mapped::New));
        assert_eq!(world.lookup(1).unwrap().frame_of(gpa(1)), Some(frame(1)));
        assert_eq!(world.size(), Some(if collapsed { LARGE } else { SMALL }));
        collapsed
    })
    .are(&[true, false]);
}

#[test]
fn rights_that_are_taken_beside_a_collapse_are_taken() {
    explore(2, || {
        let world = Arc::new(small());
        let take = |cpu: &Cpu| cpu.pin().protect(pages(0, TABLE), Prot::R).map(|(n, _)| n);
        let (protected, collapsed) = race_unpinned(&world, take, collapse);
        assert_eq!(protected, Ok(TABLE));
        for page in 0..4 {
            assert_eq!(world.lookup(page).unwrap().attr.prot(), Prot::R);
        }
        collapsed
    })
    .are(&[true, false]);
}

#[test]
fn rights_of_one_page_are_taken_or_the_large_leaf_is_in_the_way() {
    explore(2, || {
        let world = Arc::new(small());
        let take = |cpu: &Cpu| cpu.pin().protect(pages(1, 2), Prot::R).map(|(n, _)| n);
        let (protected, collapsed) = race_unpinned(&world, take, collapse);
        let prot = world.lookup(1).unwrap().attr.prot();
        match protected {
            Ok(_) => assert_eq!((prot, collapsed), (Prot::R, false)),
            Err(error) => assert_eq!((error, prot), (cut(), Prot::RWX)),
        }
        collapsed
    })
    .are(&[true, false]);
}

fn cut() -> ProtectError {
    ProtectError::CutsLarge { gpa: gpa(0) }
}

#[test]
fn a_dirty_bit_that_is_set_beside_a_collapse_is_in_the_leaf_that_is_there() {
    explore(3, || {
        let world = Arc::new(small());
        let set = |cpu: &Cpu| cpu.pin().slot(gpa(1)).unwrap().set_dirty();
        let (_, collapsed) = race_unpinned(&world, set, collapse);
        assert!(world.is_dirty(1));
        assert_eq!(world.is_dirty(2), collapsed);
        collapsed
    })
    .are(&[true, false]);
}

/// A guest that knows the way to the small leaves, and does not come out before it has written one.
#[test]
fn a_write_by_what_the_mmu_has_cached_of_the_old_table_is_in_the_large_leaf() {
    explore(2, || {
        let world = small();
        let mut guest = Guest::warm(&world, 1);
        let world = Arc::new(world);
        let (seen, collapsed) = race_unpinned(
            &world,
            move |cpu| {
                let mut stay = guest.enter();
                assert_eq!(stay.access(2, Access::WRITE), Ok(frame(2)));
                let seen = cpu.lookup(2).unwrap();
                assert!(seen.dirty);
                seen.size
            },
            collapse,
        );
        // Whatever the MMU sets is in the leaf when the collapse is over.
        assert_eq!(world.entry(2).raw() & LATE, 0);
        assert!(world.is_dirty(2));
        (seen, collapsed)
    })
    .are(&[(SMALL, true), (SMALL, false), (LARGE, true)]);
}

/// Unmapped before the collapse is announced, the large leaf takes what leads to the old table along.
#[test]
fn a_page_of_a_large_leaf_that_was_shot_down_is_not_reached_by_the_old_table() {
    explore(3, || {
        let world = small();
        let mut guest = Guest::warm(&world, 2);
        let world = Arc::new(world);
        let (old, collapsed) = race_unpinned(
            &world,
            move |cpu| {
                let (old, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                flush.shootdown().wait(&no_kick).unwrap();
                assert_eq!(guest.enter().access(1, Access::READ), Err(Cause::NotPresent));
                old.size
            },
            collapse,
        );
        assert_eq!(old, if collapsed { LARGE } else { SMALL });
        collapsed
    })
    .are(&[true, false]);
}

/// The leaf that the split finds may still be waiting for its shoot-down. A write is told of by the harvest
/// behind the split, or the page is dirty still.
#[test]
fn a_split_beside_a_collapse_loses_no_write() {
    explore(1, || {
        let world = World::new(2).filled(SMALL);
        let mut guest = Guest::warm(&world, 1);
        let world = Arc::new(world);
        let ((), found, _) = race3_unpinned(
            &world,
            move |_| {
                let mut stay = guest.enter();
                assert_eq!(stay.access(2, Access::WRITE), Ok(frame(2)));
            },
            |cpu| {
                cpu.table().split(gpa(0), SMALL, &no_kick).unwrap();
                let mut found = Bitmap::new(pages(0, TABLE));
                let harvested = cpu.pin().harvest(pages(0, TABLE), Mark::Dirty, &mut found);
                let (_, flush) = harvested.unwrap();
                flush.shootdown().wait(&no_kick).unwrap();
                found.contains(gpa(2))
            },
            collapse,
        );
        assert!(found || world.is_dirty(2));
        found
    })
    .are(&[true, false]);
}

/// The small leaves are clean when the guest comes back; what it remembers of the old table is gone by then.
#[test]
fn what_is_written_behind_a_split_of_a_late_leaf_is_in_the_small_one() {
    explore(2, || {
        let world = World::new(2).filled(SMALL);
        let mut guest = Guest::warm(&world, 1);
        let world = Arc::new(world);
        let (before, collapsed) = race_unpinned(
            &world,
            move |cpu| {
                cpu.table().split(gpa(0), SMALL, &no_kick).unwrap();
                let all = pages(0, TABLE);
                let mut found = Bitmap::new(all);
                let (_, flush) = cpu.pin().harvest(all, Mark::Dirty, &mut found).unwrap();
                flush.shootdown().wait(&no_kick).unwrap();
                let mut stay = guest.enter();
                assert_eq!(stay.access(2, Access::WRITE), Ok(frame(2)));
                // Only a leaf that is LATE counts as dirty before it is written.
                found.contains(gpa(2))
            },
            collapse,
        );
        assert!(world.is_dirty(2));
        (before, collapsed)
    })
    .are(&[(false, true), (true, true), (false, false)]);
}
