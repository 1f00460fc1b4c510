//! A vCPU: enters the guest, runs it on a software MMU until something makes it come out, and handles
//! that.
//!
//! This is the part of a hypervisor that the library is for. An entry goes through the vCPU's observer,
//! which says what its translation cache has to forget. Where nothing is mapped the MMU faults, and the
//! vCPU comes out; the handler maps a frame, and the access is tried again. All of it runs on the vCPU's
//! own thread, and no fault waits for another.

use std::{thread, time::Instant};

use slat::{
    AnyFormat, Arena, HostPfn, MapError, Mapped, Observer, PageSize, Reader, ThreadSeat, Tracking,
    mmu::{Cause, Fault, TranslationCache},
};

use crate::{
    deeds::{Bits, Life, Log},
    machine::Machine,
    manager::Flushing,
    memory::{Frame, Stamp, Stay},
    outcome::{Broken, Outcome, Stale, Tally},
    progress::Ticker,
    stage::Stage,
    workload::{Act, Op, Share},
};

/// Accesses after which a vCPU comes out for no other reason, as for a timer tick.
const SLICE: u32 = 4096;

/// One virtual processor.
pub(crate) struct Vcpu<'m> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) stage: &'m Stage,
    pub(crate) flushing: Flushing,
    pub(crate) observer: Observer<AnyFormat, Arena>,
    pub(crate) ticker: Ticker<'m>,
    pub(crate) begun: Instant,
}

/// Why a vCPU came out of the guest.
enum Exit {
    Fault(Fault),
    Kicked,
    Slice,
    /// The guest has nothing more to do.
    Halt,
}

/// What a fault handler found.
enum Resolved {
    /// There is a page: try again.
    Present,
    /// There is no memory: the access is in vain.
    Absent,
}

/// A vCPU at work.
struct Running<'m> {
    vcpu: Vcpu<'m>,
    /// Where its thread is kicked.
    seat: ThreadSeat<'m>,
    reader: Reader<AnyFormat, Arena>,
    tlb: TranslationCache,
    tally: Tally,
    stale: Option<Stale>,
    log: Log,
    lives: Vec<Life>,
    /// The frame that a lost race left over; the next fault takes it.
    spare: Option<HostPfn>,
}

impl<'m> Vcpu<'m> {
    /// Runs its share of the work to the end.
    pub(crate) fn run(self, share: &mut dyn Share) -> Outcome {
        let machine = self.machine;
        let mut running = Running {
            seat: self.stage.kicks.sit(self.observer.id()),
            reader: machine.table.reader(),
            tlb: TranslationCache::default(),
            tally: Tally::default(),
            stale: None,
            log: Log::new(machine.layout.len()),
            lives: Vec::new(),
            spare: None,
            vcpu: self,
        };
        let broken = running.execute(share).err();
        let Running { vcpu, tally, stale, log, lives, spare, .. } = running;
        if let Some(pfn) = spare {
            machine.memory.free(pfn);
        }
        Outcome { tally, stale, log, lives, elapsed: vcpu.begun.elapsed(), broken }
    }
}

impl<'m> Running<'m> {
    fn execute(&mut self, share: &mut dyn Share) -> Result<(), Broken> {
        let mut next = share.next();
        // How many accesses had been made when a fault was resolved last.
        let mut resolved = None;
        loop {
            let before = self.tally.accesses;
            let exit = self.stay(share, &mut next)?;
            self.vcpu.ticker.advance(self.tally.accesses - before);
            match (exit, next) {
                (Exit::Fault(fault), Some(op)) => {
                    let again = resolved.replace(self.tally.accesses) == resolved;
                    if again && self.vcpu.machine.is_fixed {
                        return Err(Broken::FaultAgain(fault));
                    }
                    if let Resolved::Absent = self.resolve(op.page, fault)? {
                        share.absent();
                        next = share.next();
                    }
                }
                (Exit::Kicked, _) => self.seat.clear(),
                (Exit::Slice, _) => {}
                (Exit::Halt | Exit::Fault(_), _) => return Ok(()),
            }
        }
    }

