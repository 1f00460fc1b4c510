//! The software processor: the library's MMU with a TLB of its own, and this thread for the rest.

use std::{collections::HashMap, thread};

use slat::{
    AnyFormat, Arena, Gpa, HostPfn, Inside, PAGE_BYTES, Prot, ThreadSeat, Tracking, Vcpu,
    mmu::{Access, Fault, Mmu, TranslationCache},
};

use crate::{
    batch::Batch,
    frame::Word,
    machine::Machine,
    manager::Flushing,
    outcome::Broken,
    processor::{Exit, Processor},
    stage::Stage,
    workload::{Act, needs},
};

/// A vCPU that is interpreted.
pub(crate) struct SoftCpu<'m> {
    machine: &'m Machine<'m>,
    vcpu: Vcpu<AnyFormat, Arena>,
    stage: &'m Stage,
    /// Where its thread is kicked.
    seat: ThreadSeat<'m>,
    tlb: Tlb,
}

/// What a processor has cached of the table.
pub(crate) enum Tlb {
    Served(TranslationCache),
    Skipped(Stubborn),
}

/// A TLB for a processor that never invalidates: the library's own begins anew where it was not refreshed.
/// By the page, with what may be done there.
#[derive(Default)]
pub(crate) struct Stubborn(HashMap<u64, (HostPfn, Prot)>);

impl<'m> SoftCpu<'m> {
    pub(crate) fn new(machine: &'m Machine<'m>, stage: &'m Stage) -> Self {
        let vcpu = machine.space.vcpu();
        let seat = machine.kicks.sit(vcpu.id());
        Self { machine, vcpu, stage, seat, tlb: Tlb::new(machine.flushing) }
    }
}

impl Tlb {
    /// Makes an empty one, for a processor that invalidates what is due or does not.
    pub(crate) fn new(flushing: Flushing) -> Self {
        match flushing {
            Flushing::Served => Self::Served(TranslationCache::default()),
            Flushing::Skipped => Self::Skipped(Stubborn::default()),
        }
    }

    /// Invalidates what is due, if it ever does.
    pub(crate) fn refresh(&mut self, inside: &Inside<'_, AnyFormat, Arena>) {
        if let Self::Served(cache) = self {
            inside.refresh(cache);
        }
    }

    pub(crate) fn translate(
        &mut self,
        mmu: Mmu<'_, Arena>,
        gpa: Gpa,
        access: Access,
    ) -> Result<HostPfn, Fault> {
        match self {
            Self::Served(cache) => mmu.translate_cached(cache, gpa, access).map(|found| found.pfn),
            Self::Skipped(stubborn) => stubborn.translate(mmu, gpa, access),
        }
    }
}

impl Stubborn {
    fn translate(
        &mut self,
        mmu: Mmu<'_, Arena>,
        gpa: Gpa,
        access: Access,
    ) -> Result<HostPfn, Fault> {
        let (page, needs) = (gpa.get() / PAGE_BYTES, needs(access));
        if let Some(&(pfn, _)) = self.0.get(&page).filter(|(_, known)| known.contains(needs)) {
            return Ok(pfn);
        }
        let found = mmu.translate(gpa, access)?;
        // It may write without a walk when a walk for a write has set the dirty bit, not before.
        self.0.insert(page, (found.pfn, found.prot.difference(Prot::W) | needs));
        Ok(found.pfn)
    }
}

impl Processor for SoftCpu<'_> {
    fn vcpu(&self) -> &Vcpu<AnyFormat, Arena> {
        &self.vcpu
    }

    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken> {
        let Self { machine, vcpu, stage, seat, tlb } = self;
        let inside = vcpu.enter(Tracking::On);
        tlb.refresh(&inside);
        let mmu = inside.mmu();
        while let Some(op) = batch.next() {
            if seat.is_kicked() {
                drop(inside);
                seat.clear();
                return Ok(Exit::Kicked);
            }
            let Some(access) = op.act.access() else {
                // The host runs something else meanwhile; the guest stays where it is.
                stage.places[machine.layout.region_of(op.page)].pause();
                thread::yield_now();
                batch.found(Word::FREE);
                continue;
            };
            let gpa = machine.gpa(op.page, op.word);
            let pfn = match tlb.translate(mmu, gpa, access) {
                Ok(pfn) => pfn,
                Err(fault) => return Ok(Exit::Fault(fault)),
            };
            let frame = machine.memory.frame(pfn).ok_or(Broken::Stray { gpa, pfn })?;
            batch.found(match op.act {
                Act::Add(amount) => frame.add(op.word, amount),
                _ => frame.load(op.word),
            });
        }
        Ok(Exit::Done)
    }
}
