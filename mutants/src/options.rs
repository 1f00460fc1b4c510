//! The command line.

use std::{num::NonZeroUsize, path::Path};

use anyhow::Context;
use clap::Parser;

use crate::{
    list::List,
    mutant::{Class, Mutant},
    sample,
};

/// Breaks the source in a scratch copy, one step or ordering at a time, and sees that the tests named for
/// it fail. That they pass as long as nothing is broken is for the other scripts to say.
///
/// Exits with status 0 if each mutant was killed, or survives for a reason that its row gives; 1 if one
/// survived, or its row is wrong; and 2 for bad options, a list that cannot be read, or where something else
/// failed.
#[derive(Debug, Parser)]
#[command(name = "mutants", version)]
pub(crate) struct Options {
    /// Take only mutants whose name contains one of the words
    #[arg(value_name = "WORD")]
    words: Vec<String>,

    /// Take only mutants of this class; may be given more than once
    #[arg(long, value_enum)]
    class: Vec<Class>,

    /// Take so many of those, which follow from the commit: others next time
    #[arg(long, value_name = "N")]
    sample: Option<NonZeroUsize>,

    /// Print what the list holds, and do nothing
    #[arg(long, conflicts_with = "check")]
    list: bool,

    /// See only that what is to be broken is there once, and that each killer exists
    #[arg(long)]
    check: bool,

    /// Break nothing, and see that the killers pass
    #[arg(long, conflicts_with_all = ["list", "check"])]
    unbroken: bool,

    /// How many are built and run at a time, each in a copy of the tree of its own
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    pub(crate) jobs: NonZeroUsize,
}

/// What is to be done with the mutants that were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    List,
    Check,
    Unbroken,
    Run,
}

/// Why there is nothing to do: what picks nothing would be taken for a list that holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NothingChosen {
    #[error("no mutant's name contains `{0}`")]
    Word(String),
    #[error("of the mutants with these words none is of such a class")]
    Class,
}

impl Options {
    pub(crate) fn mode(&self) -> Mode {
        match (self.list, self.check, self.unbroken) {
            (true, _, _) => Mode::List,
            (_, true, _) => Mode::Check,
            (_, _, true) => Mode::Unbroken,
            _ => Mode::Run,
        }
    }

    /// Returns the mutants that are asked for, in the list's order.
    pub(crate) fn choose<'l>(
        &self,
        list: &'l List,
        root: &Path,
    ) -> anyhow::Result<Vec<&'l Mutant>> {
        let is_known =
            |word: &&String| list.mutants.iter().any(|mutant| mutant.name.contains(*word));
        if let Some(word) = self.words.iter().find(|word| !is_known(word)) {
            return Err(NothingChosen::Word(word.clone()).into());
        }
        let named = |mutant: &Mutant| {
            self.words.is_empty() || self.words.iter().any(|word| mutant.name.contains(word))
        };
        let classed = |mutant: &Mutant| self.class.is_empty() || self.class.contains(&mutant.class);
        let chosen: Vec<_> =
            list.mutants.iter().filter(|mutant| named(mutant) && classed(mutant)).collect();
        if chosen.is_empty() {
            return Err(NothingChosen::Class.into());
        }
        match self.sample {
            None => Ok(chosen),
            Some(count) => {
                let commit = sample::commit(root).context("a sample follows from the commit")?;
                Ok(sample::pick(chosen, count.get(), &commit))
            }
        }
    }
}

#[cfg(test)]
mod tests;
