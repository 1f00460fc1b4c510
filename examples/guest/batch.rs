//! A batch: what a vCPU does next, one access after the other, and what it found.
//!
//! A guest that runs natively cannot ask for each of its accesses what it is to be. So they are planned
//! a batch at a time, and looked at when the vCPU is out again.

use crate::{
    frame::Word,
    workload::{Op, Share},
};

/// Accesses of a batch at most: after so many a vCPU comes out for no other reason, as for a timer tick.
pub(crate) const BATCH: usize = 4096;

/// One batch, done in part.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// How many were planned before it.
    number: u64,
    ops: Vec<Op>,
    /// What the first of them found: each is done.
    found: Vec<Word>,
    /// How many of these have been looked at.
    settled: usize,
}

impl Batch {
    /// Plans the next batch; it is empty if there is nothing more to do.
    pub(crate) fn plan(&mut self, share: &mut dyn Share) {
        self.abandon();
        self.number += 1;
        share.settled();
        while self.ops.len() < BATCH
            && let Some(op) = share.next()
        {
            self.ops.push(op);
        }
    }

    /// Drops what is planned and not done.
    pub(crate) fn abandon(&mut self) {
        self.ops.clear();
        self.found.clear();
        self.settled = 0;
    }

    /// Returns what tells it from the batches before.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns all of it.
    pub(crate) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Returns how many are done.
    pub(crate) fn done(&self) -> usize {
        self.found.len()
    }

    /// Returns the one that is to be done next.
    pub(crate) fn next(&self) -> Option<Op> {
        self.ops.get(self.done()).copied()
    }

    /// Notes that the next is done, and which word it found, before it changed it.
    pub(crate) fn found(&mut self, word: Word) {
        debug_assert!(self.next().is_some(), "no more is done than was planned");
        self.found.push(word);
    }

    /// Returns what was done since this was called before, with what it found.
    pub(crate) fn settle(&mut self) -> impl Iterator<Item = (Op, Word)> {
        let news = self.settled..self.found.len();
        self.settled = news.end;
        news.map(|at| (self.ops[at], self.found[at]))
    }
}
