//! How far a precopy is, as the vCPUs and the copier tell each other: whether writes are tracked, who has
//! touched its memory, and when all shall stand still.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering, fence},
    },
    time::Duration,
};

use crate::stage::Present;

/// How often the copier looks whether vCPUs are gone.
const LOOK: Duration = Duration::from_millis(1);

/// The state of one precopy; of a run without one it stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    is_tracked: AtomicBool,
    /// Whether vCPUs shall stand still: a hint, so that they need no lock to learn that they need not.
    is_closed: AtomicBool,
    gate: Mutex<Gate>,
    /// Notified whenever the gate changes.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    /// How many times a vCPU has said that it is done with the memory that it was to touch.
    touched: u64,
    is_closed: bool,
    /// How many vCPUs stand still.
    waiting: u64,
}

/// Vcpus that stand still; they go on when it is dropped.
pub(crate) struct Stopped<'p>(&'p Phase);

/// Some vCPU is gone, for which somebody waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a vCPU was gone before it had touched its memory")]
pub(crate) struct Gone;

impl Phase {
    /// Says that from now on it matters which small pages are written; who lists what is mapped afterwards
    /// finds all that was mapped without regard to that.
    pub(crate) fn track(&self) {
        self.is_tracked.store(true, Ordering::Relaxed);
        // SeqCst: between this store and the lists that follow; the other half is in `is_tracked`. Either a
        //   page is in the list, or who mapped it learns that it is tracked.
        fence(Ordering::SeqCst);
    }

    /// Says that it does not matter any more.
    pub(crate) fn leave(&self) {
        self.is_tracked.store(false, Ordering::Relaxed);
    }

    /// Tells whether writes are tracked; asked by who has just mapped a page, too.
    pub(crate) fn is_tracked(&self) -> bool {
        // SeqCst: between the page's mapping and this load; see `track`.
        fence(Ordering::SeqCst);
        self.is_tracked.load(Ordering::Relaxed)
    }

    /// Says that a vCPU has touched what it was to touch, once more.
    pub(crate) fn touched(&self) {
        self.gate().touched += 1;
        self.changed.notify_all();
    }

    /// Waits until `vcpus` vCPUs have said so for the `times`-th time.
    ///
    /// # Errors
    /// [`Gone`] if one of them is there no more.
    pub(crate) fn await_touched(
        &self,
        vcpus: &Present,
        count: u64,
        times: u64,
    ) -> Result<(), Gone> {
        let mut gate = self.gate();
        while gate.touched < times * count {
            if vcpus.count() < count {
                return Err(Gone);
            }
            gate = self.wait(gate);
        }
        Ok(())
    }

    /// Makes all vCPUs stand still, outside of the guest; returns when they do, or are gone.
    pub(crate) fn stop(&self, vcpus: &Present) -> Stopped<'_> {
        self.gate().is_closed = true;
        self.is_closed.store(true, Ordering::Relaxed);
        let stopped = Stopped(self);
        let mut gate = self.gate();
        // A batch is short: nobody need be kicked.
        while gate.waiting < vcpus.count() {
            gate = self.wait(gate);
        }
        drop(gate);
        stopped
    }

    /// Waits until a vCPU has come somewhere, or for a while: one that is gone says nothing.
    fn wait<'p>(&'p self, gate: MutexGuard<'p, Gate>) -> MutexGuard<'p, Gate> {
        let waited = self.changed.wait_timeout(gate, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Stands still, if all shall; called by a vCPU that is out.
    pub(crate) fn pass(&self) {
        if !self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let mut gate = self.gate();
        gate.waiting += 1;
        self.changed.notify_all();
        // The lock also orders: what this vCPU wrote comes before what the copier reads.
        let wait = self.changed.wait_while(gate, |gate| gate.is_closed);
        wait.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.is_closed.store(false, Ordering::Relaxed);
        self.0.gate().is_closed = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
