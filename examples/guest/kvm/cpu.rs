//! A vCPU at work: it is given a batch of accesses, and runs until they are done or something comes
//! between.

use std::{fmt, sync::Arc};

use bitflags::bitflags;
use slat::{AnyFormat, Arena, Due, Generation, Gpa, ObserverId, mmu};

use super::{
    boot::{self, Frame},
    code::{self, PORT_DONE, PORT_EXCEPTION, PORT_FAULT, VECTORS},
    crash::{Cause, Crash, Registers},
    memory_map::{BATCH, OP_BYTES, Place},
    vcpu::{StayError, Stop, Vcpu},
    vm::{Vm, VmError},
};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads the word; it is the result.
    Load,
    /// Adds the argument to the word, atomically; what was there before is the result.
    Add,
    /// Calls the word, which begins with a RET (0xc3), and then reads it; it is the result.
    Fetch,
    /// Does not access memory, but takes a moment; the result is 0.
    Pause,
}

/// An operation of the worker's, as it stands in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawOp {
    word: u64,
    argument: u64,
}

impl RawOp {
    /// Makes one on the word of 8 bytes that holds `address`.
    pub(crate) const fn new(kind: Kind, address: Gpa, argument: u64) -> Self {
        let kind = match kind {
            Kind::Load => code::LOAD,
            Kind::Add => code::ADD,
            Kind::Fetch => code::FETCH,
            Kind::Pause => code::PAUSE,
        };
        Self { word: address.get() & !code::KINDS | kind, argument }
    }
}

bitflags! {
    /// The error code of a page fault (AMD APM vol. 2, 8.4.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct PageFaultCode: u32 {
        /// All entries on the way are present.
        const PRESENT = 1 << 0;
        /// It was a write.
        const WRITE = 1 << 1;
        /// It was the worker, not the kernel.
        const USER = 1 << 2;
        /// An entry has a reserved bit set.
        const RESERVED = 1 << 3;
        /// It was an instruction fetch.
        const FETCH = 1 << 4;
        const _ = !0;
    }
}

/// A page fault of the worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageFault {
    pub(crate) address: Gpa,
    pub(crate) code: PageFaultCode,
}

impl From<PageFault> for mmu::Fault {
    fn from(fault: PageFault) -> Self {
        Self::PageFault { address: fault.address, error_code: fault.code.bits() }
    }
}

/// Why a vCPU came out of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All operations are done.
    Done,
    /// The next operation needs a page; it is tried again in the next stay.
    Fault(PageFault),
    Kicked,
}

/// The batch is longer than the guest has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} operations are more than the {BATCH} of a batch")]
pub(crate) struct LoadError(pub(crate) usize);

/// Where the worker is while the vCPU is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Where it asks for a batch.
    Done,
    /// Anywhere.
    Within,
}

/// A vCPU with a worker in it.
pub(crate) struct Cpu<'v> {
    vm: &'v Vm,
    number: usize,
    pub(super) vcpu: Vcpu<AnyFormat, Arena>,
    at: At,
}

impl<'v> Cpu<'v> {
    pub(super) fn new(vm: &'v Vm, number: usize, vcpu: Vcpu<AnyFormat, Arena>) -> Self {
        Self { vm, number, vcpu, at: At::Within }
    }

    /// Gives it another batch to do. If it has not done the last one, the rest of that is dropped: the
    /// operation that it was at may have been done and have left no result.
    ///
    /// # Errors
    /// [`LoadError`] if there are more than [`BATCH`], and nothing has changed.
    pub(crate) fn load(&mut self, ops: &[RawOp]) -> Result<(), LoadError> {
        if ops.len() > BATCH {
            return Err(LoadError(ops.len()));
        }
        let (start, system) = (self.batch(), self.vm.system());
        for (index, op) in ops.iter().enumerate() {
            let place = start.plus(OP_BYTES * index);
            system.store(place.offset(), op.word);
            system.store(place.plus(8).offset(), op.argument);
        }
        if self.at != At::Done {
            self.restart();
        }
        self.vcpu.set_regs(|regs| {
            regs.r12 = start.linear();
            regs.r13 = start.plus(OP_BYTES * ops.len()).linear();
        });
        Ok(())
    }

    /// Takes the worker back to its beginning, wherever it is.
    fn restart(&mut self) {
        let (map, number) = (self.vm.map(), self.number);
        self.vcpu.set_regs(|regs| *regs = boot::regs(map, number));
        self.vcpu.set_sregs(|sregs| *sregs = boot::sregs(map, number, *sregs));
        self.at = At::Within;
    }

