//! A guest with page tables of its own: what the processor makes of the entries on the way to these.

use slat::Format;

use super::{
    Outcome,
    conform::{Directory, Place, Tally, compare},
};
use crate::{
    guest::{Deed, Job},
    virt::Virt,
    world::{Machine, Processor, SMALL, World},
};

const DIRECTORY: u64 = 2048;

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let world = World::new(machine);
    let mut processor = Processor::new(&world);
    let directory = Directory::new(&mut processor, DIRECTORY);
    world.make_room(Place::ANYWHERE, 1, SMALL);
    processor.demand(Job::new(Deed::Write, Place::ANYWHERE, 1)).expect("the page can be had");
    let place = Place::tables(&world, "the directory", directory);
    let mut tally = Tally::new(machine.emulator, machine.virt.format().name());
    for tracking in machine.trackings() {
        compare(&mut processor, &place, tracking, &mut tally);
    }
    tally.report("own tables")
}
