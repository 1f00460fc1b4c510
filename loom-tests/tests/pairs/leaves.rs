//! Leaves: what changes one, and what looks at one.

use loom_tests::{
    Arc, Cpu, RWX, World, frame, gpa,
    leaf::{dirty, protect, set_dirty, watch},
    pages, pair,
};
use slat::{Bitmap, Mark, PAGE_BYTES, PageSize, Prot, mmu::Access};

/// Harvests page 1; tells whether it had the mark, and whether something is to be invalidated.
fn harvest(cpu: &Cpu, mark: Mark) -> (bool, bool) {
    let mut found = Bitmap::new(pages(1, 2));
    let pin = cpu.pin();
    let (count, flush) = pin.harvest(pages(1, 2), mark, &mut found).unwrap();
    (count == 1, !flush.is_empty())
}

#[test]
fn a_bit_is_set_in_a_page_that_is_mapped_meanwhile_or_nowhere() {
    pair(3, |play| {
        let world = Arc::new(World::populated());
        (play.race(&world, |cpu| cpu.map(1, 7), set_dirty), world.end())
    })
    .as_in_turn();
}

#[test]
fn a_lookup_beside_an_unmap_finds_the_page_as_the_unmap_returns_it_or_nothing() {
    pair(3, |play| {
        let world = dirty();
        let (old, seen) = play.race(&world, |cpu| cpu.unmap(1).unwrap(), |cpu| cpu.lookup(1));
        if let (Some(old), Some(Some(seen))) = (old, seen) {
            assert_eq!(old, seen);
        }
        (seen, world.end())
    })
    .as_in_turn();
}

#[test]
fn a_translation_beside_unmaps_ends_before_the_first_page_that_is_gone() {
    pair(3, |play| {
        let world = World::mapped(1);
        world.table.pin().map(gpa(2), frame(2), PageSize::Size4K, RWX).unwrap();
        let world = Arc::new(world);
        let translate = |cpu: &Cpu| cpu.pin().translate(gpa(1), 2 * PAGE_BYTES, Prot::R);
        let unmap = |cpu: &Cpu, step| cpu.unmap([2, 1][step]).unwrap();
        (play.race_steps(&world, translate, 2, unmap), world.end())
    })
    .as_in_turn();
}

#[test]
fn a_translation_beside_a_change_of_rights_is_allowed_or_denied() {
    pair(3, |play| {
        let world = Arc::new(World::mapped(1));
        let translate = |cpu: &Cpu| cpu.pin().translate(gpa(1), 8, Prot::W);
        (play.race(&world, |cpu| protect(cpu, Prot::R), translate), world.end())
    })
    .as_in_turn();
}

/// The right to write goes by one of the two, and only who takes it has something to invalidate.
#[test]
fn of_a_watch_and_a_change_of_rights_one_takes_the_right_to_write() {
    pair(3, |play| {
        let world = Arc::new(World::mapped(1));
        let protect = |cpu: &Cpu| {
            let pin = cpu.pin();
            let (count, flush) = pin.protect(pages(1, 2), Prot::R).unwrap();
            (count, !flush.is_empty())
        };
        (play.race(&world, protect, watch), world.end())
    })
    .as_in_turn();
}

#[test]
fn a_mark_is_harvested_once_beside_a_change_of_rights() {
    for mark in [Mark::Accessed, Mark::Dirty] {
        pair(3, move |play| {
            let world = dirty();
            let take = |cpu: &Cpu| protect(cpu, Prot::R);
            let said = play.race(&world, take, move |cpu| harvest(cpu, mark));
            (said, world.end())
        })
        .as_in_turn();
    }
}

#[test]
fn a_lookup_shows_a_bit_that_is_being_set_as_it_was_or_as_it_is() {
    pair(3, |play| {
        let world = Arc::new(World::mapped(1));
        (play.race(&world, set_dirty, |cpu| cpu.lookup(1)), world.end())
    })
    .as_in_turn();
}

/// What a leaf allows is no other while its writes are watched, and a harvest takes one bit of it.
#[test]
fn a_lookup_beside_a_watch_or_a_harvest_shows_what_was_mapped() {
    pair(3, |play| {
        let world = dirty();
        let watch_and_harvest = |cpu: &Cpu, step| match step {
            0 => watch(cpu),
            _ => harvest(cpu, Mark::Dirty),
        };
        let (seen, said) =
            play.race_steps(&world, |cpu| cpu.lookup(1).unwrap(), 2, watch_and_harvest);
        assert!(seen.is_none_or(|seen| seen.attr == RWX && seen.accessed));
        (seen, said, world.end())
    })
    .as_in_turn();
}

/// The MMU sets both bits of a leaf by one exchange.
#[test]
fn a_lookup_beside_a_write_of_the_mmu_shows_both_bits_or_none() {
    pair(3, |play| {
        let world = Arc::new(World::mapped(1));
        let write = |cpu: &Cpu| cpu.access(1, Access::WRITE);
        (play.race(&world, |cpu| cpu.lookup(1), write), world.end())
    })
    .as_in_turn();
}
