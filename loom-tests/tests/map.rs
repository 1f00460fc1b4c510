//! Map against map, unmap and lookups.

use loom_tests::{Arc, World, explore, frame, gpa, race, race3};
use slat::{Entry, MapError, Mapped, Prot, UnmapError};

#[test]
fn two_maps_of_one_page_to_one_frame_agree() {
    explore(4, || {
        let world = Arc::new(World::populated());
        let (one, two) = race(&world, |cpu| cpu.map(1, 7), |cpu| cpu.map(1, 7));
        assert_eq!(world.lookup(1).unwrap().pfn, frame(7));
        (one.unwrap() == Mapped::New, two.unwrap() == Mapped::New)
    })
    .are(&[(true, false), (false, true)]);
}

#[test]
fn two_maps_of_one_page_to_two_frames_agree() {
    explore(4, || {
        let world = Arc::new(World::populated());
        let (one, two) = race(&world, |cpu| cpu.map(1, 7), |cpu| cpu.map(1, 8));
        let stands = world.lookup(1).unwrap();
        match (one, two) {
            (Ok(Mapped::New), Err(MapError::Occupied(found)))
            | (Err(MapError::Occupied(found)), Ok(Mapped::New)) => assert_eq!(found, stands),
            other => panic!("{other:?}"),
        }
        assert_eq!(stands.pfn, if one.is_ok() { frame(7) } else { frame(8) });
        one.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_page_can_be_mapped_again_once_it_was_unmapped() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (unmapped, mapped) = race(&world, |cpu| cpu.unmap(1), |cpu| cpu.map(1, 9));
        let old = unmapped.unwrap();
        assert_eq!(old.pfn, frame(1));
        match mapped {
            Ok(how) => {
                assert_eq!(how, Mapped::New);
                assert_eq!(world.lookup(1).unwrap().pfn, frame(9));
            }
            Err(error) => {
                assert_eq!(error, MapError::Occupied(old));
                assert_eq!(world.entry(1), Entry::EMPTY);
            }
        }
        mapped.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_new_mapping_stands_until_it_is_unmapped() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let (mapped, unmapped) = race(&world, |cpu| cpu.map(1, 7), |cpu| cpu.unmap(1));
        assert_eq!(mapped, Ok(Mapped::New));
        match unmapped {
            Ok(mapping) => {
                assert_eq!(mapping.pfn, frame(7));
                assert_eq!(world.entry(1), Entry::EMPTY);
            }
            Err(UnmapError::NotMapped { gpa: at }) => {
                assert_eq!(at, gpa(1));
                assert_eq!(world.lookup(1).unwrap().pfn, frame(7));
            }
            Err(error) => panic!("{error}"),
        }
        unmapped.is_ok()
    })
    .are(&[true, false]);
}

/// Mappers and an unmapper keep account: what was mapped and not unmapped stands.
#[test]
fn two_maps_and_an_unmap_keep_account() {
    explore(4, || {
        let world = Arc::new(World::populated());
        let (one, two, unmapped) =
            race3(&world, |cpu| cpu.map(1, 7), |cpu| cpu.map(1, 8), |cpu| cpu.unmap(1));
        let stands = world.lookup(1).map(|mapping| mapping.pfn);
        let taken = unmapped.ok().map(|mapping| mapping.pfn);
        for (result, pfn) in [(one, frame(7)), (two, frame(8))] {
            let there = stands == Some(pfn) || taken == Some(pfn);
            match result {
                Ok(how) => assert!(how == Mapped::New && there),
                Err(MapError::Occupied(other)) => assert!(other.pfn != pfn && !there),
                Err(error) => panic!("{error}"),
            }
        }
        (one.is_ok(), two.is_ok(), taken.is_some())
    })
    .are(&[
        (true, false, false),
        (false, true, false),
        (true, false, true),
        (false, true, true),
        (true, true, true),
    ]);
}

#[test]
fn a_lookup_that_finds_a_page_finds_its_contents() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                cpu.map(1, 7).unwrap();
            },
            |cpu| cpu.lookup(1).map(|_| cpu.page(1).read()),
        );
        found
    })
    .are(&[None, Some(42)]);
}

#[test]
fn a_translation_that_finds_a_page_finds_its_contents() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                cpu.map(1, 7).unwrap();
            },
            |cpu| {
                let run = cpu.pin().translate(gpa(1), 8, Prot::R);
                run.ok().map(|_| cpu.page(1).read())
            },
        );
        found
    })
    .are(&[None, Some(42)]);
}

/// The loser did not load the winner's leaf before it tried; it may use the page all the same.
#[test]
fn a_map_that_finds_its_page_mapped_finds_the_contents() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                let _ = cpu.map(1, 7);
            },
            |cpu| match cpu.map(1, 8) {
                Err(MapError::Occupied(_)) => Some(cpu.page(1).read()),
                _ => None,
            },
        );
        found
    })
    .are(&[None, Some(42)]);
}
