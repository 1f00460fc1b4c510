//! Memory goes, with its tables, and comes again, while guests ask for it: at once the tables are others'.

use alloc::format;
use core::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use slat::{MapError, VacateError, mmu::Fault};

use super::{Guests, alone, decoys, demand, until_written, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    virt::Virt,
    world::{self, Machine, Pin, SMALL, World},
};

/// A table full, and a half.
const PAGES: u64 = 768;
const PASSES: u64 = 2;
/// The last pages of them, which are unmapped last: a guest that stays with these does not fault before that, but is
/// inside, and has cached how it came there.
const LAST: u64 = 16;
const LAST_PASSES: u64 = 4096;
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
    let stays = AtomicU64::new(0);
    let job = |jobs: u64| {
        if jobs.is_multiple_of(2) {
            return Job::new(Deed::AddOne, 0, PAGES).times(PASSES);
        }
        stays.fetch_add(1, Ordering::Relaxed);
        Job::new(Deed::AddOne, PAGES - LAST, LAST).times(LAST_PASSES)
    };
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
    let guests = Guests::run(&world, job, map, |guests| {
        for _ in 0..machine.options.rounds {
            let table =
                |page| world.slots(guest::page(page)).last().expect("there is room").table();
            let tables = [table(0), table(PAGES - 1)];
            pages.fetch_add(take_away(&world, &closed), Ordering::Relaxed);
            recycled.fetch_add(u64::from(decoys::recycle(&world, &tables)), Ordering::Relaxed);
            world.make_room(0, PAGES, SMALL);
            // Until then most of a guest's time goes into faults: it is hardly ever inside.
            guests.until_done();
            until_written(guest::frame(PAGES - 1));
        }
    });
    let stays = stays.into_inner();
    let expected = |page| {
        let last = if page < PAGES - LAST { 0 } else { stays * LAST_PASSES };
        (guests.jobs() - stays) * PASSES + last
    };
    let word = |page| u64::from(guest::word(guest::frame(page)).load(Ordering::Relaxed));
    let wrong =
        (0..PAGES).filter(|&page| word(page) != expected(page)).count() as u64 + decoys::written();
    let (rounds, pages) = (machine.options.rounds, pages.into_inner());
    let again = recycled.load(Ordering::Relaxed);
    let said = format!("{pages} pages in {rounds} times, {again} tables used again at once");
    demand(&recycled, "no table was used again", guests.outcome(machine, wrong, &said))
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
