//! A vCPU: plans what the guest does next, runs it until something makes it come out, and handles that.
//!
//! This is the part of a hypervisor that the library is for. An entry goes through the vCPU's observer,
//! which says what its translation cache has to forget: see [`soft`](crate::soft) and
//! [`kvm`](crate::kvm). Where nothing is mapped the MMU faults, and the vCPU comes out; the handler maps a
//! frame, and the access is tried again. All of it runs on the vCPU's own thread, and no fault waits for
//! another.

use std::{thread, time::Instant};

use slat::{
    AnyFormat, Arena, GpaRange, HostPfn, MapError, Mapped, Mapping, PageSize, Reader,
    mmu::{Cause, Fault},
};

use crate::{
    batch::Batch,
    deeds::{Life, Log},
    frame::Word,
    machine::Machine,
    manager::{Change, Flushing, Site},
    outcome::{Broken, Outcome, Stale, Tally},
    processor::{Exit, Processor},
    progress::Ticker,
    stage::{Place, Stage},
    workload::{Act, Op, Share},
};

/// One virtual processor.
pub(crate) struct Vcpu<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    pub(crate) flushing: Flushing,
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

/// What became of an attempt to map a leaf.
enum Placed {
    Resolved(Resolved),
    /// There is room for leaves of another size.
    RoomFor(PageSize),
}

/// A vCPU at work.
struct Running<'m> {
    vcpu: Vcpu<'m>,
    reader: Reader<AnyFormat, Arena>,
    tally: Tally,
    stale: Option<Stale>,
    log: Log,
    lives: Vec<Life>,
    /// The frames that a lost race left over; the next fault takes them.
    spare: Option<(HostPfn, PageSize)>,
}

