//! A vCPU of software: it runs on its own translation cache, faults, and comes out when it is kicked.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use slat::{
    Fault, FaultError, Format, HostPfn, Prot, Space, Tracking, Vcpu,
    mmu::{self, Access, AccessKind, Cause, Mode, TranslationCache},
};

use super::{Frames, Kicks, Memory};
use crate::common::at;

pub(crate) const READ: Access = Access::READ.in_mode(Mode::Supervisor);
pub(crate) const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
pub(crate) const FETCH: Access = Access::FETCH.in_mode(Mode::Supervisor);

pub(crate) struct Cpu<F: Format> {
    pub(crate) vcpu: Vcpu<F, Frames>,
    memory: Arc<Memory>,
    kicks: Arc<Kicks>,
    flag: Arc<AtomicBool>,
    cache: TranslationCache,
}

impl<F: Format> Cpu<F> {
    pub(crate) fn new(space: &Space<F, Frames>, memory: Arc<Memory>, kicks: &Arc<Kicks>) -> Self {
        let vcpu = space.vcpu();
        let flag = kicks.enlist(vcpu.id());
        Self { vcpu, memory, kicks: Arc::clone(kicks), flag, cache: TranslationCache::default() }
    }

    /// Tries once, as a guest: what `work` makes of the frame, or the fault.
    pub(crate) fn attempt<T>(
        &mut self,
        gpa: u64,
        access: Access,
        work: impl FnOnce(&Memory, HostPfn) -> T,
    ) -> Result<T, mmu::Fault> {
        let inside = self.vcpu.enter(Tracking::Off);
        inside.refresh(&mut self.cache);
        let reached = inside.mmu().translate_cached(&mut self.cache, at(gpa), access);
        // Inside: nobody gets the frame meanwhile.
        let done = reached.map(|reached| work(&self.memory, reached.pfn));
        drop(inside);
        self.flag.swap(false, Ordering::SeqCst);
        done
    }

    /// Resolves the faults of an access, and waits where another is fetching, until it is done.
    pub(crate) fn access<T>(
        &mut self,
        gpa: u64,
        access: Access,
        work: impl Fn(&Memory, HostPfn) -> T,
    ) -> Result<T, FaultError> {
        loop {
            match self.attempt(gpa, access, &work) {
                Ok(done) => return Ok(done),
                Err(fault) => self.resolve(gpa, access, fault)?,
            }
        }
    }

    fn resolve(&self, gpa: u64, access: Access, fault: mmu::Fault) -> Result<(), FaultError> {
        match fault.cause() {
            Cause::NotPresent | Cause::Rights => self.vcpu.fault_and_wait(at(gpa), right(access)),
            cause => panic!("{cause:?}: {fault:?}"),
        }
    }

    pub(crate) fn read(&mut self, gpa: u64) -> Result<u64, FaultError> {
        self.access(gpa, READ, Memory::read)
    }

    pub(crate) fn write(&mut self, gpa: u64, word: u64) -> Result<(), FaultError> {
        self.access(gpa, WRITE, |memory, pfn| memory.write(pfn, word))
    }

    pub(crate) fn fetch(&mut self, gpa: u64) -> Result<u64, FaultError> {
        self.access(gpa, FETCH, Memory::read)
    }

    #[track_caller]
    pub(crate) fn reads(&mut self, gpa: u64, word: u64) {
        assert_eq!(self.read(gpa).unwrap(), word, "at {gpa:#x}");
    }

    #[track_caller]
    pub(crate) fn writes(&mut self, gpa: u64, word: u64) {
        self.write(gpa, word).unwrap();
    }

    #[track_caller]
    pub(crate) fn faults(&self, gpa: u64, access: Prot) {
        assert_eq!(self.vcpu.fault(at(gpa), access).unwrap(), Fault::Resolved, "at {gpa:#x}");
    }
}

/// What the access needs.
pub(crate) fn right(access: Access) -> Prot {
    match access.kind {
        AccessKind::Read => Prot::R,
        AccessKind::Write => Prot::W,
        AccessKind::Fetch => Prot::X,
    }
}

impl<F: Format> Drop for Cpu<F> {
    fn drop(&mut self) {
        self.kicks.retire(self.vcpu.id());
    }
}
