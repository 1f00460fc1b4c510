//! Memory goes, with its tables, and comes again, while guests ask for it: at once the tables are others'.

use alloc::format;
use core::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use slat::{MapError, VacateError, mmu::Fault};

use super::{Guests, alone, decoys, until_written, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    virt::Virt,
    world::{self, Machine, Pin, SMALL, World},
};

/// A table full, and a half.
const PAGES: u64 = 768;
const PASSES: u64 = 2;
/// How often it is tried while guests go on mapping.
const ATTEMPTS: u32 = 3;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    world.make_room(0, PAGES, SMALL);
    guest::clear(0, PAGES);
    decoys::clear();
    let job = Job::new(Deed::AddOne, 0, PAGES).times(PASSES);
    let closed = AtomicBool::new(false);
    let map = |pin: &Pin<'_, V>, fault: Fault| {
        if closed.load(Ordering::Relaxed) {
            return wait(fault);
        }
        match world::map::<V>(pin, fault.gpa()) {
            // Not there now, or no more: it will be.
            Ok(_) | Err(MapError::NotPopulated { .. } | MapError::Vacated { .. }) => wait(fault),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let (pages, recycled) = (AtomicU64::new(0), AtomicU64::new(0));
    let guests = Guests::run(
        &world,
        |_| job,
        map,
        |_| {
            for _ in 0..machine.options.rounds {
                let table =
                    |page| world.slots(guest::page(page)).last().expect("there is room").table();
                let tables = [table(0), table(PAGES - 1)];
                pages.fetch_add(take_away(&world, &closed), Ordering::Relaxed);
                recycled.fetch_add(u64::from(decoys::recycle(&world, &tables)), Ordering::Relaxed);
                world.make_room(0, PAGES, SMALL);
                until_written(guest::frame(0));
            }
        },
    );
    let expected = guests.jobs() * PASSES;
    let word = |page| u64::from(guest::word(guest::frame(page)).load(Ordering::Relaxed));
    let wrong =
        (0..PAGES).filter(|&page| word(page) != expected).count() as u64 + decoys::written();
    let (rounds, pages) = (machine.options.rounds, pages.into_inner());
    let recycled = recycled.into_inner();
    guests.outcome(
        wrong,
        &format!("{pages} pages in {rounds} times, {recycled} tables used again at once"),
    )
}

/// Unmaps everything, again and again if guests map it meanwhile, and vacates it; returns how many pages it unmapped.
fn take_away<V: Virt>(world: &World<'_, V>, closed: &AtomicBool) -> u64 {
    let (reader, all, mut count) = (world.table.reader(), guest::pages(0, PAGES), 0);
    for attempt in 0.. {
        let (pages, flush) = reader.pin().unmap_range(all, drop).expect("they are small");
        count += pages;
        world.serve(flush);
        match world.table.vacate(all) {
            Ok(()) => break,
            Err(VacateError::StillMapped { .. } | VacateError::Busy) => {}
            Err(error) => panic!("{error}"),
        }
        // Guests that map faster than this unmaps are told to stop, after a while.
        closed.store(attempt >= ATTEMPTS, Ordering::Relaxed);
    }
    closed.store(false, Ordering::Relaxed);
    count
}
