//! The epoch: how long a software walker may use what it read.
//!
//! Each table has a collector of its own (crossbeam-epoch's, never the global one), so a reader that
//! stalls in one table holds back nothing in another. A [`Participant`] belongs to one reader; a
//! [`Pin`] says that its thread is walking. No table is freed while a pin lives that could have
//! seen it.

#![expect(unsafe_code, reason = "a participant moves between threads")]

use core::fmt;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

/// The epoch of one table.
#[derive(Debug)]
pub(crate) struct Epoch(Collector);

impl Epoch {
    pub(crate) fn new() -> Self {
        Self(Collector::new())
    }

    /// Registers a participant: an allocation and a shared write, so once per reader and not once
    /// per operation.
    pub(crate) fn join(&self) -> Participant {
        Participant(self.0.register())
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
