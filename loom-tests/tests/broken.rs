//! Split and collapse on processors that must not have two sizes for a page: the MMU finds the one, or
//! nothing, or the other; software finds the page all the time.

use loom_tests::{
    Arc, Cpu, Guest, World, explore, frame, gpa, pages, race_unpinned,
    sizes::{
        LARGE, SMALL, TABLE, collapse, reset_beside_split, split, unmap_beside_collapse,
        unmap_beside_split,
    },
};
use slat::{
    Bitmap, MapError, Mapped, Mark, PageSize, SplitError,
    mmu::{Access, Cause},
};

/// A table with all pages mapped by leaves of one size.
fn filled(size: PageSize) -> World {
    World::breaking(2).filled(size)
}

/// Two writes during one stay; the sizes by which they reached their pages. What the first one found could
/// still be cached at the second.
fn write_twice(guest: &mut Guest) -> [Option<PageSize>; 2] {
    let mut stay = guest.enter();
    [1, 2].map(|page| match stay.size(page, Access::WRITE) {
        Ok(size) => Some(size),
        Err(cause) => {
            assert_eq!(cause, Cause::NotPresent);
            None
        }
    })
}

fn never_both([one, two]: [Option<PageSize>; 2], world: &World) {
    assert!(one.is_none() || two.is_none() || one == two, "{one:?}, {two:?}");
    for (page, reached) in [(1, one), (2, two)] {
        assert!(reached.is_none() || world.is_dirty(page));
    }
}

#[test]
fn a_guest_never_has_both_sizes_beside_a_split() {
    explore(2, || {
        let world = filled(LARGE);
        let mut guest = Guest::forgetful(&world);
        let world = Arc::new(world);
        let (sizes, split) = race_unpinned(&world, move |_| write_twice(&mut guest), split);
        assert_eq!(split, Ok(()));
        never_both(sizes, &world);
        assert_eq!(world.size(), Some(SMALL));
        sizes
    })
    .are(&[
        [Some(LARGE), Some(LARGE)],
        [Some(LARGE), None],
        [None, None],
        [None, Some(SMALL)],
        [Some(SMALL), Some(SMALL)],
    ]);
}

#[test]
fn a_guest_never_has_both_sizes_beside_a_collapse() {
    explore(2, || {
        let world = filled(SMALL);
        let mut guest = Guest::forgetful(&world);
        let world = Arc::new(world);
        let (sizes, collapsed) = race_unpinned(&world, move |_| write_twice(&mut guest), collapse);
        assert!(collapsed);
        never_both(sizes, &world);
        assert_eq!(world.size(), Some(LARGE));
        sizes
    })
    .are(&[
        [Some(SMALL), Some(SMALL)],
        [None, None],
        [None, Some(LARGE)],
        [Some(LARGE), Some(LARGE)],
    ]);
}

#[test]
fn a_page_is_never_hidden_from_software_by_a_split() {
    explore(3, || {
        let world = Arc::new(filled(LARGE));
        let (seen, split) = race_unpinned(&world, |cpu| cpu.lookup(1).unwrap(), split);
        assert_eq!((split, seen.frame_of(gpa(1))), (Ok(()), Some(frame(1))));
        seen.size
    })
    .are(&[LARGE, SMALL]);
}

#[test]
fn a_page_is_never_hidden_from_software_by_a_collapse() {
    explore(3, || {
        let world = Arc::new(filled(SMALL));
        let (seen, _) = race_unpinned(&world, |cpu| cpu.lookup(1).unwrap(), collapse);
        assert_eq!(seen.frame_of(gpa(1)), Some(frame(1)));
        seen.size
    })
    .are(&[SMALL, LARGE]);
}

#[test]
fn an_unmap_beside_a_split_takes_what_it_finds() {
    explore(3, || unmap_beside_split(World::breaking(2))).are(&[LARGE, SMALL]);
}

#[test]
fn an_unmap_beside_a_collapse_takes_what_it_finds() {
    explore(3, || unmap_beside_collapse(World::breaking(2))).are(&[true, false]);
}

/// A fault that the broken leaf brought: to map the page as it is ends it.
#[test]
fn a_map_beside_a_split_leaves_the_page_reachable() {
    explore(3, || {
        let world = Arc::new(filled(LARGE));
        let (map, split) = race_unpinned(
            &world,
            |cpu| {
                let map = cpu.map(1, 1);
                let size = cpu.lookup(1).unwrap().size;
                (map, size)
            },
            split,
        );
        match map {
            (Ok(mapped), size) => assert_eq!((mapped, size), (Mapped::Same, SMALL)),
            (Err(MapError::Occupied(mapping)), _) => assert_eq!(mapping.size, LARGE),
            (Err(error), _) => panic!("{error}"),
        }
        assert!(matches!(split, Ok(()) | Err(SplitError::Busy)));
        assert!(split.is_err() || world.size() == Some(SMALL));
        map.0.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_dirty_bit_taken_beside_a_split_is_reported_or_still_there() {
    explore(3, || reset_beside_split(World::breaking(2))).are(&[true, false]);
}

/// A harvest goes through what is broken, and mends it only to change it.
#[test]
fn a_harvest_beside_a_split_reports_each_page_once() {
    let harvests: [fn(&Cpu) -> u64; 2] = [
        |cpu| {
            let mut found = Bitmap::new(pages(0, TABLE));
            cpu.pin().harvest(pages(0, TABLE), Mark::Dirty, &mut found).unwrap().0
        },
        round,
    ];
    for harvest in harvests {
        explore(3, move || {
            let world = filled(LARGE);
            assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
            let world = Arc::new(world);
            let (found, split) = race_unpinned(&world, harvest, split);
            assert_eq!(found, TABLE);
            assert!(matches!(split, Ok(()) | Err(SplitError::Busy)));
            assert!((0..TABLE).all(|page| !world.is_dirty(page)));
        })
        .are(&[()]);
    }
}

/// Does a round; returns how many pages it reports.
fn round(cpu: &Cpu) -> u64 {
    let mut found = Bitmap::new(pages(0, TABLE));
    cpu.table().harvest_round(pages(0, TABLE), Mark::Dirty, &mut found).unwrap().0
}
