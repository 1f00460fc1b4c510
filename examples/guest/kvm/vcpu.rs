//! A vCPU that KVM runs on a table of the library: **the file to take into a VMM**, with
//! [`Mapping`](crate::mapping::Mapping), by which another thread reaches the exit flag.
//!
//! It knows nothing of the guest, and of its memory only the vCPU's handle on the space. What has to come in
//! which order is all in [`Vcpu::stay`]:
//!
//! 1. *enter*: from now on no table is freed that the guest can reach;
//! 2. *invalidate* what became stale while the vCPU was out;
//! 3. *load* the root pointer, which only a vCPU that is inside gives away;
//! 4. *run*, until something makes the guest come out: a kick, if somebody waits for it;
//! 5. *leave*, and
//! 6. only then take the request to come out as met. A kick that came any time before is not lost: the
//!    flag that it sets keeps KVM_RUN from entering the guest, and the signal makes it return.

#![expect(unsafe_code, reason = "reads a union, borrows a descriptor, installs a signal handler")]

use std::{
    io,
    mem::{MaybeUninit, offset_of},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    sync::{Arc, atomic::Ordering},
};

use kvm_bindings::{kvm_regs, kvm_run, kvm_sregs, kvm_sync_regs};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use slat::{Due, Format, FrameSource, Generation, ObserverId, SignalKicks, Tracking};

use crate::mapping::Mapping;

/// The signal that kicks a vCPU's thread.
const KICK: i32 = libc::SIGUSR1;

/// A vCPU of KVM's, and its handle on the space.
pub(super) struct Vcpu<F: Format, S: FrameSource> {
    fd: VcpuFd,
    handle: slat::Vcpu<F, S>,
    exit: Arc<ExitFlag>,
}

/// What made the guest come out.
#[derive(Debug)]
pub(super) enum Stop {
    /// It wrote to this I/O port.
    Out(u16),
    /// Somebody wants the vCPU out.
    Kicked,
    /// It had an exception that could not be delivered, three times over.
    Shutdown,
    /// KVM does not know how to go on.
    InternalError { suberror: u32, data: Vec<u64> },
    /// The processor refused to enter the guest.
    FailedEntry { reason: u64, cpu: u32 },
    /// Something else, in KVM's words.
    Other(String),
}

/// Why a stay failed. What was due may not have been invalidated: the vCPU must not run again.
#[derive(Debug, thiserror::Error)]
pub(super) enum StayError<E> {
    #[error("KVM_RUN failed: {0}")]
    Run(#[source] io::Error),
    #[error("invalidating failed: {0}")]
    Invalidate(E),
}

impl<F: Format, S: FrameSource> Vcpu<F, S> {
    /// Makes one of a vCPU of KVM's that has not run yet, with the registers `regs` and `sregs`.
    ///
    /// # Errors
    /// If KVM does not take the registers, or does not give access to its page.
    pub(super) fn new(
        mut fd: VcpuFd,
        handle: slat::Vcpu<F, S>,
        regs: kvm_regs,
        sregs: kvm_sregs,
    ) -> io::Result<Self> {
        fd.set_sregs(&sregs)?;
        fd.set_regs(&regs)?;
        // From now on they are exchanged in the shared page, which takes no system calls.
        fd.set_sync_valid_reg(SyncReg::Register);
        fd.set_sync_valid_reg(SyncReg::SystemRegister);
        *fd.sync_regs_mut() = kvm_sync_regs { regs, sregs, ..kvm_sync_regs::default() };
        let exit = Arc::new(ExitFlag::of(&fd)?);
        Ok(Self { fd, handle, exit })
    }

    /// Runs the guest once: until it comes out.
    ///
    /// `invalidate` is told what became stale before this generation, and makes KVM forget it.
    ///
    /// # Errors
    /// [`StayError`] if `invalidate` fails, or the system call for a reason other than a kick.
    pub(super) fn stay<E>(
        &mut self,
        invalidate: impl FnOnce(&Due, Generation) -> Result<(), E>,
    ) -> Result<Stop, StayError<E>> {
        let stop = self.inside(invalidate);
        // Not before it has left: whoever waits for that would have to kick again.
        self.exit.clear();
        stop
    }

