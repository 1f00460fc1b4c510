//! The processor that KVM has: batches are handed to the guest, and faults come back from it.

use crate::{
    batch::{BATCH, Batch},
    frame::Word,
    kvm::{self, Cpu, Exit as Stop, Kind, LoadError, RawOp},
    machine::Machine,
    outcome::Broken,
    processor::{Exit, Processor},
    stage::Stage,
    workload::{Act, Op},
};

const _: () = assert!(BATCH <= kvm::BATCH, "the guest has room for a batch");

/// A vCPU that KVM runs.
pub(crate) struct NativeCpu<'m> {
    machine: &'m Machine<'m>,
    stage: &'m Stage,
    cpu: Cpu<'m>,
    /// The batch that the guest has.
    loaded: Option<u64>,
}

impl<'m> NativeCpu<'m> {
    pub(crate) fn new(machine: &'m Machine<'m>, stage: &'m Stage, cpu: Cpu<'m>) -> Self {
        Self { machine, stage, cpu, loaded: None }
    }

    pub(crate) fn cpu(&self) -> &Cpu<'m> {
        &self.cpu
    }

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
    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken> {
        if self.loaded != Some(batch.number()) {
            self.load(batch)?;
            self.loaded = Some(batch.number());
        }
        let machine = self.machine;
        let stop = self.cpu.stay(|due, generation| machine.invalidate(due, generation));
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