    /// Lets it work until it comes out; `invalidate` is told what is due before, and makes
    /// [KVM forget](Vm::invalidate) it.
    ///
    /// # Errors
    /// [`Crash`] if the guest, or KVM, does something that it must not; it cannot go on then.
    pub(crate) fn stay(
        &mut self,
        invalidate: impl FnOnce(&Due, Generation) -> Result<(), VmError>,
    ) -> Result<Exit, Crash> {
        self.at = At::Within;
        let cause = match self.vcpu.stay(invalidate) {
            Ok(Stop::Out(PORT_DONE)) => {
                self.at = At::Done;
                return Ok(Exit::Done);
            }
            Ok(Stop::Kicked) => return Ok(Exit::Kicked),
            Ok(Stop::Out(PORT_FAULT)) => match self.fault() {
                Ok(fault) => return Ok(Exit::Fault(fault)),
                Err(cause) => cause,
            },
            Ok(Stop::Out(port)) => match port.checked_sub(PORT_EXCEPTION) {
                Some(vector) if vector < VECTORS => self.exception(vector),
                _ => Cause::Unexpected(format!("a write to I/O port {port:#x}")),
            },
            Ok(Stop::Shutdown) => Cause::TripleFault,
            Ok(Stop::InternalError { suberror, data }) => Cause::InternalError { suberror, data },
            Ok(Stop::FailedEntry { reason, cpu }) => Cause::FailedEntry { reason, cpu },
            Ok(Stop::Other(exit)) => Cause::Unexpected(exit),
            Err(StayError::Run(error)) => Cause::Run(error),
            Err(StayError::Invalidate(error)) => Cause::Invalidate(error),
        };
        Err(self.crash(cause))
    }

    /// Reads what the page-fault handler found.
    fn fault(&self) -> Result<PageFault, Cause> {
        let frame = self.fault_frame();
        let code = PageFaultCode::from_bits_retain(self.read(frame.error_code()) as u32);
        let address = Gpa::new(self.vcpu.sregs().cr2);
        // The kernel, or the processor on its behalf, has all its memory from the beginning.
        if !code.contains(PageFaultCode::USER) {
            return Err(Cause::KernelFault(PageFault { address, code }));
        }
        Ok(PageFault { address, code })
    }

    fn exception(&self, vector: u16) -> Cause {
        let frame = Frame::on(self.vm.map().exception_stack(self.number));
        Cause::Exception { vector, error_code: self.read(frame.error_code()) }
    }

    fn crash(&self, cause: Cause) -> Crash {
        let mut registers = Registers::new(self.vcpu.regs(), &self.vcpu.sregs());
        // What the guest did when it was interrupted tells more than where its handler is.
        let map = self.vm.map();
        match cause {
            Cause::Exception { .. } => {
                self.unwind(&mut registers, &Frame::on(map.exception_stack(self.number)));
            }
            Cause::KernelFault(_) => self.unwind(&mut registers, &self.fault_frame()),
            _ => {}
        }
        Crash::new(cause, registers, self.vm.table())
    }

    fn unwind(&self, registers: &mut Registers, frame: &Frame) {
        registers.rip = self.read(frame.instruction());
        registers.rsp = self.read(frame.stack_pointer());
        registers.rflags = self.read(frame.flags());
        registers.cs = self.read(frame.code_segment()) as u16;
        registers.ss = self.read(frame.stack_segment()) as u16;
    }

    /// Returns how many operations of the batch are done.
    pub(crate) fn progress(&self) -> usize {
        let start = self.batch().linear();
        (self.vcpu.regs().r12 - start) as usize / OP_BYTES
    }

    /// Returns the result of the batch's operation number `index`, if it is done.
    ///
    /// # Panics
    /// If no batch has so many.
    pub(crate) fn result(&self, index: usize) -> u64 {
        assert!(index < BATCH, "a batch has no operation {index}");
        self.read(self.batch().plus(OP_BYTES * index + 8))
    }

    /// Returns its handle on the space.
    pub(crate) fn handle(&self) -> &slat::Vcpu<AnyFormat, Arena> {
        self.vcpu.handle()
    }

    /// Returns the name by which kicks are told of it.
    pub(crate) fn observer_id(&self) -> ObserverId {
        self.vcpu.observer_id()
    }

    /// Returns what [`SignalKicks::run`](slat::SignalKicks::run) wants to call before it signals.
    pub(crate) fn arm(&self) -> impl Fn() + Send + use<> + 'static {
        let flag = self.vcpu.exit_flag();
        move || Arc::as_ref(&flag).set()
    }

    fn batch(&self) -> Place {
        self.vm.map().batch(self.number)
    }

    fn fault_frame(&self) -> Frame {
        Frame::on(self.vm.map().fault_stack(self.number))
    }

    fn read(&self, place: Place) -> u64 {
        self.vm.system().load(place.offset())
    }
}

impl fmt::Debug for Cpu<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("number", &self.number)
            .field("observer", &self.observer_id())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