impl<'m> Vcpu<'m> {
    /// Runs its share of the work to the end.
    pub(crate) fn run(self, processor: &mut dyn Processor, share: &mut dyn Share) -> Outcome {
        let machine = self.machine;
        let mut running = Running {
            reader: machine.table.reader(),
            tally: Tally::default(),
            stale: None,
            log: Log::new(machine.layout.len()),
            lives: Vec::new(),
            spare: None,
            vcpu: self,
        };
        let broken = running.execute(processor, share).err();
        let Running { vcpu, tally, stale, log, lives, spare, .. } = running;
        if let Some((pfn, size)) = spare {
            machine.memory.free(pfn, size);
        }
        Outcome { tally, stale, log, lives, elapsed: vcpu.begun.elapsed(), broken }
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
            match self.resolve(op, fault)? {
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

    /// Handles a fault as a hypervisor does after a VM exit: maps a zeroed frame where none is.
    fn resolve(&mut self, op: Op, fault: Fault) -> Result<Resolved, Broken> {
        let Vcpu { machine, stage, .. } = self.vcpu;
        self.tally.faults += 1;
        if fault.gpa() != machine.gpa(op.page, op.word) {
            return Err(Broken::Fault(fault));
        }
        let place = &stage.places[machine.layout.region_of(op.page)];
        if machine.change == Some(Change::Migrate) {
            return self.resolve_where_pages_move(op.page, fault, place);
        }
        if fault.cause() != Cause::NotPresent {
            return Err(Broken::Fault(fault));
        }
        if place.is_leaving() {
            self.tally.away += 1;
            return Ok(Resolved::Absent);
        }
        self.map(op.page, fault)
    }

    /// Handles a fault where a page that is not there, or read-only, may just be on its way.
    fn resolve_where_pages_move(
        &mut self,
        page: usize,
        fault: Fault,
        place: &Place,
    ) -> Result<Resolved, Broken> {
        // While this is held nobody moves pages here.
        let Some(_steady) = place.try_hold() else {
            self.tally.moving += 1;
            return Ok(Resolved::Moving);
        };
        match self.reader.pin().lookup(fault.gpa()) {
            None => self.map(page, fault),
            Some(mapping) if mapping.attr == self.vcpu.machine.attr => {
                self.tally.moving += 1;
                Ok(Resolved::Present)
            }
            Some(_) => Err(Broken::Fault(fault)),
        }
    }

    /// Maps a page, by a leaf of the size that there is room for; while writes are tracked, by a small one.
    fn map(&mut self, page: usize, fault: Fault) -> Result<Resolved, Broken> {
        let Vcpu { machine, stage, .. } = self.vcpu;
        let granule = machine.layout.granule();
        let mut size = if stage.phase.is_tracked() { PageSize::Size4K } else { granule };
        loop {
            match self.map_leaf(page, size, fault)? {
                Placed::Resolved(resolved) => return Ok(resolved),
                Placed::RoomFor(room) if room > size => {
                    machine.table.refine(machine.layout.leaf(page, room), size)?;
                }
                Placed::RoomFor(room) => size = room,
            }
        }
    }

    fn map_leaf(&mut self, page: usize, size: PageSize, fault: Fault) -> Result<Placed, Broken> {
        let Vcpu { machine, stage, .. } = self.vcpu;
        let gpa = fault.gpa();
        let spare = self.spare.take_if(|spare| spare.1 == size).map(|(pfn, _)| pfn);
        let pfn = spare.or_else(|| machine.memory.allocate(size));
        let pfn = pfn.ok_or(Broken::OutOfFrames { gpa })?;
        let leaf = machine.layout.leaf(page, size);
        let stay = machine.memory.assign(pfn, leaf);
        let mapped = self.reader.pin().map(leaf.start(), pfn, size, machine.attr);
        let resolved = match mapped {
            Ok(Mapped::New) => {
                self.tally.mapped += 1;
                self.tally.mapped_pages += size.pages();
                if stage.phase.is_tracked() {
                    // What the handler filled it with has to be copied, whether the guest writes or not.
                    let pin = self.reader.pin();
                    pin.slot(leaf.start()).expect("it was just mapped").set_dirty();
                    self.log.at(page, stay).written = true;
                }
                Resolved::Present
            }
            Ok(Mapped::Same) => return Err(Broken::FrameReused { gpa, pfn }),
            // Another vCPU faulted here as well and was first: its page will do.
            Err(MapError::Occupied(_)) => {
                self.tally.lost += 1;
                self.keep(pfn, size);
                Resolved::Present
            }
            Err(MapError::WrongSize { granule, .. }) => {
                self.keep(pfn, size);
                return Ok(Placed::RoomFor(granule));
            }
            Err(MapError::NotPopulated { .. }) => {
                self.tally.away += 1;
                self.keep(pfn, size);
                Resolved::Absent
            }
            Err(MapError::Vacated { accessed, dirty, .. }) => {
                self.tally.late += 1;
                let (gpa, attr) = (leaf.start(), machine.attr);
                self.give_up(Mapping { gpa, pfn, size, attr, accessed, dirty })?;
                Resolved::Absent
            }
            Err(other) => return Err(other.into()),
        };
        Ok(Placed::Resolved(resolved))
    }

    /// Keeps frames that were not used for the next fault.
    fn keep(&mut self, pfn: HostPfn, size: PageSize) {
        if let Some((pfn, size)) = self.spare.replace((pfn, size)) {
            self.vcpu.machine.memory.free(pfn, size);
        }
    }

    /// Gives back the frames of a leaf that was mapped for a moment, in a region that was going: some vCPU
    /// may have found it there.
    fn give_up(&mut self, leaf: Mapping) -> Result<(), Broken> {
        let Vcpu { machine, stage, flushing, .. } = self.vcpu;
        let site = Site { machine, stage, flushing };
        site.serve(machine.table.flush_all(), &[leaf])?;
        let life = machine.memory.give_back(leaf);
        self.lives.push(life.expect("the frames were this vCPU's"));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
