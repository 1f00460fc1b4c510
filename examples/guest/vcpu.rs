//! A vCPU: a software MMU, the fault handler behind it, and a log of what it did.
//!
//! This is the part of a hypervisor that the library is for. An access goes through the MMU; where
//! nothing is mapped the MMU faults, the handler maps a frame, and the access is tried again. All of
//! it runs on the vCPU's own thread, and no thread ever waits for another.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use slat::{
    AnyFormat, Arena, Gpa, HostPfn, Inside, MapError, Mapped, PageSize, Reader,
    mmu::{Access, Cause, Fault, TranslationCache},
};

use crate::{
    machine::Machine,
    memory::{Page, WORDS},
};

/// In how many pieces the progress bar moves: all vCPUs share it, and must not meet there often.
const PROGRESS_PIECES: u64 = 256;

/// What a vCPU did to one page: what its entry and its contents must show in the end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) accessed: bool,
    pub(crate) written: bool,
    /// The sum of what it added to the page's words.
    pub(crate) sum: u64,
}

/// What a vCPU counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) accesses: u64,
    pub(crate) faults: u64,
    /// Faults for which this vCPU mapped a frame.
    pub(crate) mapped: u64,
    /// Faults for which another vCPU was first.
    pub(crate) lost: u64,
}

impl Tally {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            accesses: self.accesses + other.accesses,
            faults: self.faults + other.faults,
            mapped: self.mapped + other.mapped,
            lost: self.lost + other.lost,
        }
    }
}

/// Something that must not happen to a vCPU; it stops there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no frame is left for {gpa}")]
    OutOfFrames { gpa: Gpa },
    #[error("{0} is not a fault that mapping a page resolves")]
    Fault(Fault),
    #[error("{0}, though the page was mapped before")]
    FaultAgain(Fault),
    #[error("frame {pfn} was handed out twice: {gpa} is mapped to it already")]
    FrameReused { gpa: Gpa, pfn: HostPfn },
    #[error("mapping a page failed: {0}")]
    Map(#[from] MapError),
    #[error("{gpa} translates to frame {pfn}, which is not the guest's")]
    Stray { gpa: Gpa, pfn: HostPfn },
    #[error("read {found:#x} at {gpa}, expected {expected:#x}")]
    Value { gpa: Gpa, expected: u64, found: u64 },
}

/// One virtual processor.
pub(crate) struct Vcpu<'m> {
    pub(crate) number: usize,
    /// How many vCPUs there are.
    pub(crate) count: usize,
    /// What it did to each page of the layout.
    pub(crate) deeds: Vec<Deeds>,
    pub(crate) tally: Tally,
    /// The frame that a lost race left over; the next fault takes it.
    pub(crate) spare: Option<HostPfn>,
    machine: &'m Machine<'m>,
    reader: Reader<AnyFormat, Arena>,
    inside: Inside<'m, AnyFormat, Arena>,
    tlb: TranslationCache,
    begun: Instant,
    progress: &'m ProgressBar,
    /// Steps by which the progress bar moves, and those that it does not show yet.
    piece: u64,
    unshown: u64,
}

impl<'m> Vcpu<'m> {
    pub(crate) fn new(
        machine: &'m Machine<'m>,
        inside: Inside<'m, AnyFormat, Arena>,
        number: usize,
        count: usize,
        begun: Instant,
        progress: &'m ProgressBar,
    ) -> Self {
        Self {
            number,
            count,
            deeds: vec![Deeds::default(); machine.layout.len()],
            tally: Tally::default(),
            spare: None,
            machine,
            reader: machine.table.reader(),
            inside,
            tlb: TranslationCache::default(),
            begun,
            progress,
            piece: progress.length().unwrap_or(0) / PROGRESS_PIECES,
            unshown: 0,
        }
    }

    /// Reads a word, which must be `value`.
    pub(crate) fn expect(&mut self, page: usize, word: usize, value: u64) -> Result<(), Broken> {
        let found = self.reach(page, word, Access::READ)?.load(word);
        if found == value {
            return Ok(());
        }
        let gpa = self.machine.layout.gpa(page);
        Err(Broken::Value { gpa, expected: value, found })
    }

    /// Reads a word, whatever it holds.
    pub(crate) fn load(&mut self, page: usize, word: usize) -> Result<(), Broken> {
        self.reach(page, word, Access::READ)?.load(word);
        Ok(())
    }

    /// Fetches an instruction.
    pub(crate) fn fetch(&mut self, page: usize, word: usize) -> Result<(), Broken> {
        self.reach(page, word, Access::FETCH)?.load(word);
        Ok(())
    }

    /// Adds to a word.
    pub(crate) fn add(&mut self, page: usize, word: usize, amount: u64) -> Result<(), Broken> {
        self.reach(page, word, Access::WRITE)?.add(word, amount);
        let deeds = &mut self.deeds[page];
        deeds.written = true;
        deeds.sum = deeds.sum.wrapping_add(amount);
        Ok(())
    }

    /// Returns the sum of what this vCPU added to a page.
    pub(crate) fn sum(&self, page: usize) -> u64 {
        self.deeds[page].sum
    }

    /// Translates a guest address, resolves the fault if there is one, and translates again.
    fn reach(&mut self, page: usize, word: usize, access: Access) -> Result<&'m Page, Broken> {
        debug_assert!(word < WORDS);
        let gpa = Gpa::new(self.machine.layout.gpa(page).get() + 8 * word as u64);
        self.tally.accesses += 1;
        let translation = match self.inside.mmu().translate_cached(&mut self.tlb, gpa, access) {
            Ok(translation) => translation,
            Err(fault) => {
                self.resolve(fault)?;
                self.catch_up();
                let again = self.inside.mmu().translate_cached(&mut self.tlb, gpa, access);
                again.map_err(Broken::FaultAgain)?
            }
        };
        self.deeds[page].accessed = true;
        let pfn = translation.pfn;
        self.machine.memory.page(pfn).ok_or(Broken::Stray { gpa, pfn })
    }

    /// Handles a fault as a hypervisor does after a VM exit: maps a zeroed frame where none is.
    fn resolve(&mut self, fault: Fault) -> Result<(), Broken> {
        self.tally.faults += 1;
        if fault.cause() != Cause::NotPresent {
            return Err(Broken::Fault(fault));
        }
        let gpa = fault.gpa();
        let spare = self.spare.take().or_else(|| self.machine.memory.allocate());
        let pfn = spare.ok_or(Broken::OutOfFrames { gpa })?;
        match self.reader.pin().map(gpa, pfn, PageSize::Size4K, self.machine.attr) {
            Ok(Mapped::New) => self.tally.mapped += 1,
            Ok(Mapped::Same) => return Err(Broken::FrameReused { gpa, pfn }),
            // Another vCPU faulted here as well and was first: its page will do.
            Err(MapError::Occupied(_)) => {
                self.tally.lost += 1;
                self.spare = Some(pfn);
            }
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }

    /// Invalidates what the others have unmapped since the last fault: a software MMU need not leave the
    /// guest for that.
    fn catch_up(&mut self) {
        self.inside.acknowledge(|_| ());
        self.inside.refresh(&mut self.tlb);
    }

    /// Returns the time since the vCPUs were let go.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Notes progress of `steps`.
    pub(crate) fn advance(&mut self, steps: u64) {
        self.unshown += steps;
        if self.unshown > self.piece {
            self.progress.inc(self.unshown);
            self.unshown = 0;
        }
    }
}
