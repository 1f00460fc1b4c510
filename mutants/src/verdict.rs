//! What counts as killed.
//!
//! A mutant is killed if each of its killers ran and failed. One that does not build, or whose killer does
//! not exist, is a mistake in the list, and never killed; nor is one whose killer did not come to an end,
//! unless the row says that this is how it shows.

use crate::{attempt::Outcome, killer::Killer, mutant::Mutant};

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Killed,
    /// These did not notice, or did not come to an end.
    Survived(Vec<Unnoticed>),
    /// Nobody noticed, as the row says, for this reason.
    Argued(String),
    Wrong(Mistake),
}

/// A killer that did not kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unnoticed {
    pub(crate) killer: String,
    pub(crate) why: Blind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blind {
    Passed,
    TimedOut,
}

/// A mistake in the list that shows only when the mutant is built and run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mistake {
    #[error("does not build:\n{0}")]
    DoesNotBuild(String),
    #[error("no test is called {0}")]
    NoTest(String),
    #[error("its row says that nobody can notice, but {0} does")]
    KilledAfterAll(String),
    #[error("{0} notices already that what hides it is gone")]
    NotHidden(String),
    #[error("its row says that nobody can notice, but {0} did not come to an end")]
    Unclear(String),
}

impl Verdict {
    /// Judges what came of each killer when what hides the mutant was gone, and nothing else: it is wrong
    /// unless all passed.
    pub(crate) fn of_uncovered(mutant: &Mutant, outcomes: &[Outcome]) -> Option<Self> {
        let mut named = mutant.killers.iter().map(Killer::text).zip(outcomes);
        let (killer, outcome) = named.find(|(_, outcome)| **outcome != Outcome::Passed)?;
        let mistake = match outcome {
            Outcome::Missing => Mistake::NoTest(killer.to_owned()),
            _ => Mistake::NotHidden(killer.to_owned()),
        };
        Some(Self::Wrong(mistake))
    }

    /// Judges by what came of each killer.
    pub(crate) fn of(mutant: &Mutant, outcomes: &[Outcome]) -> Self {
        assert_eq!(mutant.killers.len(), outcomes.len(), "an outcome for each killer");
        let named = || mutant.killers.iter().map(Killer::text).zip(outcomes.iter().copied());
        let first = |wanted| {
            let mut found = named().filter(|(_, outcome)| *outcome == wanted);
            found.next().map(|(killer, _)| killer.to_owned())
        };
        if let Some(killer) = first(Outcome::Missing) {
            return Self::Wrong(Mistake::NoTest(killer));
        }
        if let Some(why) = &mutant.survives {
            let mistake = first(Outcome::Failed).map(Mistake::KilledAfterAll);
            let mistake = mistake.or_else(|| first(Outcome::TimedOut).map(Mistake::Unclear));
            return mistake.map_or_else(|| Self::Argued(why.clone()), Self::Wrong);
        }
        let blind: Vec<_> = named()
            .filter_map(|(killer, outcome)| {
                let why = match outcome {
                    Outcome::Passed => Blind::Passed,
                    Outcome::TimedOut if !mutant.hangs => Blind::TimedOut,
                    _ => return None,
                };
                Some(Unnoticed { killer: killer.to_owned(), why })
            })
            .collect();
        if blind.is_empty() { Self::Killed } else { Self::Survived(blind) }
    }

    /// Tells whether somebody has to look after it.
    pub(crate) const fn is_bad(&self) -> bool {
        matches!(self, Self::Survived(_) | Self::Wrong(_))
    }
}

#[cfg(test)]
mod tests;
