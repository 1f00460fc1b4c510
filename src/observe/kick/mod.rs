//! How an observer is made to come out.

#[cfg(all(feature = "std", unix, not(any(loom, shuttle))))]
mod signals;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod threads;

#[cfg(all(feature = "std", unix, not(any(loom, shuttle))))]
pub use self::signals::{BadSignal, SignalKicks};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use self::threads::{ThreadKicks, ThreadSeat};
use super::record::ObserverId;

/// Makes an observer that is inside come out soon, or acknowledge.
///
/// On bare metal an inter-processor interrupt; on KVM a signal to the vCPU's thread; for a software
/// vCPU a flag. A closure that takes the observer's name is one.
///
/// # It must stick
/// An observer counts as inside from [`enter`](crate::Observer::enter) on, before the processor has
/// entered the guest. A kick in between must not be lost: that entry has to return at once. So on
/// bare metal interrupts are off from before `enter` until the entry instruction, which takes the
/// pending one as an exit. On KVM the kick sets `immediate_exit` and then sends a signal, and the vCPU
/// clears `immediate_exit` only *after* it has left. With a flag:
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// # use slat::{Ept, EptCaps, HeapFrames, Levels, ObserverId, PageTable, PhysWidth, Tracking};
/// # let ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
/// # let table = PageTable::new(ept, HeapFrames::new(8))?;
/// let come_out = AtomicBool::new(false);
/// let mut observer = table.observer();
/// # let mut exits = 0;
/// # let done = |exits: &mut u32| { *exits += 1; *exits == 3 };
/// # come_out.store(true, Ordering::Release);
/// loop {
///     let inside = observer.enter(Tracking::On);
///     // Invalidate `inside.due()`; then run the guest.
///     while !come_out.load(Ordering::Acquire) {
///         // Run a little.
///         # break;
///     }
///     drop(inside);
///     // Only now: who kicks later finds it outside, or entering with the new generation.
///     come_out.swap(false, Ordering::AcqRel);
///     # if done(&mut exits) { break; }
/// }
/// // The other side, whoever it is:
/// let kick = |_: ObserverId| come_out.store(true, Ordering::Release);
/// # table.reclaim(&kick);
/// # Ok::<(), slat::CreateError>(())
/// ```
///
/// Ready made, with the standard library: `ThreadKicks` for software vCPUs, and on Unix `SignalKicks`
/// for KVM's.
///
/// Kicks are called with no pin held, and no lock but the turn to change sizes, where that is what they are for:
/// so a kick must not split or collapse leaves of the same table. They are called more often than
/// necessary, and for observers that have come out meanwhile.
pub trait Kick {
    /// Kicks `observer`. Need not wait for it.
    fn kick(&self, observer: ObserverId);
}

impl<K: Fn(ObserverId)> Kick for K {
    fn kick(&self, observer: ObserverId) {
        self(observer);
    }
}
