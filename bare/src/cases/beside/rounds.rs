//! Rounds of dirty harvests beside guests that write here and there: who copies what was reported, when the shoot-down is
//! over, has everything in the end.

use alloc::{format, vec, vec::Vec};
use core::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{Bitmap, Mark, PAGE_BYTES, mmu::Fault};
use spin::mutex::SpinMutex;

use super::{Guests, alone, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    virt::Virt,
    world::{ALL_RIGHTS, Machine, Pin, SMALL, World},
};

/// Eight tables of leaves.
const PAGES: u64 = 8 * 512;
/// What a guest writes in one go: few pages, so that there are tables without any.
const COUNT: u64 = 16;
const PASSES: u64 = 16;
/// Harvests of a round of this case.
const HARVESTS: u64 = 10;
/// Every so many there is one of accessed pages, which must not lose a dirty one.
const ACCESSED: u64 = 3;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    world.make_room(0, PAGES, SMALL);
    guest::clear(0, PAGES);
    let (pages, reader) = (guest::pages(0, PAGES), world.table.reader());
    reader.pin().map_range(pages, guest::frame(0), ALL_RIGHTS).expect("there is room");
    let copy: SpinMutex<Copy> = SpinMutex::new(Copy::new());
    let (harvests, reported) = (machine.options.rounds * HARVESTS, AtomicU64::new(0));
    let job = |jobs| {
        let first = SmallRng::seed_from_u64(jobs).random_range(0..PAGES - COUNT);
        Job::new(Deed::AddOne, first, COUNT).times(PASSES)
    };
    let fix = |pin: &Pin<'_, V>, fault: Fault| match pin.fix_write(fault.gpa()) {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => wait(fault),
    };
    let guests = Guests::run(&world, job, fix, |guests| {
        let mut copy = copy.lock();
        for harvest in 0..harvests {
            guests.until_done();
            if harvest % ACCESSED == 0 {
                let _accessed = round(&world, Mark::Accessed);
            }
            reported.fetch_add(copy.update(&world), Ordering::Relaxed);
        }
    });
    // What was written last, and one round more: of those that read only what was touched it may be as late.
    let mut copy = copy.into_inner();
    let last = copy.update(&world) + copy.update(&world);
    let wrong = copy.differs();
    let reported = reported.into_inner();
    guests.outcome(
        machine,
        wrong,
        &format!("{harvests} harvests reported {reported} pages, the last two {last}"),
    )
}

/// The first words of the pages, as they were when they were last reported.
struct Copy(Vec<u32>);

impl Copy {
    fn new() -> Self {
        Self(vec![0; PAGES as usize])
    }

    /// Copies what was written; returns how many pages that were.
    fn update<V: Virt>(&mut self, world: &World<'_, V>) -> u64 {
        let dirty = round(world, Mark::Dirty);
        for run in dirty.runs() {
            let first = (run.start().get() - guest::DATA) / PAGE_BYTES;
            for page in first..first + run.pages() {
                self.0[page as usize] = word(page);
            }
        }
        dirty.count()
    }

    /// Returns how many pages are not as they were copied.
    fn differs(&self) -> u64 {
        (0..).zip(&self.0).filter(|&(page, &copied)| word(page) != copied).count() as u64
    }
}

fn word(page: u64) -> u32 {
    guest::word(guest::frame(page)).load(Ordering::Relaxed)
}

/// Reports and clears the marks; what was written up to the end of the shoot-down belongs to the round.
fn round<V: Virt>(world: &World<'_, V>, mark: Mark) -> Bitmap {
    let pages = guest::pages(0, PAGES);
    let (mut found, reader) = (Bitmap::new(pages), world.table.reader());
    let (_, mut flush) =
        world.table.harvest_round(pages, mark, &mut found).expect("it is in range");
    if !world.machine.virt.keeps_bits() {
        // The first write to each of them is a fault from now on.
        let (_, watched) = reader.pin().watch(pages).expect("they are small");
        flush.merge(watched).expect("it is the same table");
    }
    world.serve(flush);
    found
}
