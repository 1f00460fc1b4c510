//! Every processor runs a guest on all pages, and moves pages of its own: so several shoot at once, at those that run
//! guests and at each other. Nobody blocks: who waits for a shoot-down polls.

use alloc::{format, vec::Vec};
use core::{
    hint,
    ops::ControlFlow,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use slat::{Flush, Kick, PAGE_BYTES, Progress, mmu::Fault};
use spin::mutex::SpinMutex;

use super::{Guests, alone, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    machine::processors,
    options::Flushing,
    virt::Virt,
    world::{ALL_RIGHTS, Machine, Pin, Processor, SMALL, World},
};

/// Pages of each processor.
const OWN: u64 = 8;
const PASSES: u64 = 32;
/// How often each processor does a job and moves its pages, in a round.
const TIMES: u64 = 4;

/// Where each page is: in which of the guest's frames, or in none while it moves. Who holds the lock may map it there, or
/// unmap it.
struct Places(Vec<SpinMutex<Option<u64>>>);

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    let count = OWN * u64::from(machine.processors);
    world.make_room(0, count, SMALL);
    // Each page has two frames: it is in the one or in the other.
    guest::clear(0, 2 * count);
    let places = Places((0..count).map(|page| SpinMutex::new(Some(page))).collect());
    let (guests, at_once) = (Guests::default(), AtomicU64::new(0));
    let shooting = AtomicU32::new(0);
    processors::all_do(&|number| {
        let mut processor = Processor::new(&world);
        let own = u64::from(number) * OWN..(u64::from(number) + 1) * OWN;
        for _ in 0..machine.options.rounds * TIMES {
            let job = Job::new(Deed::AddOne, 0, count).times(PASSES);
            let handle = |pin: &Pin<'_, V>, fault: Fault| places.handle::<V>(pin, fault);
            if let Err(exit) = processor.work(job, handle) {
                *guests.trouble.lock() = Some(exit);
                return;
            }
            guests.jobs.fetch_add(1, Ordering::Relaxed);
            for page in own.clone() {
                let others = places.move_away(&processor, page, count, &shooting);
                at_once.fetch_add(u64::from(others), Ordering::Relaxed);
            }
        }
        guests.faults.fetch_add(processor.faults, Ordering::Relaxed);
        guests.kicks.fetch_add(processor.kicks, Ordering::Relaxed);
    });
    let expected = guests.jobs() * PASSES;
    let wrong = (0..count).filter(|&page| {
        let place = places.of(page).lock().expect("all moves are over");
        u64::from(guest::word(guest::frame(place)).load(Ordering::Relaxed)) != expected
    });
    let (wrong, moves) = (wrong.count() as u64, machine.options.rounds * TIMES * count);
    let at_once = at_once.into_inner();
    guests.outcome(machine, wrong, &format!("{moves} moves, {at_once} shoot-downs met another"))
}

impl Places {
    fn of(&self, page: u64) -> &SpinMutex<Option<u64>> {
        &self.0[page as usize]
    }

    /// Maps a page where it is; if it is nowhere, the guest tries again.
    fn handle<V: Virt>(&self, pin: &Pin<'_, V>, fault: Fault) -> ControlFlow<()> {
        let gpa = fault.gpa().page_base();
        let place = self.of((gpa.get() - guest::DATA) / PAGE_BYTES).lock();
        if let Some(place) = *place {
            pin.map(gpa, guest::frame(place), SMALL, ALL_RIGHTS).expect("it can be only there");
        }
        drop(place);
        wait(fault)
    }

    /// Moves a page from one of its frames to the other, which is `count` away; tells whether its shoot-down met
    /// another.
    fn move_away<V: Virt>(
        &self,
        processor: &Processor<'_, V>,
        page: u64,
        count: u64,
        shooting: &AtomicU32,
    ) -> bool {
        let mut place = self.of(page).lock();
        let old = place.take().expect("nobody else moves it");
        let unmapped = processor.reader.pin().unmap(guest::page(page));
        drop(place);
        let met = unmapped.is_ok_and(|(_, flush)| shoot(processor.world, flush, shooting));
        let new = (old + count) % (2 * count);
        let word = guest::word(guest::frame(old)).load(Ordering::Relaxed);
        guest::word(guest::frame(new)).store(word, Ordering::Relaxed);
        *self.of(page).lock() = Some(new);
        met
    }
}

/// Shoots, and polls until it is done; tells whether somebody else was shooting when it began.
fn shoot<V: Virt>(world: &World<'_, V>, flush: Flush<'_>, shooting: &AtomicU32) -> bool {
    if world.machine.options.flush == Flushing::Dropped {
        return false;
    }
    let met = shooting.fetch_add(1, Ordering::Relaxed) != 0;
    let mut shootdown = flush.shootdown();
    shootdown.laggards().for_each(|observer| world.kick(observer));
    while shootdown.poll() != Progress::Complete {
        hint::spin_loop();
    }
    shooting.fetch_sub(1, Ordering::Relaxed);
    met
}
