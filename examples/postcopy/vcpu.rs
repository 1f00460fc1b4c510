//! A vCPU of the destination: runs the guest, and resolves its page faults.
//!
//! The fault handler is one call. [`Vcpu::fault`] finds the region, asks its backing for the page, and maps it;
//! where the page has not come yet, the backing asks for it, and the call waits. Where another vCPU waits for the
//! same page it returns at once, [to be tried again](Fault::Retry): a hypervisor may run something else then. This
//! one has nothing else to run, and waits as well.

use std::{
    error::Error,
    iter,
    time::{Duration, Instant},
};

use serde::Serialize;
use slat::{
    Arena, Ept, Fault, FaultError, Gpa, HostPfn, PAGE_BYTES, Supplier, Tracking, Vcpu,
    mmu::TranslationCache,
};

use crate::{
    content::Content,
    memory::Memory,
    plan::{Act, Op, Plan},
};

/// Where guest memory begins.
pub(crate) const START: Gpa = Gpa::new(4 << 30);
/// A word that the vCPU does not own may have been written so often.
const MOST_WRITES: u64 = u16::MAX as u64;
/// Words that were read wrong, beyond so many, are counted and not remembered.
const REMEMBERED: usize = 5;

/// Something after which a vCPU cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("page {page}, at {gpa}, cannot be had: {}", chain(.source))]
    Fault { page: u64, gpa: Gpa, source: FaultError },
    #[error("page {page}, at {gpa}, faults again, though its fault was resolved")]
    FaultAgain { page: u64, gpa: Gpa },
    #[error("page {page}, at {gpa}, is in frame {pfn}, which is not the guest's")]
    Stray { page: u64, gpa: Gpa, pfn: HostPfn },
}

/// Returns what an error says, and all that it was caused by.
fn chain(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    let mut said = causes.map(ToString::to_string).collect::<Vec<_>>();
    said.dedup();
    said.join(": ")
}

/// A word that was not what it had to be when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page}: word {word} was {found:#x} when it was read, not {expected:#x}")]
pub(crate) struct Misread {
    pub(crate) page: u64,
    pub(crate) word: usize,
    pub(crate) found: u64,
    pub(crate) expected: u64,
}

/// What a vCPU counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) accesses: u64,
    /// Those of them that were writes.
    pub(crate) writes: u64,
    pub(crate) faults: u64,
    /// Faults at pages that had not come.
    pub(crate) waited: u64,
    /// Those of them for which another vCPU was waiting already.
    pub(crate) retries: u64,
    pub(crate) misreads: u64,
}

impl Tally {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            accesses: self.accesses + other.accesses,
            writes: self.writes + other.writes,
            faults: self.faults + other.faults,
            waited: self.waited + other.waited,
            retries: self.retries + other.retries,
            misreads: self.misreads + other.misreads,
        }
    }
}

/// What became of a vCPU.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// How long each fault took whose page had not come.
    pub(crate) waits: Vec<Duration>,
    /// When its first access was done, and when all were.
    pub(crate) first: Option<Duration>,
    pub(crate) done: Duration,
    /// How often it has written its word of each page.
    pub(crate) writes: Vec<u16>,
    pub(crate) misreads: Vec<Misread>,
    pub(crate) broken: Option<Broken>,
}

/// One virtual processor, and what it is to do.
pub(crate) struct Guest<'g> {
    pub(crate) number: usize,
    pub(crate) vcpus: usize,
    pub(crate) content: Content,
    pub(crate) plan: Plan,
    pub(crate) memory: &'g Memory,
    /// Asked only whether a page has come.
    pub(crate) supplier: &'g Supplier,
    pub(crate) begun: Instant,
}

