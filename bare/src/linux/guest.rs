//! A guest that runs, on one processor or several: what each of them does when it comes out.

use slat::{Gpa, Prot, Tracking, mmu::Fault};
use spin::{Once, mutex::SpinMutex};

use super::{
    answers::{self, Done},
    clock::{self, Clock},
    copy::Copy,
    kicks::{self, Kicks},
    memory::Hands,
    report::Exits,
    vcpu::{Exception, Exit, Processor, Stop},
};
use crate::machine::console::say;

/// Of a nested fault's error code: it was a write, or a fetch (15.25.6).
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;
/// From one round of copying to the next.
const ROUND_MILLISECONDS: u64 = 250;

/// How the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    PoweredOff,
    Shutdown,
    /// By something that is not known here.
    Stopped(Exit),
}

/// What all of its processors share.
pub(super) struct Guest {
    pub(super) kicks: Kicks,
    pub(super) clock: Clock,
    /// How it ended, and where.
    pub(super) ended: Once<(Ended, u64)>,
    /// The first processor's, if there is one.
    pub(super) copy: SpinMutex<Option<Copy>>,
}

/// One of them.
pub(super) struct Running<'g> {
    guest: &'g Guest,
    processor: Processor,
    hands: Hands,
    pub(super) exits: Exits,
    /// It makes a copy, and when it last did.
    copies: Option<u64>,
}

impl<'g> Running<'g> {
    /// Makes one of this processor.
    pub(super) fn new(guest: &'g Guest, processor: Processor, hands: Hands) -> Self {
        guest.kicks.add(hands.id());
        Self { guest, processor, hands, exits: Exits::default(), copies: None }
    }

    /// Has this one do the rounds of the copy.
    pub(super) fn do_rounds(&mut self) {
        self.copies = Some(clock::now());
        self.processor.stop_at(Stop::Interrupt);
    }

    /// Runs the guest until it has ended, here or elsewhere.
    pub(super) fn run(&mut self) {
        loop {
            kicks::hold_back();
            if self.guest.ended.is_completed() {
                return kicks::take();
            }
            let inside = self.hands.enter(Tracking::On);
            let exit = self.processor.run(inside.root_pointer(), inside.due());
            drop(inside);
            if let Some(ended) = self.handle(exit) {
                self.guest.ended.call_once(|| (ended, self.processor.rip()));
                self.guest.kicks.kick_others();
            }
        }
    }

    /// Does what the guest came out for; tells how it ended, if it did.
    fn handle(&mut self, exit: Exit) -> Option<Ended> {
        let Self { processor, exits, .. } = self;
        exits.count(&exit);
        match exit {
            Exit::Fault(Fault::NestedPageFault { gpa, exitinfo1 }) => {
                let is_resolved = self.resolve(gpa, exitinfo1);
                return (!is_resolved).then_some(Ended::Stopped(exit));
            }
            Exit::Cpuid => answers::cpuid(processor),
            Exit::ReadMsr => answers::read_msr(processor),
            Exit::WriteMsr => answers::write_msr(processor),
            Exit::Port(access) => match answers::port(processor, &access) {
                Done::Passed => {}
                Done::PoweredOff => return Some(Ended::PoweredOff),
                Done::Unknown => return Some(Ended::Stopped(exit)),
            },
            Exit::Undefined => processor.throw(Exception::InvalidOpcode),
            Exit::Interrupt => self.tick(),
            Exit::Return => processor.stop_at(Stop::Interrupt),
            Exit::Kick => {}
            Exit::Shutdown => return Some(Ended::Shutdown),
            Exit::Fault(_) | Exit::Other { .. } => return Some(Ended::Stopped(exit)),
        }
        None
    }

    /// Lets the guest take the interrupt that waits, and stops it again when it returns from that. It is the guest's
    /// clock as a rule, and so ours.
    fn tick(&mut self) {
        self.processor.stop_at(Stop::Return);
        let Some(last) = self.copies else { return };
        if self.guest.clock.milliseconds(clock::now() - last) >= ROUND_MILLISECONDS {
            if let Some(copy) = self.guest.copy.lock().as_mut() {
                copy.round();
            }
            self.copies = Some(clock::now());
        }
    }

    /// Makes the page resident that the guest could not reach; tells whether it can.
    fn resolve(&mut self, gpa: Gpa, exitinfo1: u64) -> bool {
        let access = if exitinfo1 & WRITE != 0 {
            Prot::W
        } else if exitinfo1 & FETCH != 0 {
            Prot::X
        } else {
            Prot::R
        };
        let start = clock::now();
        // It says whether it has to be tried again: the guest will, anyway.
        let resolved = self.hands.fault(gpa, access);
        self.exits.in_faults += clock::now() - start;
        if let Err(error) = &resolved {
            say!("{gpa}, {access}: {error}");
        }
        resolved.is_ok()
    }
}
