//! Invariant 10: a thread that stops for ever, between any two steps of an operation, stops nobody else's
//! lock-free one. One deed stops before each of its steps in turn, in every scene; each other deed has to finish
//! beside it, but for the waits that are listed here.
//!
//! When the other one is done, the first goes on, very late. What both report, and what is left, has to be
//! what would come out if one was done before the other, page by page.
#![cfg(shuttle)]

mod sweep;
mod table;
mod tables;

use loom_tests::stopped::Act;

/// A world to stop in.
pub(crate) struct Scene<W> {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> W,
    /// What may be reported for a moment, whatever comes before and after.
    pub(crate) also: &'static [&'static str],
}

/// What a deed is of, and so whom it may hold up, and wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Changes leaves.
    Change,
    /// Changes accessed and dirty bits, and what is watched.
    Bits,
    /// Only looks.
    Look,
    /// Enters and leaves.
    Guest,
    /// Begins a shoot-down, or changes the list of observers.
    Tell,
    /// Waits for observers.
    Shootdown,
    /// A round of harvests.
    Round,
    /// Changes the structure.
    Structure,
    /// Changes the size of leaves, perhaps over a shoot-down.
    Resize,
}

impl Group {
    pub(crate) const ALL: [Self; 9] = [
        Self::Change,
        Self::Bits,
        Self::Look,
        Self::Guest,
        Self::Tell,
        Self::Shootdown,
        Self::Round,
        Self::Structure,
        Self::Resize,
    ];

    /// Tells whether it waits for nobody.
    pub(crate) fn is_lock_free(self) -> bool {
        matches!(self, Self::Change | Self::Bits | Self::Look | Self::Guest)
    }
}

/// How what a deed does comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At one moment, or not at all.
    Whole,
    /// Page by page.
    Parts,
    /// At one moment, unless it is called off by who comes beside it.
    Unless,
}

/// Something that a thread does, and may stop in.
pub(crate) struct Deed<W> {
    pub(crate) group: Group,
    pub(crate) effect: Effect,
    pub(crate) act: Act<W>,
}

impl<W> Clone for Deed<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Deed<W> {}

/// Where a deed of one of the first groups has stopped, some of each of the others wait for this, and for nothing
/// that is not listed.
pub(crate) struct Wait {
    /// A lock, by the name that it has in the source; or the file in which somebody waits in a loop.
    pub(crate) what: &'static str,
    pub(crate) stopped: &'static [Group],
    pub(crate) waiting: &'static [Group],
}

use Group::{Guest, Resize, Round, Shootdown, Structure, Tell};

const IN_A_TABLE: &[Wait] = &[
    // Who is inside has to come out, or to acknowledge.
    Wait { what: "shootdown", stopped: &[Guest], waiting: &[Shootdown, Resize] },
    // The list of observers. Two rounds, or two changes of structure, do not get that far.
    Wait {
        what: "registry",
        stopped: &[Tell, Shootdown, Round, Structure, Resize],
        waiting: &[Tell, Shootdown, Resize],
    },
    Wait { what: "registry", stopped: &[Tell, Shootdown, Structure, Resize], waiting: &[Round] },
    Wait { what: "registry", stopped: &[Tell, Shootdown, Round, Resize], waiting: &[Structure] },
    Wait { what: "rounds", stopped: &[Round], waiting: &[Round] },
    Wait { what: "writer", stopped: &[Structure, Resize], waiting: &[Structure, Resize] },
    // Looked at when the writer lock is free already.
    Wait { what: "limbo", stopped: &[Structure, Resize], waiting: &[Structure, Resize] },
    Wait { what: "resizes", stopped: &[Resize], waiting: &[Resize] },
];

/// The most steps that a lock-free operation made beside a thread that stopped.
const BOUND: usize = 100;

#[test]
fn a_thread_that_stops_in_a_table_stops_no_lock_free_operation() {
    let sweep = sweep::sweep(tables::SCENES, &tables::deeds(), tables::look);
    sweep.print();
    sweep.check(IN_A_TABLE, BOUND);
}
