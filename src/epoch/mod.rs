//! The epoch: how long a software walker may use what it read.
//!
//! Each table has a collector of its own (crossbeam-epoch's, never the global one), so a reader that
//! stalls in one table holds back nothing in another. A [`Participant`] belongs to one reader; a
//! [`Pin`] says that its thread is walking. No table is freed while a pin lives that could have
//! seen it.
//!
//! Nothing is freed *by* the collector: who retires something leaves a note with it
//! ([`Epoch::retire`]), which is one atomic write when its grace period is over, on whichever thread
//! that is found out. So pinning never frees a frame and never meets a lock; who wants to free asks
//! [`Epoch::passed`].

#![expect(unsafe_code, reason = "a participant moves between threads, a snapshot is freed")]

#[cfg(all(test, loom))]
mod model;
mod passed;
mod snapshot;

use core::fmt;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use self::passed::Passed;
pub(crate) use self::snapshot::Snapshot;
use crate::sync::Arc;

/// How often [`Epoch::advance`] tries. A round advances the epoch by one, if no pin prevents it, and two
/// end a grace period; but it looks through eight bags of notes only, and each participant that went
/// has left one. Where more have piled up, behind a pin that was held for long, the next call goes on.
///
/// Under a checker just enough to end one: who waits tries again anyway, and each try in vain is one more
/// place for the checker to stop at.
const ROUNDS: u32 = if cfg!(loom) { 4 } else { 16 };

/// The epoch of one table.
#[derive(Debug)]
pub(crate) struct Epoch {
    collector: Collector,
    /// The notes own it as well: they may run late.
    passed: Arc<Passed>,
}

impl Epoch {
    pub(crate) fn new() -> Self {
        Self { collector: Collector::new(), passed: Arc::new(Passed::new()) }
    }

    /// Registers a participant: an allocation and a shared write, so once per reader and not once
    /// per operation.
    pub(crate) fn join(&self) -> Participant {
        Participant(self.collector.register())
    }

    /// Begins the grace period of what the caller has just made unreachable, under a stamp that is
    /// greater than every one before.
    pub(crate) fn retire(&self, by: &Participant, stamp: u64) {
        let passed = Arc::clone(&self.passed);
        let guard = by.0.pin();
        guard.defer(move || passed.note(stamp));
        // The note must not wait in this participant's own bag until 64 more have come.
        guard.flush();
    }

    /// Tells whether every pin has ended that was held when `stamp` was retired.
    pub(crate) fn passed(&self, stamp: u64) -> bool {
        self.passed.covers(stamp)
    }

    /// Lets the epoch go on as far as pins allow, and with it the grace periods up to `stamp`: a
    /// table that nobody pins makes progress too. Does not wait.
    pub(crate) fn advance(&self, by: &Participant, stamp: u64) {
        for _ in 0..ROUNDS {
            if self.passed(stamp) {
                return;
            }
            by.0.pin().flush();
        }
    }
}

/// One member of an [`Epoch`].
pub(crate) struct Participant(LocalHandle);

// SAFETY:
// 1. `LocalHandle` is not `Send` because it is a raw pointer to the participant's record. The record
//    is not tied to a thread: it is reached through the handle and its guards only, never through
//    thread-local storage (that is crossbeam's default collector, which is not used here).
// 2. A participant cannot be shared between threads (`LocalHandle` is not `Sync`, nor is this), and
//    cannot move while one of its pins lives: `Pin`s are handed out under a borrow. A pin that was
//    leaked leaves its count behind, which only keeps the participant pinned for ever.
// 3. Deferred work is the only thing a record holds for later, and every closure given to it is
//    `Send` (`Guard::defer` asks for it).
unsafe impl Send for Participant {}

impl Participant {
    /// Enters the epoch: one locked operation on a line of this participant's own. Every 128th time
    /// the collector advances the epoch, if it can, and unlinks participants that are gone.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        Pin(self.0.pin())
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant").field("pinned", &self.0.is_pinned()).finish()
    }
}

/// While it lives, no table that its thread can reach is freed.
pub(crate) struct Pin(Guard);

impl Pin {
    /// Leaves the epoch and enters it again, where that is cheaper than a new pin.
    #[inline]
    pub(crate) fn repin(&mut self) {
        self.0.repin();
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}
