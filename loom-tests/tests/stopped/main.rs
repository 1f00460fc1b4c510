//! Invariant 10: a thread that stops for ever, between any two steps of an operation, stops nobody else's
//! lock-free one. One deed stops before each of its steps in turn, in every scene; each other deed has to finish
//! beside it, but for the waits that are listed here.
//!
//! When the other one is done, the first goes on, very late. What both report, and what is left, has to be
//! what would come out if one was done before the other, page by page.
#![cfg(shuttle)]

mod facts;
mod spaces;
mod sweep;
mod table;
mod tables;
mod waits;

use loom_tests::{
    Arc,
    stopped::{Act, Job},
};

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
    Leaf,
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
    /// Resolves a fault that needs nothing slow.
    Fault,
    /// Resolves a fault that needs something slow: a smaller leaf, a copy of the page.
    Slow,
    /// Holds a page.
    Hold,
    /// Asks, or makes pages resident.
    Ask,
    /// Changes regions.
    Region,
}

impl Group {
    pub(crate) const ALL: [Self; 14] = [
        Self::Leaf,
        Self::Bits,
        Self::Look,
        Self::Guest,
        Self::Tell,
        Self::Shootdown,
        Self::Round,
        Self::Structure,
        Self::Resize,
        Self::Fault,
        Self::Slow,
        Self::Hold,
        Self::Ask,
        Self::Region,
    ];

    /// Tells whether it waits for nobody.
    pub(crate) fn is_lock_free(self) -> bool {
        matches!(self, Self::Leaf | Self::Bits | Self::Look | Self::Guest | Self::Fault)
    }
}

/// How what a deed does comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At one moment, or not at all.
    Whole,
    /// Page by page.
    Parts,
    /// Otherwise: it is called off by who comes beside it, or is two operations with a time in between.
    Otherwise,
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

type Ready<W> = fn(&Arc<W>) -> Job;

/// Something that takes effect at one moment.
pub(crate) const fn deed<W>(group: Group, name: &'static str, ready: Ready<W>) -> Deed<W> {
    Deed { group, effect: Effect::Whole, act: Act { name, ready } }
}

/// Something that goes page by page.
pub(crate) const fn parts<W>(group: Group, name: &'static str, ready: Ready<W>) -> Deed<W> {
    Deed { effect: Effect::Parts, ..deed(group, name, ready) }
}

/// Something that comes about otherwise.
pub(crate) const fn otherwise<W>(group: Group, name: &'static str, ready: Ready<W>) -> Deed<W> {
    Deed { effect: Effect::Otherwise, ..deed(group, name, ready) }
}

/// The most steps that a lock-free operation made beside a thread that stopped.
const BOUND: usize = 100;

#[test]
fn a_thread_that_stops_in_a_table_stops_no_lock_free_operation() {
    let sweep = sweep::sweep(tables::SCENES, &tables::deeds(), tables::look);
    sweep.print();
    sweep.check(waits::IN_A_TABLE, BOUND);
}

#[test]
fn a_thread_that_stops_in_a_space_stops_no_fault() {
    let sweep = sweep::sweep(spaces::SCENES, &spaces::deeds(), spaces::look);
    sweep.print();
    sweep.check(waits::IN_A_SPACE, BOUND);
}

#[test]
fn a_thread_that_stops_in_a_slow_fault_stops_those_that_need_the_same() {
    let sweep = sweep::sweep(spaces::SLOW_SCENES, &spaces::slow_deeds(), spaces::look);
    sweep.print();
    sweep.check(waits::IN_A_SLOW_SPACE, BOUND);
}