impl Guest<'_> {
    /// Runs until all is done, or it is broken.
    pub(crate) fn run(mut self, mut vcpu: Vcpu<Ept, Arena>) -> Outcome {
        let writes = vec![0; self.supplier.pages() as usize];
        let mut outcome = Outcome { writes, ..Outcome::default() };
        outcome.broken = self.execute(&mut vcpu, &mut outcome).err();
        outcome.done = self.begun.elapsed();
        outcome
    }

    fn execute(
        &mut self,
        vcpu: &mut Vcpu<Ept, Arena>,
        outcome: &mut Outcome,
    ) -> Result<(), Broken> {
        let mut tlb = TranslationCache::default();
        // How many accesses had been made when a fault was resolved last.
        let mut resolved = None;
        while let Some(op) = self.stay(vcpu, &mut tlb, outcome)? {
            if resolved.replace(outcome.tally.accesses) == resolved {
                return Err(Broken::FaultAgain { page: op.page, gpa: gpa(op) });
            }
            self.resolve(vcpu, op, outcome)?;
        }
        Ok(())
    }

    /// Stays in the guest until something faults; returns what, or `None` if all is done.
    fn stay(
        &mut self,
        vcpu: &mut Vcpu<Ept, Arena>,
        tlb: &mut TranslationCache,
        outcome: &mut Outcome,
    ) -> Result<Option<Op>, Broken> {
        let inside = vcpu.enter(Tracking::On);
        inside.refresh(tlb);
        let mmu = inside.mmu();
        while let Some(op) = self.plan.next() {
            let Ok(translation) = mmu.translate_cached(tlb, gpa(op), op.act.access()) else {
                return Ok(Some(op));
            };
            self.access(op, translation.pfn, outcome)?;
            self.plan.advance();
        }
        Ok(None)
    }

    /// Makes an access to a page that is there.
    fn access(&self, op: Op, pfn: HostPfn, outcome: &mut Outcome) -> Result<(), Broken> {
        let stray = || Broken::Stray { page: op.page, gpa: gpa(op), pfn };
        let frame = self.memory.frame(pfn).ok_or_else(stray)?;
        let found = match op.act {
            Act::Read => frame.load(op.word),
            Act::Increment => frame.increment(op.word),
        };
        if let Some(misread) = self.judge(op, found, outcome) {
            outcome.tally.misreads += 1;
            if outcome.misreads.len() < REMEMBERED {
                outcome.misreads.push(misread);
            }
        }
        if op.act == Act::Increment {
            outcome.tally.writes += 1;
            outcome.writes[op.page as usize] += 1;
        }
        outcome.tally.accesses += 1;
        outcome.first.get_or_insert_with(|| self.begun.elapsed());
        Ok(())
    }

    /// Tells whether a word was wrong. Its own words are known exactly, and such as nobody writes; another's have
    /// been written a number of times.
    fn judge(&self, op: Op, found: u64, outcome: &Outcome) -> Option<Misread> {
        let Op { page, word, .. } = op;
        let sent = self.content.word(page, word);
        let owner = self.content.owner(page, word);
        let writes = match owner {
            owner if owner == self.number => outcome.writes[page as usize].into(),
            owner if owner < self.vcpus => found.wrapping_sub(sent).min(MOST_WRITES),
            _ => 0,
        };
        let expected = sent.wrapping_add(writes);
        (found != expected).then_some(Misread { page, word, found, expected })
    }

    /// Handles a fault.
    fn resolve(
        &self,
        vcpu: &Vcpu<Ept, Arena>,
        op: Op,
        outcome: &mut Outcome,
    ) -> Result<(), Broken> {
        let (gpa, needs) = (gpa(op), op.act.needs());
        let has_come = self.supplier.is_supplied(op.page);
        let begun = Instant::now();
        outcome.tally.faults += 1;
        let resolved = match vcpu.fault(gpa, needs) {
            Ok(Fault::Resolved) => Ok(()),
            Ok(Fault::Retry) => {
                outcome.tally.retries += 1;
                vcpu.fault_and_wait(gpa, needs)
            }
            Err(error) => Err(error),
        };
        resolved.map_err(|source| Broken::Fault { page: op.page, gpa, source })?;
        if !has_come {
            outcome.tally.waited += 1;
            outcome.waits.push(begun.elapsed());
        }
        Ok(())
    }
}

/// Returns the address of an access.
fn gpa(op: Op) -> Gpa {
    Gpa::new(START.get() + op.page * PAGE_BYTES + 8 * op.word as u64)
}

#[cfg(test)]
mod tests {
    use slat::BackingError;

    use super::*;

    #[test]
    fn an_error_says_what_it_was_caused_by() {
        let source = BackingError::new("page 7 was lost");
        let source = FaultError::Backing { gpa: START, source };
        let broken = Broken::Fault { page: 7, gpa: START, source };
        let text = broken.to_string();
        assert!(text.starts_with("page 7, at "), "{text}");
        assert!(text.ends_with(": page 7 was lost"), "{text}");
    }
}
