//! Limbo: tables that were unlinked and that somebody may still walk.
//!
//! Software walkers hold a pin, hardware walkers are observers inside. A batch of tables, unlinked by
//! one structural operation, therefore waits for two things, and both are over for all earlier
//! batches when they are for a later one:
//!
//! - *its grace period*: every pin that was held when it was retired has ended ([`Epoch`]);
//! - *its generation*: every observer is out, or has entered or acknowledged at it or later. An
//!   observer that enters later knows of it [pair: enter-announce], and walks from the root, where
//!   the batch is not [edge: generation].
//!
//! Frames go back to their source under the writer lock only: at the beginning of each structural
//! operation, at the end of one that retires, and in `reclaim`. The fault path frees nothing.

#![expect(unsafe_code, reason = "vouches that nobody walks the tables that it frees")]

use alloc::{collections::VecDeque, vec::Vec};

use super::hub::Hub;
use crate::{
    arena::FrameSource,
    epoch::{Epoch, Participant},
    format::Format,
    table::{Dead, Writer},
};

/// What waits, in the order in which it came.
///
/// Invariant: a batch is taken out only when no pin and no observer can reach its tables.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    batches: VecDeque<Batch>,
    /// The sum over all batches.
    tables: u64,
    /// By which the writer takes part in the epoch; made when it is first needed.
    participant: Option<Participant>,
    /// The stamp of the last grace period that was begun.
    stamp: u64,
}

#[derive(Debug)]
struct Batch {
    dead: Vec<Dead>,
    tables: u64,
    /// Begun after it was unlinked.
    generation: u64,
    /// Of its grace period.
    stamp: u64,
}

impl Limbo {
    /// Returns how many tables wait.
    pub(super) fn tables(&self) -> u64 {
        self.tables
    }

    /// Returns the generation that observers must have reached for all of it to be freed.
    pub(super) fn newest(&self) -> Option<u64> {
        self.batches.iter().map(|batch| batch.generation).max()
    }

    /// Takes in what was unlinked before `generation` began.
    pub(super) fn add(&mut self, dead: Vec<Dead>, generation: u64, epoch: &Epoch) {
        let tables = dead.iter().map(Dead::tables).sum();
        self.tables += tables;
        let stamp = self.begin_grace(epoch);
        self.batches.push_back(Batch { dead, tables, generation, stamp });
    }

    /// Begins a grace period; returns its stamp.
    pub(super) fn begin_grace(&mut self, epoch: &Epoch) -> u64 {
        self.stamp += 1;
        epoch.retire(self.participant.get_or_insert_with(|| epoch.join()), self.stamp);
        self.stamp
    }

    /// Lets grace periods end, if pins allow; tells whether that with this stamp is over.
    pub(super) fn end_grace(&self, epoch: &Epoch, stamp: u64) -> bool {
        if let Some(participant) = &self.participant {
            epoch.advance(participant, stamp);
        }
        epoch.passed(stamp)
    }

    /// Frees what nobody can reach any more; returns how many tables that were.
    pub(super) fn sweep<F: Format, S: FrameSource>(
        &mut self,
        writer: &Writer<'_, F, S>,
        epoch: &Epoch,
        hub: &Hub,
    ) -> u64 {
        let (Some(oldest), Some(participant)) = (self.batches.front(), &self.participant) else {
            return 0;
        };
        let inside = hub.oldest().unwrap_or(u64::MAX);
        if oldest.generation > inside {
            return 0;
        }
        let last = self.batches.iter().rev().find(|batch| batch.generation <= inside);
        epoch.advance(participant, last.map_or(0, |batch| batch.stamp));
        let before = self.tables;
        let passed = |batch: &mut Batch| batch.generation <= inside && epoch.passed(batch.stamp);
        while let Some(batch) = self.batches.pop_front_if(passed) {
            self.tables -= batch.tables;
            // SAFETY:
            // 1. The grace period that began when it had been unlinked is over.
            // 2. No observer is inside at an older generation than the one that began then, now or
            //    ever again (`Hub::oldest`); those inside at this one or later looked at the tree
            //    when it was unlinked, and have invalidated what they had cached.
            // 3. Nobody walks under the lock (`Structure::sweep`).
            // 4. What `unlink` was told is the business of its caller.
            unsafe { writer.bury(batch.dead) };
        }
        before - self.tables
    }

    /// Frees everything.
    ///
    /// # Safety
    /// The table is being dropped: there is no pin, no observer and no handle.
    pub(super) unsafe fn drain<F: Format, S: FrameSource>(&mut self, writer: &Writer<'_, F, S>) {
        for batch in self.batches.drain(..) {
            // SAFETY: by the caller's promise nobody is there to walk.
            unsafe { writer.bury(batch.dead) };
        }
        self.tables = 0;
    }
}
