//! The exceptions: what the library may answer though no order explains it.
//!
//! All of them are about a map that *comes too late* (docs/THEORY.md, "Vacate"): its leaf stands, for a
//! moment, in a table that a vacate takes out of the tree, and nobody but those who are in that table
//! already, and so began before the vacate answered, comes upon it. The map says `Vacated` and has mapped
//! nothing; or an unmap takes the leaf out, and then both count as done before the vacate.

use super::{
    At, History,
    call::{Answer, Call},
    spec::{Action, Script, Step},
};

#[cfg(test)]
mod tests;

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
                ways.extend(late_way(history, at, ways[0]));
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
        let maps = matches!(history.get(other).call, Call::Map { page, .. } if span.contains(page));
        maps && history.overlap(vacate, other)
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

/// Tells whether the operation at `at` unmapped `page` from `frame`.
fn took(history: &History, at: At, page: usize, frame: u16) -> bool {
    let unmap = history.get(at);
    match (unmap.call, unmap.answer) {
        (Call::Unmap(of), Answer::Was(leaf)) => of == page && leaf.frame == frame,
        (Call::UnmapRange(_), Answer::Leaves(leaves)) => {
            leaves[page].is_some_and(|leaf| leaf.frame == frame)
        }
        _ => false,
    }
}

/// Returns the frame to which the operation at `at` maps `page`, if it does so and may have come too late
/// for the vacate.
fn late_frame(history: &History, at: At, page: usize, vacate: At) -> Option<u16> {
    let map = history.get(at);
    let Call::Map { page: of, frame, .. } = map.call else { return None };
    if of != page || !history.overlap(at, vacate) {
        return None;
    }
    let was_taken = || {
        let beside = |&other: &At| history.overlap(at, other) && history.overlap(vacate, other);
        history.all().filter(beside).any(|other| took(history, other, page, frame))
    };
    match map.answer {
        Answer::Vacated { .. } => Some(frame),
        Answer::New => was_taken().then_some(frame),
        _ => None,
    }
}

/// Returns the maps whose late leaves the operation at `at` may have met in `page`, and their frames.
fn late_maps(history: &History, at: At, page: usize) -> Vec<(At, u16)> {
    let mut maps = Vec::new();
    for vacate in vacates(history, at, page) {
        let beside = history.all().filter(|&other| history.overlap(at, other));
        let frame = |other| Some((other, late_frame(history, other, page, vacate)?));
        maps.extend(beside.filter_map(frame));
    }
    maps
}

/// Returns how a step can be taken otherwise, if it was on a late leaf.
fn late_way(history: &History, at: At, step: Step) -> Option<Step> {
    let Step::On(page, action, said) = step else { return None };
    let met = late_maps(history, at, page);
    let of = |wanted| met.iter().any(|&(_, frame)| frame == wanted);
    let nothing = |may: bool| may.then_some(Step::Nothing);
    match (action, said) {
        (Action::Lookup, Answer::Was(leaf)) => nothing(of(leaf.frame)),
        (Action::Translate, Answer::Run(frame, _)) => nothing(of(frame)),
        (Action::Continues(frame), Answer::Bit(true)) => nothing(of(frame)),
        (Action::Read | Action::Write, Answer::Run(frame, _)) => {
            let told = |map| is_told(history, map, page, action);
            nothing(met.iter().any(|&(map, of)| of == frame && told(map)))
        }
        (Action::SetDirty, Answer::Changed(1)) | (Action::NoteDirty, Answer::Bit(_)) => {
            nothing(met.iter().any(|&(map, _)| is_told(history, map, page, action)))
        }
        (Action::Protect(_), Answer::Changed(1))
        | (Action::ClearDirty | Action::SetAccessed | Action::ClearAccessed, Answer::Bit(true))
        | (Action::Translate | Action::Write, Answer::Denied) => nothing(!met.is_empty()),
        // Who met it before may have left something there.
        (Action::Unmap, Answer::Was(leaf)) => {
            let touched = |map| history.all().any(|other| touches(history, other, page, map));
            let left = met.iter().any(|&(map, frame)| frame == leaf.frame && touched(map));
            left.then_some(Step::Taken(page, leaf.frame))
        }
        (Action::Map(leaf), Answer::Vacated { .. }) => {
            let clean = Answer::Vacated { accessed: false, dirty: false };
            let touched = history.all().any(|other| touches(history, other, page, at));
            touched.then_some(Step::On(page, Action::Map(leaf), clean))
        }
        _ => None,
    }
}

/// Tells whether somebody says of a bit that was set in the late leaf of the map at `map`: the map itself; an
/// unmap, and then the map is new; or who cleared it.
fn is_told(history: &History, map: At, page: usize, set: Action) -> bool {
    let Answer::Vacated { accessed, dirty } = history.get(map).answer else { return true };
    let by_map = match set {
        Action::Read => accessed,
        Action::Write => accessed && dirty,
        _ => dirty,
    };
    let clears = |other| match history.get(other).call {
        Call::ClearDirty(of) | Call::ClearAccessed(of) => of == page,
        Call::Harvest(span) => span.contains(page),
        _ => false,
    };
    by_map || history.all().any(|other| clears(other) && history.overlap(other, map))
}

/// Tells whether the operation at `other` may have changed the late leaf of the map at `map`.
fn touches(history: &History, other: At, page: usize, map: At) -> bool {
    let changes = match history.get(other).call {
        Call::Protect(of, _)
        | Call::NoteDirty(of)
        | Call::Read(of)
        | Call::Write(of)
        | Call::SetDirty(of)
        | Call::ClearDirty(of)
        | Call::SetAccessed(of)
        | Call::ClearAccessed(of) => of == page,
        Call::Harvest(span) => span.contains(page),
        _ => false,
    };
    changes && history.overlap(other, map)
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
        Answer::Vacated { .. } => {
            other_says(|said| said == Answer::New).then_some(Step::Lend(page, leaf))
        }
        Answer::New => {
            let late = |said| matches!(said, Answer::Vacated { .. });
            other_says(late).then_some(Step::Borrow(page))
        }
        _ => None,
    }
}