    /// Enters the guest and stays until there is a reason to come out. `next` is the access to begin
    /// with, and then the one to go on with.
    fn stay(&mut self, share: &mut dyn Share, next: &mut Option<Op>) -> Result<Exit, Broken> {
        let Self { vcpu, seat, tlb, tally, stale, log, .. } = self;
        let Vcpu { machine, observer, .. } = vcpu;
        tally.entries += 1;
        let inside = observer.enter(Tracking::On);
        inside.refresh(tlb);
        let mmu = inside.mmu();
        for _ in 0..SLICE {
            let Some(op) = *next else {
                return Ok(Exit::Halt);
            };
            if seat.is_kicked() {
                return Ok(Exit::Kicked);
            }
            let Some(access) = op.act.access() else {
                // The host runs something else meanwhile; the guest stays where it is.
                thread::yield_now();
                *next = share.next();
                continue;
            };
            let gpa = machine.gpa(op.page, op.word);
            let translation = match mmu.translate_cached(tlb, gpa, access) {
                Ok(translation) => translation,
                Err(fault) => return Ok(Exit::Fault(fault)),
            };
            let pfn = translation.pfn;
            let frame = machine.memory.frame(pfn).ok_or(Broken::Stray { gpa, pfn })?;
            tally.accesses += 1;
            match perform(op, pfn, frame, log) {
                Done::Well => {}
                Done::Stale(found) => {
                    let tenant = found.page.map(|page| machine.gpa(page, 0));
                    stale.get_or_insert(Stale { gpa, pfn, tenant });
                    tally.stale += 1;
                }
                Done::Wrong { expected, found } => {
                    return Err(Broken::Value { gpa, expected, found });
                }
            }
            *next = share.next();
        }
        Ok(Exit::Slice)
    }

    /// Handles a fault as a hypervisor does after a VM exit: maps a zeroed frame where none is.
    fn resolve(&mut self, page: usize, fault: Fault) -> Result<Resolved, Broken> {
        let Vcpu { machine, stage, .. } = self.vcpu;
        self.tally.faults += 1;
        if fault.cause() != Cause::NotPresent {
            return Err(Broken::Fault(fault));
        }
        let gpa = fault.gpa();
        if stage.places[machine.layout.region_of(page)].is_leaving() {
            self.tally.away += 1;
            return Ok(Resolved::Absent);
        }
        let spare = self.spare.take().or_else(|| machine.memory.allocate());
        let pfn = spare.ok_or(Broken::OutOfFrames { gpa })?;
        machine.memory.assign(pfn, page);
        match self.reader.pin().map(gpa, pfn, PageSize::Size4K, machine.attr) {
            Ok(Mapped::New) => self.tally.mapped += 1,
            Ok(Mapped::Same) => return Err(Broken::FrameReused { gpa, pfn }),
            // Another vCPU faulted here as well and was first: its page will do.
            Err(MapError::Occupied(_)) => {
                self.tally.lost += 1;
                self.spare = Some(pfn);
            }
            Err(MapError::NotPopulated { .. }) => {
                self.tally.away += 1;
                self.spare = Some(pfn);
                return Ok(Resolved::Absent);
            }
            Err(MapError::Vacated { accessed, dirty, .. }) => {
                self.tally.late += 1;
                self.give_up(page, pfn, Bits { accessed, dirty })?;
                return Ok(Resolved::Absent);
            }
            Err(other) => return Err(other.into()),
        }
        Ok(Resolved::Present)
    }

    /// Gives back a frame that was mapped for a moment, in a region that was going: some vCPU may have
    /// found it there.
    fn give_up(&mut self, page: usize, pfn: HostPfn, bits: Bits) -> Result<(), Broken> {
        let Vcpu { machine, stage, flushing, .. } = self.vcpu;
        flushing.serve(machine.table.flush_all(), &stage.kicks)?;
        let life = machine.memory.give_back(page, pfn, bits);
        self.lives.push(life.expect("the frame was this vCPU's"));
        Ok(())
    }
}

/// What came of an access.
enum Done {
    Well,
    /// The frame was another's, before or after: as this stamp says.
    Stale(Stamp),
    /// It read another value than it must.
    Wrong {
        expected: u64,
        found: u64,
    },
}

/// Does an access, to the frame that the MMU led it to. If the frame is another's, only that is noted:
/// the contents tell no less for being left alone.
fn perform(op: Op, pfn: HostPfn, frame: &Frame, log: &mut Log) -> Done {
    let Op { page, word, act } = op;
    let stamp = frame.stamp();
    if stamp.page != Some(page) {
        return Done::Stale(stamp);
    }
    let Stamp { term, .. } = stamp;
    let deeds = log.at(page, Stay { pfn, term });
    let (expected, found) = match act {
        Act::Pause => return Done::Well,
        Act::Fetch | Act::Load => {
            let found = frame.load(word);
            (found, found)
        }
        Act::Expect(value) => (value, frame.load(word)),
        Act::Recall => (deeds.sum, frame.load(word)),
        Act::Add(amount) => {
            frame.add(word, amount);
            deeds.written = true;
            deeds.sum = deeds.sum.wrapping_add(amount);
            (0, 0)
        }
    };
    match frame.stamp() {
        after if after != stamp => Done::Stale(after),
        _ if found == expected => Done::Well,
        _ => Done::Wrong { expected, found },
    }
}
