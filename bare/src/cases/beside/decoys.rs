//! Tables that were just freed become others', which lead to frames that no guest has: who still walks a freed table
//! writes there.

use core::{hint, sync::atomic::Ordering};

use slat::HostPfn;

use crate::{
    guest,
    virt::Virt,
    world::{ALL_RIGHTS, SMALL, World},
};

/// Pages that no guest uses, behind its gigabyte, and as many frames: one table full.
const FIRST_PAGE: u64 = 1 << 18;
const FIRST_FRAME: u64 = 1 << 14;
const COUNT: u64 = 512;
/// How long they are there.
const MOMENT: u32 = 2_000;

/// Makes their words what [`written`] expects.
pub(super) fn clear() {
    guest::clear(FIRST_FRAME, COUNT);
}

/// Waits until what was unlinked is free, and makes a table of it for a moment; tells whether it was one of `freed`.
pub(super) fn recycle<V: Virt>(world: &World<'_, V>, freed: &[HostPfn]) -> bool {
    while world.table.reclaim(world).waiting != 0 {
        hint::spin_loop();
    }
    let (pages, frame) = (guest::pages(FIRST_PAGE, COUNT), guest::frame(FIRST_FRAME));
    world.table.populate_mapped(pages, SMALL, frame, ALL_RIGHTS).expect("there are frames");
    let slots = world.slots(pages.start());
    let is_there = slots.iter().any(|slot| freed.contains(&slot.table()));
    (0..MOMENT).for_each(|_| hint::spin_loop());
    let reader = world.table.reader();
    let (_, flush) = reader.pin().unmap_range(pages, drop).expect("they are small");
    world.serve(flush);
    world.table.vacate(pages).expect("nobody maps there");
    is_there
}

/// Returns how many of their words somebody wrote to.
pub(super) fn written() -> u64 {
    let is_written = |&page: &u64| guest::word(guest::frame(page)).load(Ordering::Relaxed) != 0;
    (FIRST_FRAME..FIRST_FRAME + COUNT).filter(is_written).count() as u64
}
