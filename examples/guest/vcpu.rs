//! A vCPU: plans what the guest does next, runs it until something makes it come out, and handles that.
//!
//! This is the part of a VMM that the library is for. An entry goes through the vCPU's handle on the space,
//! [`slat::Vcpu`], which says what its translation cache has to forget: see [`soft`](crate::soft) and
//! [`kvm`](crate::kvm). Where nothing is mapped the MMU faults, and the vCPU comes out; the same handle
//! resolves the [fault](slat::Vcpu::fault), and the access is tried again. All of it runs on the vCPU's own
//! thread, and no fault waits for another.

use std::{thread, time::Instant};

use slat::{
    AnyFormat, Arena, FaultError, GpaRange, Prot,
    mmu::{Cause, Fault},
};

use crate::{
    batch::Batch,
    deeds::Log,
    frame::{Frame, Word},
    machine::Machine,
    manager::Change,
    outcome::{Broken, Outcome, Stale, Tally},
    processor::{Exit, Processor},
    progress::Ticker,
    stage::Stage,
    workload::{Act, Op, Share, needs},
};

/// The vCPU as the space knows it.
type SpaceVcpu = slat::Vcpu<AnyFormat, Arena>;

/// One virtual processor.
pub(crate) struct Vcpu<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    pub(crate) ticker: Ticker<'m>,
    pub(crate) begun: Instant,
}

/// What a fault handler found.
enum Resolved {
    /// There is a page: try again.
    Present,
    /// The page is just being moved: try again later.
    Moving,
    /// There is no memory: the access is in vain.
    Absent,
}

/// A vCPU at work.
struct Running<'m> {
    vcpu: Vcpu<'m>,
    tally: Tally,
    stale: Option<Stale>,
    log: Log,
}

impl<'m> Vcpu<'m> {
    /// Runs its share of the work to the end.
    pub(crate) fn run(self, processor: &mut dyn Processor, share: &mut dyn Share) -> Outcome {
        let machine = self.machine;
        let mut running = Running {
            tally: Tally::default(),
            stale: None,
            log: Log::new(machine.layout.len()),
            vcpu: self,
        };
        let broken = running.execute(processor, share).err();
        let Running { vcpu, tally, stale, log } = running;
        Outcome { tally, stale, log, elapsed: vcpu.begun.elapsed(), broken }
    }
}

impl<'m> Running<'m> {
    fn execute(
        &mut self,
        processor: &mut dyn Processor,
        share: &mut dyn Share,
    ) -> Result<(), Broken> {
        let mut batch = Batch::default();
        // How many accesses had been made when a fault was resolved last.
        let mut resolved = None;
        loop {
            if batch.next().is_none() {
                batch.plan(share);
            }
            if batch.next().is_none() {
                return Ok(());
            }
            self.vcpu.stage.phase.pass();
            self.tally.entries += 1;
            let exit = processor.stay(&mut batch);
            self.settle(&mut batch)?;
            let (Exit::Fault(fault), Some(op)) = (exit?, batch.next()) else { continue };
            let again = resolved.replace(self.tally.accesses) == resolved;
            if again && self.vcpu.machine.change.is_none() {
                return Err(Broken::FaultAgain(fault));
            }
            match self.resolve(processor.vcpu(), op, fault)? {
                Resolved::Present => {}
                Resolved::Moving => thread::yield_now(),
                Resolved::Absent => {
                    share.absent();
                    batch.abandon();
                }
            }
        }
    }

    /// Looks at what the guest found during its last stay, and logs what it did.
    fn settle(&mut self, batch: &mut Batch) -> Result<(), Broken> {
        let before = self.tally.accesses;
        let mut settled = Ok(());
        for (op, found) in batch.settle() {
            if op.act.access().is_some() {
                self.tally.accesses += 1;
                // All of them were done, also those behind one that is wrong.
                settled = settled.and(self.judge(op, found));
            }
        }
        self.vcpu.ticker.advance(self.tally.accesses - before);
        settled
    }

