//! Pages move to other frames: nobody writes from the first shoot-down on, nobody reads from the second on.

use alloc::format;
use core::sync::atomic::{AtomicU32, Ordering};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::Prot;

use super::{Guests, alone, until_written, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    virt::Virt,
    world::{ALL_RIGHTS, Machine, SMALL, World},
};

const PAGES: u64 = 64;
const PASSES: u64 = 64;
/// Moves of a round.
const MOVES: u64 = 20;
/// Stands in the frame that nobody uses.
const NOBODYS: u32 = 0xdead_0000;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    world.make_room(0, PAGES, SMALL);
    guest::clear(0, PAGES);
    let reader = world.table.reader();
    reader
        .pin()
        .map_range(guest::pages(0, PAGES), guest::frame(0), ALL_RIGHTS)
        .expect("there is room");
    let job = Job::new(Deed::AddOne, 0, PAGES).times(PASSES);
    let late = AtomicU32::new(0);
    let guests = Guests::run(
        &world,
        |_| job,
        |_, fault| wait(fault),
        |_| {
            late.store(move_about(&world), Ordering::Relaxed);
        },
    );
    let expected = guests.jobs() * PASSES;
    let wrong = (0..PAGES).filter(|&page| {
        let frame = reader.pin().lookup(guest::page(page)).expect("it is mapped").pfn;
        u64::from(guest::word(frame).load(Ordering::Relaxed)) != expected
    });
    let wrong = wrong.count() as u64;
    let (moves, late) = (machine.options.rounds * MOVES, late.into_inner());
    guests.outcome(
        machine,
        wrong + u64::from(late),
        &format!("{moves} moves, {late} writes came late"),
    )
}

/// Moves pages; returns how often a frame was written after the shoot-down.
fn move_about<V: Virt>(world: &World<'_, V>) -> u32 {
    let (reader, mut random) = (world.table.reader(), SmallRng::seed_from_u64(1));
    let (mut spare, mut late) = (guest::frame(PAGES), 0);
    guest::word(spare).store(NOBODYS, Ordering::Relaxed);
    for _ in 0..world.machine.options.rounds * MOVES {
        let page = guest::pages(random.random_range(0..PAGES), 1);
        let old = reader.pin().lookup(page.start()).expect("it is mapped").pfn;
        until_written(old);
        let (_, flush) = reader.pin().protect(page, Prot::RX).expect("it is a page");
        world.serve(flush);
        late += u32::from(guest::word(spare).load(Ordering::Relaxed) != NOBODYS);
        guest::word(spare).store(guest::word(old).load(Ordering::Relaxed), Ordering::Relaxed);
        let (_, flush) = reader.pin().unmap(page.start()).expect("it is mapped");
        world.serve(flush);
        reader.pin().map(page.start(), spare, SMALL, ALL_RIGHTS).expect("nothing is there");
        guest::word(old).store(NOBODYS, Ordering::Relaxed);
        spare = old;
    }
    late
}
