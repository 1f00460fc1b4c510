//! Demand paging of one table by all processors: each adds one to every page, and whoever comes first maps it.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Outcome, judge};
use crate::{
    guest::{self, Deed, Job},
    machine::processors,
    virt::Virt,
    world::{Machine, Processor, SMALL, World},
};

const PAGES: u64 = 2048;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let world = World::new(machine);
    world.make_room(0, PAGES, SMALL);
    guest::clear(0, PAGES);
    let (faults, done) = (AtomicU64::new(0), AtomicU64::new(0));
    processors::all_do(&|_| {
        let mut processor = Processor::new(&world);
        let did = processor.demand(Job::new(Deed::AddOne, 0, PAGES));
        done.fetch_add(u64::from(did.is_ok()), Ordering::Relaxed);
        faults.fetch_add(processor.faults, Ordering::Relaxed);
    });
    let pin = world.table.pin();
    let keeps_bits = machine.virt.keeps_bits();
    let right = |index: &u64| {
        let word = guest::word(guest::frame(*index)).load(Ordering::Relaxed);
        let leaf = pin.lookup(guest::page(*index));
        let marked =
            leaf.is_some_and(|leaf| (leaf.accessed, leaf.dirty) == (keeps_bits, keeps_bits));
        word == machine.processors && marked
    };
    let (right, faults) = ((0..PAGES).filter(right).count() as u64, faults.into_inner());
    let said = format!("{right} of {PAGES} pages right, {faults} faults");
    judge(right == PAGES && done.into_inner() == u64::from(machine.processors), said)
}
