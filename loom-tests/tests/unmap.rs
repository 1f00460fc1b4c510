//! Unmap against itself, and the way a page goes back to its owner.

use loom_tests::{Arc, World, explore, frame, pages, race};
use slat::{Entry, Mapped};

#[test]
fn of_two_unmaps_one_gets_the_mapping() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (one, two) = race(&world, |cpu| cpu.unmap(1), |cpu| cpu.unmap(1));
        assert!(one.is_ok() != two.is_ok());
        assert_eq!(one.or(two).unwrap().pfn, frame(1));
        assert_eq!(world.entry(1), Entry::EMPTY);
        one.is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn of_two_range_unmaps_one_gets_each_mapping() {
    explore(4, || {
        let world = World::mapped(1);
        let both = pages(1, 3);
        assert_eq!(world.table.pin().map_range(both, frame(1), loom_tests::RWX).unwrap().new, 1);
        let world = Arc::new(world);
        let unmap = move |cpu: &loom_tests::Cpu| {
            let mut got = [0, 0];
            let (count, _flush) = cpu
                .pin()
                .unmap_range(both, |mapping| {
                    let number = mapping.pfn.get() - frame(1).get();
                    assert_eq!(mapping.gpa, loom_tests::gpa(1 + number));
                    got[number as usize] += 1;
                })
                .unwrap();
            assert_eq!(count, got[0] + got[1]);
            got
        };
        let (one, two) = race(&world, unmap, unmap);
        assert_eq!([one[0] + two[0], one[1] + two[1]], [1, 1]);
        assert_eq!([world.entry(1), world.entry(2)], [Entry::EMPTY; 2]);
        one
    })
    .are(&[[0, 0], [0, 1], [1, 0], [1, 1]]);
}

#[test]
fn an_unmap_returns_the_page_with_its_contents() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                cpu.map(1, 7).unwrap();
            },
            |cpu| {
                cpu.unmap(1).ok().map(|_| {
                    let found = cpu.page(1).read();
                    cpu.page(1).write(43);
                    found
                })
            },
        );
        found
    })
    .are(&[None, Some(42)]);
}

/// The entry that an unmap takes out may look like the one that it saw and be a later one: its page
/// was unmapped, written and mapped again in between.
#[test]
fn an_unmap_of_a_page_that_was_mapped_again_returns_its_later_contents() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (first, second) = race(
            &world,
            |cpu| {
                let got = cpu.unmap(1).ok().map(|_| cpu.page(1).read());
                if got.is_some() {
                    cpu.page(1).write(2);
                    assert_eq!(cpu.map(1, 1), Ok(Mapped::New));
                }
                got
            },
            |cpu| cpu.unmap(1).ok().map(|_| cpu.page(1).read()),
        );
        (first, second)
    })
    .are(&[(None, Some(1)), (Some(1), None), (Some(1), Some(2))]);
}