    fn inside<E>(
        &mut self,
        invalidate: impl FnOnce(&Due, Generation) -> Result<(), E>,
    ) -> Result<Stop, StayError<E>> {
        let inside = self.handle.enter(Tracking::On);
        invalidate(inside.due(), inside.generation()).map_err(StayError::Invalidate)?;
        let sregs = &mut self.fd.sync_regs_mut().sregs;
        if sregs.cr3 != inside.root_pointer() {
            sregs.cr3 = inside.root_pointer();
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        run(&mut self.fd).map_err(StayError::Run)
    }

    /// Returns the general registers, as they were when the guest last came out.
    pub(super) fn regs(&self) -> kvm_regs {
        self.fd.sync_regs().regs
    }

    /// Returns the system registers, as they were when the guest last came out.
    pub(super) fn sregs(&self) -> kvm_sregs {
        self.fd.sync_regs().sregs
    }

    /// Changes general registers.
    pub(super) fn set_regs(&mut self, set: impl FnOnce(&mut kvm_regs)) {
        set(&mut self.fd.sync_regs_mut().regs);
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    /// Changes system registers. CR3 is not for the caller to change.
    pub(super) fn set_sregs(&mut self, set: impl FnOnce(&mut kvm_sregs)) {
        set(&mut self.fd.sync_regs_mut().sregs);
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
    }

    /// Returns the name by which kicks are told of the vCPU.
    pub(super) fn observer_id(&self) -> ObserverId {
        self.handle.id()
    }

    /// Returns what resolves its faults.
    pub(super) fn handle(&self) -> &slat::Vcpu<F, S> {
        &self.handle
    }

    /// Returns what other threads keep it from entering the guest with.
    pub(super) fn exit_flag(&self) -> Arc<ExitFlag> {
        Arc::clone(&self.exit)
    }
}

/// Calls KVM_RUN, and says in words of our own why it returned.
fn run(fd: &mut VcpuFd) -> io::Result<Stop> {
    let stop = match fd.run() {
        Ok(VcpuExit::IoOut(port, _)) => Stop::Out(port),
        Ok(VcpuExit::Intr) => Stop::Kicked,
        Ok(VcpuExit::Shutdown) => Stop::Shutdown,
        Ok(VcpuExit::FailEntry(reason, cpu)) => Stop::FailedEntry { reason, cpu },
        // What it is about is still in the shared page.
        Ok(VcpuExit::InternalError) => internal_error(fd.get_kvm_run()),
        Ok(other) => Stop::Other(format!("{other:?}")),
        Err(error) if error.errno() == libc::EINTR => Stop::Kicked,
        Err(error) => return Err(error.into()),
    };
    Ok(stop)
}

fn internal_error(run: &kvm_run) -> Stop {
    // SAFETY: the exit reason says that KVM wrote this member; any bits are a value of it.
    let error = unsafe { run.__bindgen_anon_1.internal };
    let words = error.data.iter().take(error.ndata as usize);
    Stop::InternalError { suberror: error.suberror, data: words.copied().collect() }
}

/// `immediate_exit` of a vCPU's shared page, for any thread: while it is set, KVM_RUN returns at once.
///
/// It has a mapping of its own. That of [`VcpuFd`] belongs to the thread that runs the vCPU, and may be
/// gone when somebody still kicks.
#[derive(Debug)]
pub(super) struct ExitFlag {
    page: Mapping,
}

impl ExitFlag {
    const OFFSET: usize = offset_of!(kvm_run, immediate_exit);

    fn of(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let file = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        Ok(Self { page: Mapping::of_file(file, Self::OFFSET + 1)? })
    }

    /// Keeps the vCPU from entering the guest. If it is in there already it takes a signal as well.
    pub(super) fn set(&self) {
        // Relaxed: who is in the guest, or on the way there, gets a signal after this; the kernel orders
        // the two.
        self.page.byte(Self::OFFSET).store(1, Ordering::Relaxed);
    }

    fn clear(&self) {
        // Relaxed: the vCPU has left. If the store is late and takes a kick with it, that kick asked
        // for nothing more; for the next stay, entering orders it.
        self.page.byte(Self::OFFSET).store(0, Ordering::Relaxed);
    }
}

/// Makes kicks for vCPUs, with a handler for their signal: one that does nothing, and without SA_RESTART,
/// so that KVM_RUN returns.
///
/// # Errors
/// If the system does not take the handler.
pub(crate) fn signal_kicks() -> io::Result<SignalKicks> {
    extern "C" fn nothing(_signal: libc::c_int) {}

    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: all bytes zero are a value of this struct of integers and an optional pointer: no flags, no
    // signals blocked.
    let fields = unsafe { action.assume_init_mut() };
    fields.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the action is initialised, and its handler has the signature that goes without SA_SIGINFO;
    // it does nothing, so it may run at any time.
    let installed = unsafe { libc::sigaction(KICK, action.as_ptr(), ptr::null_mut()) };
    if installed != 0 {
        return Err(io::Error::last_os_error());
    }
    SignalKicks::new(KICK).map_err(io::Error::other)
}
