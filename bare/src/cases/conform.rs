//! What a processor makes of entries, against what the library's software MMU makes of them.

mod attempt;
mod directory;
mod known;
mod place;
mod tally;

use slat::Tracking;

use self::attempt::Tried;
pub(crate) use self::{directory::Directory, place::Place, tally::Tally};
use crate::{virt::Virt, world::Processor};

/// Changes each entry on the way to a place in each way, has the guest go there in each way, and compares what came
/// of it and how the entries were left.
pub(crate) fn compare<V: Virt>(
    processor: &mut Processor<'_, V>,
    place: &Place,
    tracking: Tracking,
    tally: &mut Tally,
) {
    let virt = processor.world.machine.virt;
    for index in 0..place.entries() {
        for raw in place.tried(virt, index) {
            for &kind in place.kinds() {
                let tried = Tried { place, index, raw, kind };
                let real = tried.on_hardware(processor, tracking);
                tally.add(&tried, &real, |raw| {
                    Tried { raw, ..tried }.in_software(processor, tracking)
                });
            }
        }
    }
    place.restore();
}
