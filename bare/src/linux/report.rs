//! What a guest did, as it is told in the end.

use core::num::NonZero;

use slat::{Heat, PageState, SpaceStats, VcpuStats};

use super::{
    clock::Clock,
    memory::{Memory, Places, pages},
};
use crate::machine::console::say;

/// How often the guest came out, for what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exits {
    pub(super) faults: u64,
    pub(super) cpuid: u64,
    pub(super) msrs: u64,
    pub(super) ports: u64,
    pub(super) undefined: u64,
    pub(super) interrupts: u64,
    pub(super) returns: u64,
}

/// How long things took, by the processor's counter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// From when the guest began.
    pub(super) all: u64,
    /// Of that, in the library, by faults.
    pub(super) faults: u64,
}

/// So many characters a picture of memory has.
const CELLS: NonZero<usize> = NonZero::new(64).unwrap();

/// Says how the memory stands.
pub(super) fn memory(space: &Memory, places: &Places) {
    let states = [PageState::Resident, PageState::Accessed, PageState::Dirty];
    let [resident, accessed, dirty] = states.map(|state| {
        let heats = space.heat(state, CELLS);
        let is_ram = |heat: &&Heat| places.ram.iter().any(|ram| pages(ram) == heat.range());
        let cells = heats.iter().filter(is_ram).flat_map(Heat::cells);
        let count = cells.map(|cell| cell.count).sum::<u64>();
        if let Some(high) = heats.iter().rfind(is_ram) {
            say!("{state:?}: |{high}|");
        }
        count
    });
    say!("of the guest's pages: {resident} resident, {accessed} accessed, {dirty} dirty");
    say!("of the machine's own, by the same addresses:");
    // Those of the guest's memory are many: leaves in no order.
    for devices in &places.devices {
        let leaves = space.table().dump(pages(devices)).expect("they are of the table");
        say!("{leaves}");
    }
}

/// Says what was done.
pub(super) fn work(space: &Memory, vcpu: VcpuStats, exits: &Exits, clock: Clock, times: Times) {
    let SpaceStats { table, .. } = space.stats();
    say!("{exits:?}");
    say!(
        "faults: {} mapped {} pages, {} spurious; {} tables",
        vcpu.faults,
        vcpu.mapped,
        vcpu.spurious,
        table.tables
    );
    say!(
        "{} ms, of which {} in faults: {} ns each",
        clock.milliseconds(times.all),
        clock.milliseconds(times.faults),
        clock.nanoseconds_each(times.faults, exits.faults)
    );
}