    /// Looks at what one access found.
    fn judge(&mut self, op: Op, found: Word) -> Result<(), Broken> {
        let Op { page, word, act } = op;
        let machine = self.vcpu.machine;
        let gpa = machine.gpa(page, word);
        let latest = self.log.latest(page);
        let tenant = || found.stay.and_then(|stay| machine.memory.tenant(stay));
        let is_its_own = || tenant().is_some_and(|leaf| leaf.contains(gpa));
        // Mostly it is the stay that is known: then nobody need be asked whose it is.
        let is_stale = found.stay.is_none() || found.stay != latest && !is_its_own();
        if is_stale {
            let tenant = tenant().map(GpaRange::start);
            self.stale.get_or_insert(Stale { gpa, tenant });
            self.tally.stale += 1;
        }
        // What a guest writes it expects to find in its page, wherever it went.
        let stay = if is_stale { latest } else { found.stay };
        let Some(stay) = stay else { return Ok(()) };
        let deeds = self.log.at(page, stay);
        let expected = match act {
            Act::Expect(value) => value,
            Act::Recall => deeds.sum & Word::SUM,
            Act::Fetch | Act::Load | Act::Pause => found.sum,
            Act::Add(amount) => {
                deeds.written = true;
                deeds.sum = deeds.sum.wrapping_add(amount);
                found.sum
            }
        };
        if found.sum != expected && !is_stale {
            return Err(Broken::Value { gpa, expected, found: found.sum });
        }
        Ok(())
    }

    /// Handles a fault as a VMM does after a VM exit.
    fn resolve(&mut self, vcpu: &SpaceVcpu, op: Op, fault: Fault) -> Result<Resolved, Broken> {
        let Vcpu { machine, stage, .. } = self.vcpu;
        self.tally.faults += 1;
        let moves = machine.change == Some(Change::Migrate);
        let gpa = machine.gpa(op.page, op.word);
        // A page that moves may be there, and read-only.
        let is_due = fault.cause() == Cause::NotPresent || moves;
        let access = op.act.access().filter(|_| fault.gpa() == gpa && is_due);
        let access = access.ok_or(Broken::Fault(fault))?;

        let before = vcpu.stats().mapped;
        let resolved = vcpu.fault(gpa, needs(access));
        let pages = vcpu.stats().mapped - before;
        match resolved {
            Ok(slat::Fault::Resolved) if pages > 0 => {
                self.tally.mapped += 1;
                self.tally.mapped_pages += pages;
                if stage.phase.is_tracked() {
                    self.note_filled(vcpu, op)?;
                }
                Ok(Resolved::Present)
            }
            // The page is back; or it has been all the time, and may be written again.
            Ok(slat::Fault::Resolved) if moves => {
                self.tally.moving += 1;
                Ok(Resolved::Present)
            }
            // Another vCPU faulted here as well and was first: its page will do.
            Ok(slat::Fault::Resolved) => {
                self.tally.lost += 1;
                Ok(Resolved::Present)
            }
            Ok(slat::Fault::Retry) => {
                self.tally.moving += 1;
                Ok(Resolved::Moving)
            }
            Err(FaultError::Denied { .. }) if moves => {
                self.tally.moving += 1;
                Ok(Resolved::Moving)
            }
            Err(FaultError::NoRegion { .. }) if machine.change.is_some_and(Change::takes_away) => {
                self.tally.away += 1;
                Ok(Resolved::Absent)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says that a page was written by the host, which has filled it, just as a device would: so it is
    /// copied, whether the guest writes there or not.
    fn note_filled(&mut self, vcpu: &SpaceVcpu, op: Op) -> Result<(), Broken> {
        let machine = self.vcpu.machine;
        let page = vcpu.hold(machine.layout.gpa(op.page), Prot::R)?;
        let stay = machine.memory.frame(page.frame()).and_then(Frame::stay);
        let _ = page.release_written();
        if let Some(stay) = stay {
            self.log.at(op.page, stay).written = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
