//! The exceptions: what the library may answer though no order explains it.
//!
//! All of them are about a map that *comes too late* (docs/THEORY.md, "Vacate"): its leaf stands, for a
//! moment, in a table that a vacate takes out of the tree, and nobody but those who are in that table
//! already, and so began before the vacate answered, comes upon it. The map says `Vacated` and has mapped
//! nothing; or an unmap takes the leaf out, and then both count as done before the vacate.

mod leaf;
#[cfg(test)]
mod tests;

use self::leaf::{LateLeaf, Mark, taken};
use super::{
    At, History, Operation,
    call::{Answer, Call, Rights},
    spec::{Action, Script, Step},
};

/// What the order of a history needs besides the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exception {
    /// *A late leaf was met.* A lookup may show, and a change of rights or bits may change, the leaf of a
    /// map that comes too late, until that map returns. What was changed perishes with the leaf, or is in
    /// what the map, or the unmap that takes it out, says of its bits.
    LateLeaf,
    /// *Answers of late maps were exchanged.* Of two maps of one page to one frame that both come too late,
    /// with an unmap between them, as many say `New` as were unmapped; but perhaps the wrong one.
    Exchanged,
}

/// Which exceptions a search allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceptions {
    None,
    LateLeaves,
    All,
}

impl Exceptions {
    /// From none to all: the first that will do is what the history needs.
    pub(super) const ALL: [Self; 3] = [Self::None, Self::LateLeaves, Self::All];

    pub(super) fn named(self) -> Option<Exception> {
        match self {
            Self::None => None,
            Self::LateLeaves => Some(Exception::LateLeaf),
            Self::All => Some(Exception::Exchanged),
        }
    }

    /// Adds to the script of the operation at `at` what the exceptions allow it; `None` if it could not answer
    /// what it did beside those that it ran with.
    pub(super) fn allow(self, history: &History, at: At, mut script: Script) -> Option<Script> {
        if history.get(at).answer == Answer::Busy && !was_disturbed(history, at) {
            return None;
        }
        if self != Self::None {
            for ways in &mut script.steps {
                ways.extend(late_ways(history, at, ways[0]));
            }
        }
        if self == Self::All {
            for ways in &mut script.steps {
                ways.extend(exchanged_way(history, at, ways[0]));
            }
        }
        Some(script)
    }
}

/// Tells whether somebody mapped pages beside a vacate that gave up.
fn was_disturbed(history: &History, vacate: At) -> bool {
    let Call::Vacate(span) = history.get(vacate).call else { return false };
    history.all().any(|other| {
        let Operation { call, answer, .. } = history.get(other);
        let maps = matches!(*call, Call::Map { page, .. } if span.contains(page));
        let mapped = matches!(answer, Answer::New | Answer::Vacated { .. });
        maps && mapped && history.overlap(vacate, other)
    })
}

/// Returns the vacates that took `page` away beside the operation at `at`.
fn vacates(history: &History, at: At, page: usize) -> impl Iterator<Item = At> {
    history.all().filter(move |&other| {
        let vacate = history.get(other);
        matches!(vacate.call, Call::Vacate(span) if span.contains(page))
            && vacate.answer == Answer::Done
            && history.overlap(at, other)
    })
}

/// Tells whether the operation at `at` maps `page`, and may have come too late for the vacate.
fn is_late(history: &History, at: At, page: usize, vacate: At) -> bool {
    let map = history.get(at);
    let Call::Map { page: of, frame, .. } = map.call else { return false };
    if of != page || !history.overlap(at, vacate) {
        return false;
    }
    let was_taken = || {
        let beside = |&other: &At| history.overlap(at, other) && history.overlap(vacate, other);
        history.all().filter(beside).any(|other| taken(history, other, page, frame).is_some())
    };
    match map.answer {
        Answer::Vacated { .. } => true,
        Answer::New => was_taken(),
        _ => false,
    }
}

/// Returns the late leaves that the operation at `at` may have met in `page`.
fn late_leaves(history: &History, at: At, page: usize) -> Vec<LateLeaf<'_>> {
    let mut leaves = Vec::new();
    for vacate in vacates(history, at, page) {
        let beside = history.all().filter(|&other| history.overlap(at, other));
        let late = beside.filter(|&map| is_late(history, map, page, vacate));
        leaves.extend(late.filter_map(|map| LateLeaf::of(history, map)));
    }
    leaves
}

