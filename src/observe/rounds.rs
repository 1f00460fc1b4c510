//! Rounds of harvests: one at a time, and what one has to know of the one before.
//!
//! A round takes accessed bits out of table entries, and leaves carries in their place. From its end on
//! translation caches that hold such an entry are stale: its end begins a generation, which says so. A
//! later round may drop a carry if every observer is out, or has entered or acknowledged at that
//! generation or later [pair: enter-announce].

use core::fmt;

use super::{
    due::{Scope, Stale},
    hub::Hub,
};
use crate::{addr::GpaRange, format::Carry, sync::MutexGuard};

/// For how many rounds the plain scan is taken where much of what was mapped was touched. In the checkers'
/// few tables it always is, and they are to see the others.
const PLAIN: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 7 };

/// What rounds leave to later ones.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The generation that the last one began at its end.
    ended: u64,
    /// For how many rounds more the plain scan is cheaper: for accessed, and for dirty.
    plain: [u32; 2],
}

/// How a round goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// From the root down, by accessed bits and carries; a carry that was followed to its end is left
    /// where it is, or dropped.
    Descend(Drops),
    /// Through every table.
    Plain,
}

/// Whether a round may drop carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    Yes,
    No,
}

/// A round; it ends when it is dropped, also if it was cut off.
pub(crate) struct Round<'d> {
    hub: &'d Hub,
    rounds: MutexGuard<'d, Rounds>,
    kind: usize,
    range: GpaRange,
    course: Course,
}

impl<'d> Round<'d> {
    pub(super) fn begin(
        hub: &'d Hub,
        mut rounds: MutexGuard<'d, Rounds>,
        range: GpaRange,
        carry: Carry,
    ) -> Self {
        let kind = usize::from(carry == Carry::DIRTY);
        let course = if rounds.plain[kind] > 0 {
            rounds.plain[kind] -= 1;
            Course::Plain
        } else {
            // It fences: between the accessed bits that the rounds before have taken, and the leaves that
            // this one reads before it drops their carries [pair: mark-round].
            let flushed = hub.oldest().is_none_or(|oldest| oldest >= rounds.ended);
            Course::Descend(if flushed { Drops::Yes } else { Drops::No })
        };
        Self { hub, rounds, kind, range, course }
    }

    pub(crate) fn course(&self) -> Course {
        self.course
    }

    /// Notes how many leaf tables there were, and how many were read: if those are many, the next rounds
    /// read them all.
    pub(crate) fn note(&mut self, tables: u64, read: u64) {
        if read * 4 > tables {
            self.rounds.plain[self.kind] = PLAIN;
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if self.course != Course::Plain {
            let stale = Stale::new(self.range, Scope::Structure);
            self.rounds.ended = self.hub.announce(stale);
        }
    }
}

impl fmt::Debug for Round<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, course, .. } = self;
        f.debug_struct("Round")
            .field("range", range)
            .field("course", course)
            .finish_non_exhaustive()
    }
}
