//! The processor that KVM has: batches are handed to the guest, and faults come back from it.

use slat::{AnyFormat, Arena};

use super::{
    cpu::{Cpu, Exit as Stop, Kind, LoadError, RawOp},
    memory_map,
    vm::{Vm, VmError},
};
use crate::{
    batch::{BATCH, Batch},
    frame::Word,
    machine::Machine,
    manager::Flushing,
    outcome::{Broken, Outcome},
    processor::{Exit, Processor},
    stage::Stage,
    vcpu::Vcpu,
    workload::{Act, Op, Share},
};

const _: () = assert!(BATCH <= memory_map::BATCH, "the guest has room for a batch");

/// Runs a vCPU of `vm`'s on this thread, where kicks reach it, to the end of its share.
pub(crate) fn run<'m>(
    vm: &'m Vm,
    number: usize,
    machine: &'m Machine<'m>,
    stage: &'m Stage,
    vcpu: Vcpu<'m>,
    share: &mut dyn Share,
) -> Result<Outcome, VmError> {
    let cpu = vm.cpu(number)?;
    let (id, arm) = (cpu.observer_id(), cpu.arm());
    let mut processor = NativeCpu { machine, vm, stage, cpu, loaded: None };
    Ok(machine.kicks.run(id, arm, || vcpu.run(&mut processor, share)))
}

/// A vCPU that KVM runs.
struct NativeCpu<'m> {
    machine: &'m Machine<'m>,
    vm: &'m Vm,
    stage: &'m Stage,
    cpu: Cpu<'m>,
    /// The batch that the guest has.
    loaded: Option<u64>,
}

impl NativeCpu<'_> {
    fn load(&mut self, batch: &Batch) -> Result<(), LoadError> {
        let encode = |op: &Op| encode(self.machine, *op);
        let ops: Vec<_> = batch.ops().iter().map(encode).collect();
        self.cpu.load(&ops)
    }
}

fn encode(machine: &Machine<'_>, op: Op) -> RawOp {
    let (kind, argument) = match op.act {
        Act::Load | Act::Expect(_) | Act::Recall => (Kind::Load, 0),
        Act::Fetch => (Kind::Fetch, 0),
        Act::Add(amount) => (Kind::Add, Word::addend(amount)),
        // The host takes processors from guests as it likes.
        Act::Pause => (Kind::Pause, 0),
    };
    RawOp::new(kind, machine.gpa(op.page, op.word), argument)
}

impl Processor for NativeCpu<'_> {
    fn vcpu(&self) -> &slat::Vcpu<AnyFormat, Arena> {
        self.cpu.handle()
    }

    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken> {
        if self.loaded != Some(batch.number()) {
            self.load(batch)?;
            self.loaded = Some(batch.number());
        }
        let Self { machine, vm, .. } = *self;
        let stop = self.cpu.stay(|due, generation| match machine.flushing {
            Flushing::Served => vm.invalidate(due, generation),
            Flushing::Skipped => Ok(()),
        });
        for done in batch.done()..self.cpu.progress() {
            let Op { page, act, .. } = batch.ops()[done];
            if act == Act::Pause {
                self.stage.places[machine.layout.region_of(page)].pause();
            }
            batch.found(Word::from_raw(self.cpu.result(done)));
        }
        Ok(match stop? {
            Stop::Done => Exit::Done,
            Stop::Fault(fault) => Exit::Fault(fault.into()),
            Stop::Kicked => Exit::Kicked,
        })
    }
}

#[cfg(test)]
mod tests;