/// Returns the ways in which a step can be taken otherwise, if it was on a late leaf.
fn late_ways(history: &History, at: At, step: Step) -> Vec<Step> {
    let Step::On(page, action, said) = step else { return Vec::new() };
    let met = late_leaves(history, at, page);
    let one = |may: &dyn Fn(&LateLeaf<'_>) -> bool| met.iter().any(may);
    let writable = |late: &LateLeaf<'_>| late.may_allow(Rights::All, at);
    let may = match (action, said) {
        (Action::Lookup, Answer::Was(leaf)) => one(&|late| late.may_be(leaf, at)),
        (Action::Translate, Answer::Run(frame, _))
        | (Action::Continues(frame), Answer::Bit(true)) => {
            one(&|late| late.frame == frame && writable(late))
        }
        (Action::Translate | Action::Write, Answer::Denied) => {
            one(&|late| late.may_allow(Rights::Read, at))
        }
        (Action::Read, Answer::Run(frame, _)) => {
            one(&|late| late.frame == frame && late.is_told(Mark::Accessed))
        }
        (Action::Write, Answer::Run(frame, _)) => one(&|late| {
            let told = late.is_told(Mark::Accessed) && late.is_told(Mark::Dirty);
            late.frame == frame && writable(late) && told
        }),
        (Action::SetDirty, Answer::Changed(1)) => {
            one(&|late| writable(late) && late.is_told(Mark::Dirty))
        }
        (Action::NoteDirty, Answer::Bit(false)) => one(&|late| late.is_told(Mark::Dirty)),
        (Action::NoteDirty | Action::ClearDirty, Answer::Bit(true)) => {
            one(&|late| late.may_have(Mark::Dirty, at))
        }
        (Action::SetAccessed | Action::ClearAccessed, Answer::Bit(true)) => {
            one(&|late| late.may_have(Mark::Accessed, at))
        }
        (Action::Protect(rights), Answer::Changed(1)) => {
            one(&|late| late.may_allow(rights.other(), at) && late.may_lose(rights))
        }
        // Who met it before may have left something there.
        (Action::Unmap, Answer::Was(leaf)) => {
            let given = |late: &LateLeaf<'_>| late.may_be_given(leaf.rights, at);
            let before = |rights| rights == leaf.rights || one(&given);
            let known = [Rights::Read, Rights::All].into_iter().filter(|&rights| before(rights));
            let taken = known.map(|rights| Step::Taken(page, leaf, rights));
            return if one(&|late| late.may_be(leaf, at)) { taken.collect() } else { Vec::new() };
        }
        (Action::Map(leaf), Answer::Vacated { accessed, dirty }) => {
            let clean = Answer::Vacated { accessed: false, dirty: false };
            let left = LateLeaf::of(history, at).filter(|late| late.may_leave(accessed, dirty));
            return left.map(|_| Step::On(page, Action::Map(leaf), clean)).into_iter().collect();
        }
        _ => false,
    };
    Vec::from_iter(may.then_some(Step::Nothing))
}

/// Returns how a late map does what another's answer says.
fn exchanged_way(history: &History, at: At, step: Step) -> Option<Step> {
    let Step::On(page, Action::Map(leaf), said) = step else { return None };
    let same = |at: At| {
        let call = history.get(at).call;
        matches!(call, Call::Map { page: of, frame, .. } if (of, frame) == (page, leaf.frame))
    };
    let other_says = |wanted: fn(Answer) -> bool| {
        let wanted = |other: At| same(other) && wanted(history.get(other).answer);
        vacates(history, at, page).any(|vacate| {
            let beside = |other| history.overlap(at, other) && history.overlap(vacate, other);
            history.all().any(|other| wanted(other) && beside(other))
        })
    };
    match said {
        Answer::Vacated { accessed, dirty } => {
            let may = LateLeaf::of(history, at)?.may_leave(accessed, dirty);
            let lends = may && other_says(|said| said == Answer::New);
            lends.then_some(Step::Lend(page, leaf))
        }
        Answer::New => {
            let late = |said| matches!(said, Answer::Vacated { .. });
            other_says(late).then_some(Step::Borrow(page))
        }
        _ => None,
    }
}
