//! The software processor: the library's MMU with a TLB of its own, and this thread for the rest.

use std::thread;

use slat::{AnyFormat, Arena, Observer, ThreadSeat, Tracking, mmu::TranslationCache};

use crate::{
    batch::Batch,
    frame::Word,
    machine::Machine,
    outcome::Broken,
    processor::{Exit, Processor},
    stage::Stage,
    workload::Act,
};

/// A vCPU that is interpreted.
pub(crate) struct SoftCpu<'m> {
    machine: &'m Machine<'m>,
    observer: Observer<AnyFormat, Arena>,
    stage: &'m Stage,
    /// Where its thread is kicked.
    seat: ThreadSeat<'m>,
    tlb: TranslationCache,
}

impl<'m> SoftCpu<'m> {
    pub(crate) fn new(machine: &'m Machine<'m>, stage: &'m Stage) -> Self {
        let observer = machine.table.observer();
        let seat = stage.kicks.sit(observer.id());
        Self { machine, observer, stage, seat, tlb: TranslationCache::default() }
    }
}

impl Processor for SoftCpu<'_> {
    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken> {
        let Self { machine, observer, stage, seat, tlb } = self;
        let inside = observer.enter(Tracking::On);
        inside.refresh(tlb);
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
            let pfn = match mmu.translate_cached(tlb, gpa, access) {
                Ok(translation) => translation.pfn,
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
