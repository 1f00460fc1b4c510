//! Large leaves are split and collapsed, and the table that was between is at once another's: an MMU that still went
//! through it would come to frames that are nobody's.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::{Format, HostPfn, PAGE_BYTES, PageSize};

use super::{Guests, alone, decoys, demand, until_written, wait};
use crate::{
    cases::Outcome,
    guest::{self, Deed, Job},
    machine::memory::GUEST,
    virt::Virt,
    world::{ALL_RIGHTS, Machine, World},
};

/// Pages of a leaf of 2 MiB.
const LEAF: u64 = 512;
/// Two such leaves full, or as much of a larger one.
const PAGES: u64 = 2 * LEAF;
const PASSES: u64 = 4;
/// Sizes changed in a round.
const TIMES: u64 = 2;

/// Leaves of 2 MiB.
pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    change(machine, PageSize::Size2M, PAGES, 0)
}

/// A leaf of 1 GiB, which maps all of memory from 0 on.
pub(super) fn run_1g<V: Virt>(machine: &Machine<V>) -> Outcome {
    let large = PageSize::Size1G;
    if machine.virt.format().leaf(large, HostPfn::new(0), ALL_RIGHTS).is_err() {
        return Outcome::Skipped("the processor has no leaves of 1 GiB");
    }
    change(machine, large, large.pages(), GUEST.start / PAGE_BYTES)
}

/// Maps `mapped` pages by leaves of a size, of which the one with the number `first` is the first of the guest's frames,
/// and changes the sizes of those leaves which the guests use.
fn change<V: Virt>(machine: &Machine<V>, large: PageSize, mapped: u64, first: u64) -> Outcome {
    if let Some(skipped) = alone(machine) {
        return skipped;
    }
    let world = World::new(machine);
    let start = HostPfn::new(guest::frame(0).get() - first);
    let all = guest::pages(0, mapped);
    world.table.populate_mapped(all, large, start, ALL_RIGHTS).expect("there is room");
    guest::clear(0, PAGES);
    decoys::clear();
    let job = Job::new(Deed::AddOne, first, PAGES).times(PASSES);
    let (thwarted, recycled) = (AtomicU64::new(0), AtomicU64::new(0));
    let (small, times) = (large.smaller().expect("it is large"), machine.options.rounds * TIMES);
    let guests = Guests::run(
        &world,
        |_| job,
        |_, fault| wait(fault),
        |_| {
            for page in (0..times).map(|time| time * LEAF % PAGES) {
                let (leaf, frame) = (guest::page(first + page), guest::frame(page));
                until_written(frame);
                world.table.split(leaf, small, &world).expect("there are frames");
                let table = world.slots(leaf).last().expect("it is mapped").table();
                until_written(frame);
                let failed = world.table.collapse(leaf, large, &world).is_err();
                thwarted.fetch_add(u64::from(failed), Ordering::Relaxed);
                recycled.fetch_add(u64::from(decoys::recycle(&world, &[table])), Ordering::Relaxed);
            }
        },
    );
    let expected = guests.jobs() * PASSES;
    let word = |page| u64::from(guest::word(guest::frame(page)).load(Ordering::Relaxed));
    let wrong = (0..PAGES).filter(|&page| word(page) != expected).count() as u64;
    let (failed, again) = (thwarted.into_inner(), recycled.load(Ordering::Relaxed));
    let said = format!(
        "{times} splits and collapses ({failed} thwarted), {again} tables used again at once"
    );
    let outcome = guests.outcome(machine, wrong + decoys::written(), &said);
    demand(&recycled, "no table was used again", outcome)
}
