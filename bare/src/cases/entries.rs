//! Every entry that can be made by turning over one bit, by other rights and by other memory types, at every level
//! and for leaves of every size, and what the processor makes of it.

use alloc::vec::Vec;

use slat::{Format, Gpa, PAGE_BYTES, PageSize};

use super::{
    Outcome,
    conform::{Directory, Place, Tally, compare},
};
use crate::{
    guest,
    machine::memory,
    virt::Virt,
    world::{Machine, Processor, World},
};

/// The guest's page by a small leaf.
const SMALL: u64 = 5;
/// The same by a leaf of 2 MiB.
const LARGE: u64 = 1024 + 3;
/// By one of 1 GiB, to the first frame of all: a page within it is the guest's.
const HUGE: Gpa = Gpa::new(0x8000_0000 + memory::GUEST.start + HUGE_FRAME * PAGE_BYTES);
const HUGE_FRAME: u64 = 7;
/// Behind another entry of the fourth level than all the rest, and where the guest has that.
const FAR: Gpa = Gpa::new((1 << 39) + FAR_FRAME * PAGE_BYTES);
const FAR_FRAME: u64 = 9;
const FAR_LINEAR: u64 = 0xc000_0000;
/// The page of the guest's own tables, by which it comes there.
const DIRECTORY: u64 = 2048;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let world = World::new(machine);
    let mut processor = Processor::new(&world);
    let places = places(&world, &mut processor);
    let mut tally = Tally::new(machine.emulator, machine.virt.format().name());
    for tracking in machine.trackings() {
        for place in &places {
            compare(&mut processor, place, tracking, &mut tally);
        }
    }
    tally.report("entries")
}

fn places<V: Virt>(world: &World<'_, V>, processor: &mut Processor<'_, V>) -> Vec<Place> {
    let format = world.machine.virt.format();
    let flat = |(name, size, gpa, frame)| {
        let place = || Place::flat(world, name, size, gpa, guest::frame(frame));
        format.supports(size).then(place)
    };
    let near = [
        ("4 KiB", PageSize::Size4K, guest::page(SMALL), SMALL),
        ("2 MiB", PageSize::Size2M, guest::page(LARGE), LARGE),
        ("1 GiB", PageSize::Size1G, HUGE, HUGE_FRAME),
    ];
    let mut places: Vec<_> = near.into_iter().filter_map(flat).collect();
    if !format.supports(PageSize::Size1G) {
        let frame = guest::frame(HUGE_FRAME);
        places.push(Place::huge(world, "1 GiB that is not there", HUGE, frame));
    }
    let directory = Directory::new(processor, DIRECTORY);
    let far = (FAR, guest::frame(FAR_FRAME));
    let linear = FAR_LINEAR + FAR_FRAME * PAGE_BYTES;
    places.push(Place::paged(world, "4 KiB beyond 512 GiB", far, directory, linear));
    places
}
