//! Accessed and dirty bits that software sets and clears, and rights, against each other and unmap.

use loom_tests::{
    Arc, World, explore, frame, gpa,
    leaf::{clear_dirty, dirty, protect, set_dirty},
    race,
};
use slat::{Entry, Mapped, Prot};

#[test]
fn a_dirty_bit_is_never_set_in_a_page_that_is_not_mapped() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (unmapped, was_set) = race(&world, |cpu| cpu.unmap(1).unwrap(), set_dirty);
        assert!(!was_set);
        assert_eq!(world.entry(1), Entry::EMPTY);
        unmapped.dirty
    })
    .are(&[true, false]);
}

#[test]
fn a_dirty_bit_belongs_to_the_mapping_in_which_it_was_set() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (old, was_set) = race(
            &world,
            |cpu| {
                let old = cpu.unmap(1).unwrap();
                assert_eq!(cpu.map(1, 9), Ok(Mapped::New));
                old
            },
            set_dirty,
        );
        let new = world.lookup(1).unwrap();
        assert!(!was_set);
        assert_eq!((old.pfn, new.pfn), (frame(1), frame(9)));
        (old.dirty, new.dirty)
    })
    .are(&[(true, false), (false, true), (false, false)]);
}

#[test]
fn one_of_two_gets_the_dirty_bit() {
    explore(5, || {
        let world = dirty();
        let (one, two) = race(&world, clear_dirty, clear_dirty);
        assert!(one != two);
        let mapping = world.lookup(1).unwrap();
        assert!(mapping.accessed && !mapping.dirty);
        one
    })
    .are(&[true, false]);
}

#[test]
fn a_reset_or_the_unmap_gets_the_dirty_bit() {
    explore(5, || {
        let world = dirty();
        let (unmapped, cleared) = race(&world, |cpu| cpu.unmap(1).unwrap(), clear_dirty);
        assert!(unmapped.dirty != cleared);
        assert!(unmapped.accessed);
        assert_eq!(world.entry(1), Entry::EMPTY);
        cleared
    })
    .are(&[true, false]);
}

#[test]
fn setting_and_clearing_the_dirty_bit_keeps_account() {
    explore(5, || {
        let world = dirty();
        let (was_set, cleared) = race(&world, set_dirty, clear_dirty);
        assert!(cleared);
        // Set after the clear found it clear and left it set; set before changed nothing.
        assert_eq!(world.lookup(1).unwrap().dirty, !was_set);
        was_set
    })
    .are(&[true, false]);
}

#[test]
fn the_accessed_and_the_dirty_bit_are_apart() {
    explore(5, || {
        let world = dirty();
        let (cleared, ()) = race(
            &world,
            |cpu| cpu.pin().slot(gpa(1)).unwrap().clear_accessed(),
            |cpu| {
                let pin = cpu.pin();
                let slot = pin.slot(gpa(1)).unwrap();
                assert!(slot.clear_dirty());
                assert!(!slot.set_dirty());
            },
        );
        let mapping = world.lookup(1).unwrap();
        assert!(cleared && !mapping.accessed && mapping.dirty);
    })
    .are(&[()]);
}

#[test]
fn rights_change_without_losing_a_dirty_bit() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (changed, was_set) = race(&world, |cpu| protect(cpu, Prot::R), set_dirty);
        let mapping = world.lookup(1).unwrap();
        assert_eq!((changed, was_set), (1, false));
        assert_eq!((mapping.attr.prot(), mapping.dirty), (Prot::R, true));
    })
    .are(&[()]);
}

#[test]
fn rights_never_bring_an_unmapped_page_back() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (unmapped, changed) =
            race(&world, |cpu| cpu.unmap(1).unwrap(), |cpu| protect(cpu, Prot::R));
        assert_eq!(world.entry(1), Entry::EMPTY);
        let expected = if changed == 1 { Prot::R } else { Prot::RWX };
        assert_eq!(unmapped.attr.prot(), expected);
        changed
    })
    .are(&[0, 1]);
}

#[test]
fn of_two_changes_of_rights_the_later_one_stands() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (one, two) = race(&world, |cpu| protect(cpu, Prot::R), |cpu| protect(cpu, Prot::RW));
        assert_eq!((one, two), (1, 1));
        world.lookup(1).unwrap().attr.prot() == Prot::R
    })
    .are(&[true, false]);
}

/// The rights that a map compares are the ones that stand.
#[test]
fn a_map_beside_a_change_of_rights_finds_the_same_or_another_mapping() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (changed, mapped) = race(&world, |cpu| protect(cpu, Prot::R), |cpu| cpu.map(1, 1));
        assert_eq!(changed, 1);
        let stands = world.lookup(1).unwrap();
        match mapped {
            Ok(how) => assert_eq!(how, Mapped::Same),
            Err(error) => assert_eq!(error, slat::MapError::Occupied(stands)),
        }
        mapped.is_ok()
    })
    .are(&[true, false]);
}
