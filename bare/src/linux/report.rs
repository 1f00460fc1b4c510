//! What a guest did, as it is told in the end.

use core::num::NonZero;

use slat::{Heat, PageState, SpaceStats};

use super::{
    clock::Clock,
    memory::{Memory, Places, pages},
    vcpu::Exit,
};
use crate::machine::console::say;

/// How often a processor came out of the guest, for what, and how long it took, by the processor's counter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exits {
    pub(super) faults: u64,
    pub(super) cpuid: u64,
    pub(super) msrs: u64,
    pub(super) ports: u64,
    pub(super) interrupts: u64,
    pub(super) returns: u64,
    pub(super) kicks: u64,
    pub(super) others: u64,
    /// In the library, by faults.
    pub(super) in_faults: u64,
    /// From beginning to end.
    pub(super) time: u64,
}

/// So many characters a picture of memory has.
const CELLS: NonZero<usize> = NonZero::new(64).unwrap();

impl Exits {
    /// Counts one more.
    pub(super) fn count(&mut self, exit: &Exit) {
        let counter = match exit {
            Exit::Fault(_) => &mut self.faults,
            Exit::Cpuid => &mut self.cpuid,
            Exit::ReadMsr | Exit::WriteMsr => &mut self.msrs,
            Exit::Port(_) => &mut self.ports,
            Exit::Interrupt => &mut self.interrupts,
            Exit::Return => &mut self.returns,
            Exit::Kick => &mut self.kicks,
            Exit::Undefined | Exit::Shutdown | Exit::Other { .. } => &mut self.others,
        };
        *counter += 1;
    }
}

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
pub(super) fn work(space: &Memory, all: &[Exits], clock: Clock) {
    for exits in all {
        let Exits { faults, cpuid, msrs, ports, interrupts, returns, kicks, others, .. } = exits;
        say!(
            "exits: {faults} faults, {cpuid} CPUID, {msrs} MSRs, {ports} ports, {interrupts} interrupts, {returns} returns, \
             {kicks} kicks, {others} others"
        );
        say!(
            "{} ms, of which {} in faults: {} ns each",
            clock.milliseconds(exits.time),
            clock.milliseconds(exits.in_faults),
            clock.nanoseconds_each(exits.in_faults, *faults)
        );
    }
    let SpaceStats { faults, spurious, lost, retries, table, .. } = space.stats();
    let tables = table.tables;
    say!(
        "faults with those of the loader: {faults}, {spurious} spurious, {lost} lost, {retries} retries; {tables} tables"
    );
}
