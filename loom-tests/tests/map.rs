//! Map against map, unmap and lookups.

use loom_tests::{Arc, World, explore, frame, race};
use slat::{MapError, Mapped};

#[test]
fn two_maps_of_one_page_to_one_frame_agree() {
    explore(3, || {
        let world = Arc::new(World::populated());
        let (one, two) = race(&world, |cpu| cpu.map(1, 7), |cpu| cpu.map(1, 7));
        assert_eq!(world.lookup(1).unwrap().pfn, frame(7));
        (one.unwrap() == Mapped::New, two.unwrap() == Mapped::New)
    })
    .are([(true, false), (false, true)]);
}

#[test]
fn two_maps_of_one_page_to_two_frames_agree() {
    explore(3, || {
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
    .are([true, false]);
}
