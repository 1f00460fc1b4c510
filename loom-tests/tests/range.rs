//! Ranges and batches against single pages.

use loom_tests::{Arc, RWX, World, explore, frame, gpa, pages, race};
use slat::{Entry, MapError, MapRangeError, Mapped, MappedRange, PageSize, SLOTS, VacateError};

/// The last page of the first leaf table.
const LAST: u64 = SLOTS as u64 - 1;
/// The first page of the second leaf table.
const NEXT: u64 = SLOTS as u64;

fn two_leaf_tables() -> Arc<World> {
    let world = World::new(2);
    world.table.populate(pages(0, 2 * NEXT), PageSize::Size4K).unwrap();
    Arc::new(world)
}

#[test]
fn a_range_is_mapped_also_if_its_pages_are_unmapped_behind_it() {
    explore(4, || {
        let world = two_leaf_tables();
        let (mapped, unmapped) = race(
            &world,
            |cpu| cpu.pin().map_range(pages(LAST, NEXT + 1), frame(7), RWX),
            |cpu| cpu.unmap(LAST),
        );
        assert_eq!(mapped, Ok(MappedRange { new: 2, same: 0 }));
        assert_eq!(world.lookup(NEXT).unwrap().pfn, frame(8));
        match unmapped {
            Ok(mapping) => {
                assert_eq!(mapping.pfn, frame(7));
                assert_eq!(world.entry(LAST), Entry::EMPTY);
            }
            Err(_) => assert_eq!(world.lookup(LAST).unwrap().pfn, frame(7)),
        }
        unmapped.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_range_that_meets_another_mapping_says_how_far_it_came() {
    explore(4, || {
        let world = two_leaf_tables();
        let (ranged, single) = race(
            &world,
            |cpu| cpu.pin().map_range(pages(LAST, NEXT + 1), frame(7), RWX),
            |cpu| cpu.map(NEXT, 9),
        );
        let [last, next] = [LAST, NEXT].map(|page| world.lookup(page).map(|mapping| mapping.pfn));
        match (ranged, single) {
            (Ok(MappedRange { new: 2, same: 0 }), Err(MapError::Occupied(found))) => {
                assert_eq!((last, next), (Some(frame(7)), Some(frame(8))));
                assert_eq!(found.pfn, frame(8));
                2
            }
            (
                Err(MapRangeError::Page { done, source: MapError::Occupied(found) }),
                Ok(Mapped::New),
            ) => {
                assert_eq!((found.gpa, found.pfn), (gpa(NEXT), frame(9)));
                assert_eq!((last.is_some(), next), (done.new == 1, Some(frame(9))));
                done.new
            }
            other => panic!("{other:?}"),
        }
    })
    .are(&[0, 1, 2]);
}

#[test]
fn two_range_maps_to_the_same_frames_share_the_pages() {
    explore(4, || {
        let world = two_leaf_tables();
        let map = |cpu: &loom_tests::Cpu| {
            cpu.pin().map_range(pages(LAST, NEXT + 1), frame(7), RWX).unwrap()
        };
        let (one, two) = race(&world, map, map);
        assert_eq!((one.new + two.new, one.same + two.same), (2, 2));
        assert_eq!(world.table.pin().mapped(pages(0, 2 * NEXT)), Ok(2));
        one.new
    })
    .are(&[0, 1, 2]);
}

/// The batch reads its leaves in order, though its walks overlap.
#[test]
fn a_batch_of_lookups_finds_what_was_mapped_before_what_it_finds() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                for page in [1, 0] {
                    cpu.page(page).write(page + 40);
                    cpu.map(page, page).unwrap();
                }
            },
            |cpu| {
                let mut found = [None, None];
                cpu.pin().lookup_many([gpa(0), gpa(1)], |at, mapping| {
                    let page = usize::from(at == gpa(1));
                    found[page] = mapping.map(|mapping| {
                        assert_eq!((mapping.gpa, mapping.pfn), (at, frame(page as u64)));
                        cpu.page(page as u64).read()
                    });
                });
                found
            },
        );
        found
    })
    .are(&[[None, None], [None, Some(41)], [Some(40), Some(41)]]);
}

#[test]
fn a_batch_that_set_out_before_a_table_was_linked_goes_on_into_it() {
    explore(4, || {
        let world = Arc::new(World::new(1));
        let ((), found) = race(
            &world,
            |cpu| {
                let all = pages(0, NEXT);
                cpu.table().populate_mapped(all, PageSize::Size4K, frame(0), RWX).unwrap();
            },
            |cpu| {
                let mut found = Vec::new();
                cpu.pin().lookup_many([gpa(0), gpa(1)], |_, mapping| found.push(mapping.is_some()));
                found
            },
        );
        found
    })
    .are(&[vec![false, false], vec![false, true], vec![true, true]]);
}

#[test]
fn a_batch_of_unmaps_and_a_batch_of_maps_keep_account() {
    explore(4, || {
        let world = Arc::new(World::mapped(0));
        let (unmapped, mapped) = race(
            &world,
            |cpu| {
                let mut got = [None, None];
                let _flush = cpu.pin().unmap_many([gpa(0), gpa(1)], |at, mapping| {
                    got[usize::from(at == gpa(1))] = mapping.ok().map(|mapping| mapping.pfn);
                });
                got
            },
            |cpu| {
                let mut new = [false, false];
                let pages = [(gpa(0), frame(5)), (gpa(1), frame(6))];
                cpu.pin().map_many(pages, RWX, |at, mapped| {
                    new[usize::from(at == gpa(1))] = mapped == Ok(Mapped::New);
                });
                new
            },
        );
        assert_eq!(unmapped[0], Some(frame(0)));
        assert!(mapped[1]);
        assert!(unmapped[1].is_none_or(|pfn| pfn == frame(6)));
        let stand = [0, 1].map(|page| world.lookup(page).map(|mapping| mapping.pfn));
        assert_eq!(stand[0], mapped[0].then_some(frame(5)));
        assert_eq!(stand[1], unmapped[1].is_none().then_some(frame(6)));
        (mapped[0], unmapped[1].is_some())
    })
    .are(&[(false, false), (false, true), (true, false), (true, true)]);
}

/// The range's cursor keeps the path to its table: what it maps there stands only if the table is the tree's.
#[test]
fn a_range_beside_a_vacate_of_its_table_is_mapped_where_the_pages_are() {
    explore(2, || {
        let world = Arc::new(World::populated());
        let (ranged, vacated) = race(
            &world,
            |cpu| cpu.pin().map_range(pages(1, 3), frame(7), RWX),
            |cpu| cpu.table().vacate(pages(0, NEXT)),
        );
        let mapped = [1, 2].map(|page| world.lookup(page).is_some());
        match vacated {
            Ok(()) => {
                assert_eq!(mapped, [false; 2]);
                let Err(MapRangeError::Page { source, .. }) = ranged else { panic!("{ranged:?}") };
                matches!(source, MapError::Vacated { .. })
            }
            Err(VacateError::StillMapped { .. }) => {
                assert_eq!((ranged, mapped), (Ok(MappedRange { new: 2, same: 0 }), [true; 2]));
                false
            }
            Err(error) => panic!("{error}"),
        }
    })
    .are(&[true, false]);
}
