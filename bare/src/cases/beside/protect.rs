//! Rights come and go: while a page can only be read, nobody writes to it.

use alloc::format;
use core::{
    hint,
    sync::atomic::{AtomicU64, Ordering},
};

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
/// How often rights are taken and given in a round.
const TIMES: u64 = 20;
/// How long is looked.
const LOOKS: u32 = 500;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    world.make_room(0, PAGES, SMALL);
    guest::clear(0, PAGES);
    let reader = world.table.reader();
    let (pages, frame) = (guest::pages(0, PAGES), guest::frame(0));
    reader.pin().map_range(pages, frame, ALL_RIGHTS).expect("there is room");
    let job = Job::new(Deed::AddOne, 0, PAGES).times(PASSES);
    let (late, times) = (AtomicU64::new(0), machine.options.rounds * TIMES);
    let guests = Guests::run(
        &world,
        |_| job,
        |_, fault| wait(fault),
        |_| {
            let reader = world.table.reader();
            for _ in 0..times {
                until_written(frame);
                let (_, flush) = reader.pin().protect(pages, Prot::RX).expect("they are pages");
                world.serve(flush);
                late.fetch_add(writes(), Ordering::Relaxed);
                let (_, flush) = reader.pin().protect(pages, Prot::RWX).expect("they are pages");
                world.serve(flush);
            }
        },
    );
    let expected = guests.jobs() * PASSES;
    let wrong = (0..PAGES).filter(|&page| u64::from(word(page)) != expected).count() as u64;
    let late = late.into_inner();
    guests.outcome(
        machine,
        wrong + late,
        &format!("rights taken {times} times, {late} writes came late"),
    )
}

fn word(page: u64) -> u32 {
    guest::word(guest::frame(page)).load(Ordering::Relaxed)
}

/// Looks for a while whether anybody writes; returns to how many of the pages.
fn writes() -> u64 {
    let before: [u32; PAGES as usize] = core::array::from_fn(|page| word(page as u64));
    (0..LOOKS).for_each(|_| hint::spin_loop());
    before.iter().zip(0..).filter(|&(&was, page)| word(page) != was).count() as u64
}
