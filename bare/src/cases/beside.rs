//! Changes beside running guests: the first processor changes the table, all others run guests, which add one to the
//! first word of each of some pages, again and again. What the words come to be is known exactly: an addition that
//! went to a frame that a page had before, or was to have later, is missing in the end.

mod decoys;
mod moves;
mod protect;
mod rounds;
mod shoots;
mod sizes;
mod vacate;

use alloc::{format, string::ToString};
use core::{
    hint,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use slat::{HostPfn, mmu::Fault};
use spin::mutex::SpinMutex;

use super::{Case, Outcome};
use crate::{
    guest::{self, Job},
    machine::processors,
    options::Flushing,
    virt::{Exit, Virt},
    world::{Machine, Pin, Processor, World},
};

pub(super) fn all<V: Virt>() -> [Case<V>; 7] {
    [
        ("pages move beside guests", moves::run),
        ("rights come and go beside guests", protect::run),
        ("2 MiB leaves change their size beside guests", sizes::run),
        ("1 GiB leaves change their size beside guests", sizes::run_1g),
        ("dirty rounds beside guests", rounds::run),
        ("vacate and populate beside guests", vacate::run),
        ("all shoot at once", shoots::run),
    ]
}

/// The guests of a case.
#[derive(Debug, Default)]
struct Guests {
    /// They are to come to an end.
    stop: AtomicBool,
    /// How many have done a job.
    begun: AtomicU32,
    /// What they have done: jobs, faults that were handled, and how often they were made to come out.
    jobs: AtomicU64,
    faults: AtomicU64,
    kicks: AtomicU64,
    /// What stopped one of them.
    trouble: SpinMutex<Option<Exit>>,
}

impl Guests {
    /// Runs guests on all processors but this one, and `host` here once all of them are at work; tells them to stop
    /// when it returns. What they cannot reach `handle` handles.
    fn run<V: Virt>(
        world: &World<'_, V>,
        job: impl Fn(u64) -> Job + Sync,
        handle: impl Fn(&Pin<'_, V>, Fault) -> ControlFlow<()> + Sync,
        host: impl Fn(&Self) + Sync,
    ) -> Self {
        let guests = Self::default();
        let others = world.machine.processors - 1;
        processors::all_do(&|number| {
            if number != 0 {
                return guests.work(world, &job, &handle);
            }
            while guests.begun.load(Ordering::Relaxed) < others && guests.trouble().is_none() {
                hint::spin_loop();
            }
            host(&guests);
            guests.stop.store(true, Ordering::Relaxed);
        });
        guests
    }

    /// Does jobs until there is to be an end; each is told how many were done by this processor.
    fn work<V: Virt>(
        &self,
        world: &World<'_, V>,
        job: impl Fn(u64) -> Job,
        handle: impl Fn(&Pin<'_, V>, Fault) -> ControlFlow<()>,
    ) {
        let mut processor = Processor::new(world);
        let mut jobs = 0;
        while jobs == 0 || !self.stop.load(Ordering::Relaxed) {
            if let Err(exit) = processor.work(job(jobs), &handle) {
                *self.trouble.lock() = Some(exit);
                break;
            }
            self.jobs.fetch_add(1, Ordering::Relaxed);
            if jobs == 0 {
                self.begun.fetch_add(1, Ordering::Relaxed);
            }
            jobs += 1;
        }
        self.faults.fetch_add(processor.faults, Ordering::Relaxed);
        self.kicks.fetch_add(processor.kicks, Ordering::Relaxed);
    }

    fn trouble(&self) -> Option<Exit> {
        *self.trouble.lock()
    }

    /// Lets them go on until one has done another job, or can do none.
    fn until_done(&self) {
        let before = self.jobs();
        while self.jobs() == before && self.trouble().is_none() {
            hint::spin_loop();
        }
    }

    /// How many jobs were done, all of them together.
    fn jobs(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Passes if nothing stopped a guest, `wrong` is nothing, and shoot-downs, if they were served, met guests inside.
    fn outcome<V>(&self, machine: &Machine<V>, wrong: u64, said: &str) -> Outcome {
        let [jobs, faults, kicks] = [&self.jobs, &self.faults, &self.kicks]
            .map(|count| count.load(Ordering::Relaxed).to_string());
        let said =
            format!("{said}; {jobs} jobs, {faults} faults, {kicks} kicks; {wrong} words wrong");
        match self.trouble() {
            Some(exit) => Outcome::Failed(format!("{exit:x?}; {said}")),
            None if wrong != 0 => Outcome::Failed(said),
            None if machine.options.flush == Flushing::Dropped => Outcome::Passed(said),
            None => demand(&self.kicks, "nobody was in a guest", Outcome::Passed(said)),
        }
    }
}

/// Lets guests go on until one of them has written to a frame, if it can: so that it is in the guest, and has
/// cached how it came there, when something changes.
fn until_written(frame: HostPfn) {
    const PATIENCE: u32 = 200_000;
    let before = guest::word(frame).load(Ordering::Relaxed);
    for _ in 0..PATIENCE {
        if guest::word(frame).load(Ordering::Relaxed) != before {
            break;
        }
        hint::spin_loop();
    }
}

/// Has a case fail that has passed without any of what it is about: then it has shown nothing.
fn demand(count: &AtomicU64, without: &str, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Passed(said) if count.load(Ordering::Relaxed) == 0 => {
            Outcome::Failed(format!("{without}; {said}"))
        }
        outcome => outcome,
    }
}

/// Why a case of this kind cannot be tried, if it cannot.
fn alone<V>(machine: &Machine<V>) -> Option<Outcome> {
    (machine.processors < 2).then_some(Outcome::Skipped("it takes two processors"))
}

/// A fault that somebody else handles: the guest tries again, unless its tables are broken.
fn wait(fault: Fault) -> ControlFlow<()> {
    match fault.cause() {
        slat::mmu::Cause::NotPresent | slat::mmu::Cause::Rights => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }
}
