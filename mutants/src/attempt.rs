//! Runs the killers of a mutant that is built, and says of each what came of it.
//!
//! Those of one executable run in one process. Whoever brings that down, or never ends, hides what the
//! others would have said: who has said nothing then runs alone.

use std::time::Duration;

use crate::{
    killer::{Killer, Target},
    output::{self, Ended},
};

/// What came of one killer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It failed: it noticed.
    Failed,
    /// It did not notice.
    Passed,
    /// It was stopped when its time was over.
    TimedOut,
    /// There is no such test.
    Missing,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failure,
    /// It was killed when its time was over.
    TimedOut,
}

/// What is left of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) exit: Exit,
    pub(crate) printed: String,
}

/// Whatever runs tests of a target.
pub(crate) trait Processes {
    /// Runs the tests that the killers of one target name, with the same number of preemptions.
    fn run(&mut self, killers: &[&Killer], limit: Duration) -> anyhow::Result<Remains>;
}

/// Runs all of the killers; returns an outcome for each.
pub(crate) fn outcomes(
    killers: &[Killer],
    limit: Duration,
    processes: &mut impl Processes,
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = vec![None; killers.len()];
    for group in groups(killers) {
        let members: Vec<_> = group.iter().map(|&index| &killers[index]).collect();
        let remains = processes.run(&members, limit)?;
        for &index in &group {
            outcomes[index] = said(&killers[index], &remains);
        }
        let silent: Vec<_> = group.iter().copied().filter(|&i| outcomes[i].is_none()).collect();
        for index in silent {
            let killer = &killers[index];
            let alone = match group.len() {
                1 => remains.clone(),
                _ => processes.run(&[killer], limit)?,
            };
            outcomes[index] = said(killer, &alone).or_else(|| Some(silence(alone.exit)));
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Returns the killers' indices, those together that can run in one process.
fn groups(killers: &[Killer]) -> Vec<Vec<usize>> {
    // A name that is a part of one might pick what another one names.
    let place = |killer: &Killer| -> (Target, u32, Option<String>) {
        let part = (!killer.is_whole()).then(|| killer.test.clone());
        (killer.target.clone(), killer.preemptions, part)
    };
    let mut groups: Vec<(_, Vec<usize>)> = Vec::new();
    for (index, killer) in killers.iter().enumerate() {
        let place = place(killer);
        match groups.iter_mut().find(|(other, _)| *other == place) {
            Some((_, group)) => group.push(index),
            None => groups.push((place, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Returns what a process said of a killer, if it said anything.
fn said(killer: &Killer, remains: &Remains) -> Option<Outcome> {
    let ended = output::ended_tests(&remains.printed);
    let mut picked = ended.iter().filter(|(name, _)| killer.picks(name)).map(|(_, ended)| *ended);
    let first = picked.next()?;
    if first == Ended::Failed || picked.any(|ended| ended == Ended::Failed) {
        return Some(Outcome::Failed);
    }
    // Of those that it picks another one may not have come to its end.
    (killer.is_whole() || remains.exit == Exit::Success).then_some(Outcome::Passed)
}

/// Says what it means that a process in which a killer ran alone said nothing of it.
const fn silence(exit: Exit) -> Outcome {
    match exit {
        Exit::Success => Outcome::Missing,
        // It took the process with it.
        Exit::Failure => Outcome::Failed,
        Exit::TimedOut => Outcome::TimedOut,
    }
}

#[cfg(test)]
mod tests;
