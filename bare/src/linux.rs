//! A thin hypervisor: Linux as a guest, to which the machine's devices are passed through, and whose memory comes page
//! by page, as it asks for it.

mod answers;
mod clock;
mod copy;
mod loader;
mod memory;
mod multiboot;
mod options;
mod pool;
mod report;
mod vcpu;

use alloc::vec::Vec;

use slat::{Prot, Tracking, mmu::Fault};

use self::{
    answers::Done,
    clock::Clock,
    copy::Copy,
    memory::{Hands, Made},
    multiboot::Module,
    options::{Copying, Options},
    report::{Exits, Times},
    vcpu::{Exception, Exit, Processor, Stop},
};
use crate::{
    machine::console::say,
    virt::{Virt, svm::Svm},
};

/// Of a nested fault's error code: it was a write, or a fetch (15.25.6).
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;
/// From one round of copying to the next.
const ROUND_MILLISECONDS: u64 = 250;

/// How the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    PoweredOff,
    Shutdown,
    /// By something that is not known here.
    Stopped(Exit),
}

/// A guest that runs.
struct Guest {
    processor: Processor,
    hands: Hands,
    copy: Option<Copy>,
    exits: Exits,
    times: Times,
    clock: Clock,
    last_round: u64,
}

/// Tells whether the loader has brought anything to boot.
pub(crate) fn is_there() -> bool {
    multiboot::modules().next().is_some()
}

/// Boots a kernel, the first module, with a file system, the second one. Tells whether it turned the machine off, and
/// a copy, if one was made, is what memory is.
///
/// # Safety
/// Nobody else uses memory from that of the guest on.
pub(crate) unsafe fn boot(svm: Svm) -> bool {
    let modules: Vec<Module> = multiboot::modules().collect();
    let [kernel, files] = modules.as_slice() else {
        say!("{} modules: it takes a kernel and a file system", modules.len());
        return false;
    };
    let options = match Options::read() {
        Ok(options) => options,
        Err(word) => {
            say!("there is no option {word}");
            return false;
        }
    };
    say!("{options:?}");
    svm.enable();
    // SAFETY: the caller's promise.
    let Made { space, places, pool } = unsafe { memory::new(svm.format(), options.largest) };
    say!("{places:x?}");
    let mut hands = space.vcpu();
    let mut processor = Processor::new(svm, &answers::PORTS, &answers::MSRS);
    loader::load(&hands, &places, &mut processor, kernel, files);
    say!("loaded: {} pages; {:?}", space.resident(), kernel.words);
    hands.set_fault_around(options.around).expect("it is a power of two up to 512");
    let copy = (options.copying != Copying::Off)
        .then(|| Copy::begin(&space, &places, pool, options.copying));
    let mut guest = Guest::new(processor, hands, copy);
    let ended = guest.run();
    say!("{ended:x?} at {:#x}", guest.processor.rip());
    let is_same = guest.copy.as_mut().is_none_or(|copy| copy.compare().different == 0);
    report::memory(&space, &places);
    report::work(&space, guest.hands.stats(), &guest.exits, guest.clock, guest.times);
    ended == Ended::PoweredOff && is_same
}

impl Guest {
    fn new(processor: Processor, hands: Hands, copy: Option<Copy>) -> Self {
        let (exits, times) = (Exits::default(), Times::default());
        Self { processor, hands, copy, exits, times, clock: Clock::new(), last_round: 0 }
    }

    /// Runs it until it ends.
    fn run(&mut self) -> Ended {
        let start = clock::now();
        self.last_round = start;
        if self.copy.is_some() {
            self.processor.stop_at(Stop::Interrupt);
        }
        let ended = loop {
            let inside = self.hands.enter(Tracking::On);
            let exit = self.processor.run(inside.root_pointer(), inside.due());
            drop(inside);
            if let Some(ended) = self.handle(exit) {
                break ended;
            }
        };
        self.times.all = clock::now() - start;
        ended
    }

    /// Does what the guest came out for; tells how it ended, if it did.
    fn handle(&mut self, exit: Exit) -> Option<Ended> {
        let Self { processor, exits, .. } = self;
        match exit {
            Exit::Fault(fault) => {
                exits.faults += 1;
                return self
                    .resolve(fault)
                    .then_some(())
                    .map_or(Some(Ended::Stopped(exit)), |()| None);
            }
            Exit::Cpuid => {
                exits.cpuid += 1;
                answers::cpuid(processor);
            }
            Exit::ReadMsr => {
                exits.msrs += 1;
                answers::read_msr(processor);
            }
            Exit::WriteMsr => {
                exits.msrs += 1;
                answers::write_msr(processor);
            }
            Exit::Port(access) => {
                exits.ports += 1;
                match answers::port(processor, &access) {
                    Done::Passed => {}
                    Done::PoweredOff => return Some(Ended::PoweredOff),
                    Done::Unknown => return Some(Ended::Stopped(exit)),
                }
            }
            Exit::Undefined => {
                exits.undefined += 1;
                processor.throw(Exception::InvalidOpcode);
            }
            Exit::Interrupt => {
                exits.interrupts += 1;
                self.tick();
            }
            Exit::Return => {
                exits.returns += 1;
                processor.stop_at(Stop::Interrupt);
            }
            Exit::Shutdown => return Some(Ended::Shutdown),
            Exit::Other { .. } => return Some(Ended::Stopped(exit)),
        }
        None
    }

    /// Lets the guest take the interrupt that waits, and stops it again when it returns from that. It is the guest's
    /// clock as a rule, and so ours.
    fn tick(&mut self) {
        self.processor.stop_at(Stop::Return);
        let due = self.clock.milliseconds(clock::now() - self.last_round) >= ROUND_MILLISECONDS;
        if let Some(copy) = self.copy.as_mut().filter(|_| due) {
            copy.round();
            self.last_round = clock::now();
        }
    }

    /// Makes the page resident that the guest could not reach; tells whether it can.
    fn resolve(&mut self, fault: Fault) -> bool {
        let Fault::NestedPageFault { gpa, exitinfo1 } = fault else {
            unreachable!("SVM reports no other")
        };
        let access = if exitinfo1 & WRITE != 0 {
            Prot::W
        } else if exitinfo1 & FETCH != 0 {
            Prot::X
        } else {
            Prot::R
        };
        let start = clock::now();
        let resolved = self.hands.fault(gpa, access);
        self.times.faults += clock::now() - start;
        if let Err(error) = &resolved {
            say!("{fault}: {error}");
        }
        resolved.is_ok()
    }
}
