//! Kicks for vCPUs that sit in a system call: KVM_RUN, and others that a signal ends.

#![expect(unsafe_code, reason = "signals threads")]

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use super::{Kick, ObserverId};
use crate::sync::{Mutex, unique};

/// The number is no signal's, or one that the system keeps to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a signal that can be sent")]
pub struct BadSignal(pub i32);

/// Kicks vCPU threads with a signal, after it has seen to it that their next entry returns at once.
///
/// For KVM: `arm` sets `immediate_exit` in the vCPU's `kvm_run`, and the vCPU clears it only after it
/// has left. The signal needs a handler, which may do nothing, installed without `SA_RESTART`; without
/// one its default action ends the process.
///
/// ```
/// use slat::SignalKicks;
/// # use std::sync::{Arc, atomic::{AtomicU8, Ordering}};
/// # use slat::{Ept, EptCaps, HeapFrames, Levels, PageTable, PhysWidth, Tracking};
/// # struct Run { immediate_exit: AtomicU8 }
/// # let kvm_run = Arc::new(Run { immediate_exit: AtomicU8::new(0) });
/// # let ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
/// # let table = PageTable::new(ept, HeapFrames::new(8))?;
/// # let mut observer = table.observer();
/// # const SIGUSR1: i32 = 10;
/// let kicks = SignalKicks::new(SIGUSR1)?;
/// // On the vCPU's thread:
/// let page = Arc::clone(&kvm_run);
/// let arm = move || page.immediate_exit.store(1, Ordering::Relaxed);
/// kicks.run(observer.id(), arm, || loop {
///     let inside = observer.enter(Tracking::On);
///     // Invalidate `inside.due()`; ioctl(KVM_RUN).
///     drop(inside);
///     kvm_run.immediate_exit.store(0, Ordering::Relaxed);
///     // Handle the exit.
///     # break;
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SignalKicks {
    signal: libc::c_int,
    /// The thread of each is in `run`, so it is alive; who removes one holds the lock, and so does who
    /// signals.
    seats: Mutex<Vec<Seat>>,
}

struct Seat {
    key: u64,
    observer: ObserverId,
    thread: Thread,
    arm: Box<dyn Fn() + Send>,
}

/// A thread, as the system names it; on some systems by a pointer, which is only a name as well.
#[derive(Clone, Copy)]
struct Thread(usize);

impl Thread {
    fn this() -> Self {
        // SAFETY: it has no preconditions.
        Self(unsafe { libc::pthread_self() } as usize)
    }
}

impl SignalKicks {
    /// Makes one that sends `signal`, to nobody yet.
    ///
    /// # Errors
    /// [`BadSignal`] if there is no such signal.
    pub fn new(signal: i32) -> Result<Self, BadSignal> {
        let mut set = core::mem::MaybeUninit::uninit();
        // SAFETY: the set is ours, and this initialises it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set is ours and was initialised; the call refuses numbers that are no signals.
        if unsafe { libc::sigaddset(set.as_mut_ptr(), signal) } != 0 {
            return Err(BadSignal(signal));
        }
        Ok(Self { signal, seats: Mutex::new(Vec::new()) })
    }

    /// Runs a vCPU on this thread: until `vcpu` returns, or panics, a kick of `observer` calls `arm` on
    /// the thread that kicks, and then signals this one.
    ///
    /// It takes the vCPU as a closure, and does not return a guard, because a guard can be leaked: then
    /// a thread would be signalled that is gone. `arm` is called under a lock: it must not kick, or run,
    /// with the same `SignalKicks`.
    pub fn run<T>(
        &self,
        observer: ObserverId,
        arm: impl Fn() + Send + 'static,
        vcpu: impl FnOnce() -> T,
    ) -> T {
        let key = unique().get();
        let seat = Seat { key, observer, thread: Thread::this(), arm: Box::new(arm) };
        self.seats.lock().push(seat);
        let _seat = Standing { kicks: self, key };
        vcpu()
    }
}

impl Kick for SignalKicks {
    fn kick(&self, observer: ObserverId) {
        for seat in self.seats.lock().iter().filter(|seat| seat.observer == observer) {
            (seat.arm)();
            // SAFETY: the thread is in `run`, and leaves it only after taking the lock that is held
            // here (invariant of `seats`); so it is alive, and the name is its own.
            let sent = unsafe { libc::pthread_kill(seat.thread.0 as libc::pthread_t, self.signal) };
            debug_assert_eq!(sent, 0, "the signal was checked, and the thread is alive");
        }
    }
}

/// Takes a seat away, also when the vCPU panics.
struct Standing<'k> {
    kicks: &'k SignalKicks,
    key: u64,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.kicks.seats.lock().retain(|seat| seat.key != self.key);
    }
}

impl fmt::Debug for SignalKicks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalKicks").field("signal", &self.signal).finish_non_exhaustive()
    }
}
