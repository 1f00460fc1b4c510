//! A mistake on purpose, which whoever looks for races has to see.
#![cfg(not(any(loom, shuttle)))]

use loom_tests::{Arc, World, explore, race};

/// What ORDERING.md calls page-init, the wrong way round.
#[test]
#[ignore = "writes a page that others read: a control of ci/tsan"]
fn a_page_that_is_written_behind_its_map_is_a_race() {
    explore(0, || {
        let world = Arc::new(World::populated());
        race(
            &world,
            |cpu| {
                cpu.map(1, 7).unwrap();
                cpu.page(1).write(7);
            },
            |cpu| cpu.lookup(1).map(|_| cpu.page(1).read()),
        );
    })
    .are(&[()]);
}
