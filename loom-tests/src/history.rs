//! Histories: what several threads called at the same time, what each was answered, and whether that can
//! be explained by doing it one after the other.
//!
//! - [`call`] has the words: calls, answers, and how they are printed;
//! - [`spec`] says what each operation does if it is alone, without a word of the library's;
//! - [`search`] looks for an order in which the specification gives the recorded answers: each operation
//!   between its call and its answer (Wing and Gong's search, with Lowe's memory of what was tried);
//! - [`late`] has the exceptions, each with its name;
//! - [`diagram`] draws a history for people;
//! - `clock` says which operation was over when another began, under each scheduler;
//! - [`program`] and `draw` make programs, `perform` does a call on the library, and `run` runs and records
//!   them.
//!
//! docs/THEORY.md says what is linearizable ("Linearizability"), docs/TESTING.md how it is checked.

pub mod call;
mod diagram;
#[cfg(test)]
mod hand;
mod late;
mod perform;
pub mod program;
mod run;
mod search;
pub mod spec;

#[cfg_attr(any(loom, shuttle), path = "history/clock/counts.rs")]
#[cfg_attr(not(any(loom, shuttle)), path = "history/clock/time.rs")]
mod clock;
#[cfg(not(loom))]
mod draw;

pub(crate) use clock::hesitate;

use call::{Answer, Call, PAGES};
use spec::{Page, Tables};

pub use self::{
    late::Exception,
    run::{Tally, explore_program},
    search::{Checked, Stuck},
};

/// The most threads of a history, with the one that looks at the end.
pub const THREADS: usize = 5;

/// An operation that was called and answered.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What was called.
    pub call: Call,
    /// What it answered.
    pub answer: Answer,
    /// How many operations of each thread were over when it was called.
    pub seen: [usize; THREADS],
}

/// Where an operation is in a history: its thread, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// The thread.
    pub thread: usize,
    /// How many came before it in the thread.
    pub index: usize,
}

/// What several threads did at the same time.
#[derive(Clone, Debug)]
pub struct History {
    /// What the pages were before.
    pub start: [Page; PAGES],
    /// Which of them share a leaf table.
    pub tables: Tables,
    /// The operations of each thread, in order.
    pub threads: Vec<Vec<Operation>>,
}

impl History {
    /// Returns the operation at `at`.
    pub(crate) fn get(&self, at: At) -> &Operation {
        &self.threads[at.thread][at.index]
    }

    /// Returns where the operations are, thread by thread.
    pub(crate) fn all(&self) -> impl Iterator<Item = At> + Clone {
        let threads = self.threads.iter().enumerate();
        threads.flat_map(|(thread, of)| (0..of.len()).map(move |index| At { thread, index }))
    }

    /// Tells whether `first` was over when `then` began.
    pub(crate) fn precedes(&self, first: At, then: At) -> bool {
        if first.thread == then.thread {
            return first.index < then.index;
        }
        first.index < self.get(then).seen[first.thread]
    }

    /// Tells whether there was a moment at which both were under way.
    pub(crate) fn overlap(&self, one: At, other: At) -> bool {
        one != other && !self.precedes(one, other) && !self.precedes(other, one)
    }

    /// Looks for an order of the operations that explains their answers; without an exception if that can be
    /// done, and with them otherwise.
    ///
    /// # Errors
    /// [`Stuck`], if there is none; its [`Display`](std::fmt::Display) is the diagram.
    pub fn check(&self) -> Result<Checked, Box<Stuck>> {
        search::check(self)
    }
}
