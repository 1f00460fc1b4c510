//! Leaves of 2 MiB are split and collapsed, and the table that was between is at once another's: an MMU that still went
//! through it would come to frames that are nobody's.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::PageSize;

use super::{Guests, alone, decoys, until_written, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    virt::Virt,
    world::{ALL_RIGHTS, Machine, SMALL, World},
};

/// Of a large leaf.
const LEAF: u64 = 512;
const LEAVES: u64 = 2;
const PAGES: u64 = LEAVES * LEAF;
const PASSES: u64 = 4;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    let (pages, large) = (guest::pages(0, PAGES), PageSize::Size2M);
    world.table.populate_mapped(pages, large, guest::frame(0), ALL_RIGHTS).expect("there is room");
    guest::clear(0, PAGES);
    decoys::clear();
    let job = Job::new(Deed::AddOne, 0, PAGES).times(PASSES);
    let (busy, recycled) = (AtomicU64::new(0), AtomicU64::new(0));
    let guests = Guests::run(
        &world,
        |_| job,
        |_, fault| wait(fault),
        |_| {
            for round in 0..machine.options.rounds * LEAVES {
                let first = round % LEAVES * LEAF;
                let leaf = guest::page(first);
                until_written(guest::frame(first));
                world.table.split(leaf, SMALL, &world).expect("there are frames");
                let table = world.slots(leaf).last().expect("it is mapped").table();
                until_written(guest::frame(first));
                let failed = world.table.collapse(leaf, large, &world).is_err();
                busy.fetch_add(u64::from(failed), Ordering::Relaxed);
                recycled.fetch_add(u64::from(decoys::recycle(&world, &[table])), Ordering::Relaxed);
            }
        },
    );
    let expected = guests.jobs() * PASSES;
    let word = |page| u64::from(guest::word(guest::frame(page)).load(Ordering::Relaxed));
    let wrong =
        (0..PAGES).filter(|&page| word(page) != expected).count() as u64 + decoys::written();
    let rounds = machine.options.rounds * LEAVES;
    let (busy, recycled) = (busy.into_inner(), recycled.into_inner());
    let said = format!(
        "{rounds} splits and collapses ({busy} thwarted), {recycled} tables used again at once"
    );
    guests.outcome(wrong, &said)
}
