//! Who must notice a mutant: one test, in one build of it.
//!
//! ```text
//! map::SCENARIO               of loom-tests, under loom
//! map::SCENARIO@3             with up to 3 preemptions, where the usual 2 are too few
//! slat::table::claim::model::SCENARIO
//!                             a model inside the library, under loom
//! shuttle map::SCENARIO       of loom-tests, under shuttle
//! --test leaves TEST          of `cargo test`; likewise --lib TEST, and both with --features LIST
//! ```
//!
//! A name of `cargo test` may be a part of one; then some test of those it picks has to fail. The others
//! are whole.

use serde::Deserialize;

/// As many as nearly all mutants need to be noticed, and far fewer than the scenarios' own bounds.
const USUAL_PREEMPTIONS: u32 = 2;

/// A test that must fail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Killer {
    pub(crate) target: Target,
    /// The test's name, or a part of it.
    pub(crate) test: String,
    /// How many preemptions loom may use.
    pub(crate) preemptions: u32,
    /// As the list has it.
    text: String,
}

/// What is built for a test: one executable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) scheduler: Scheduler,
    pub(crate) package: Package,
    pub(crate) part: Part,
    /// As `--features` takes them; empty for none.
    pub(crate) features: String,
}

/// Who runs the threads of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheduler {
    Loom,
    Shuttle,
    /// The machine, as in `cargo test`.
    Machine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Package {
    Slat,
    LoomTests,
}

/// Where in its package a test is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Lib,
    Test(String),
}

/// What is wrong with the text of a killer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KillerError {
    #[error("`{0}` is neither FILE::SCENARIO nor --test FILE TEST")]
    Shape(String),
    #[error("`{0}` says nothing that is known here: --lib, --test FILE, --features LIST")]
    Option(String),
    #[error("`{0}` is no number of preemptions")]
    Preemptions(String),
    #[error("`{0}`: preemptions are for loom alone to count")]
    Uncounted(String),
}

impl Package {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slat => "slat",
            Self::LoomTests => "loom-tests",
        }
    }
}

impl Target {
    /// Tells whether one invocation of cargo can build both.
    pub(crate) fn is_built_with(&self, other: &Self) -> bool {
        let Self { scheduler, package, features, .. } = self;
        (scheduler, package, features) == (&other.scheduler, &other.package, &other.features)
    }
}

/// Returns what picks the targets, all of which can be built together, in an invocation of cargo.
pub(crate) fn arguments<'t>(targets: &[&'t Target]) -> Vec<&'t str> {
    let mut arguments = Vec::new();
    if let Some(Target { package, features, .. }) = targets.first() {
        arguments.extend(["--package", package.name()]);
        if !features.is_empty() {
            arguments.extend(["--features", features]);
        }
    }
    for target in targets {
        match &target.part {
            Part::Lib => arguments.push("--lib"),
            Part::Test(name) => arguments.extend(["--test", name]),
        }
    }
    arguments
}

impl Killer {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Tells whether the test of this name is it, or one that it picks.
    pub(crate) fn picks(&self, test: &str) -> bool {
        if self.is_whole() { self.test == test } else { test.contains(&self.test) }
    }

    /// Tells whether its name is all of a test's.
    pub(crate) fn is_whole(&self) -> bool {
        self.target.scheduler != Scheduler::Machine
    }

    /// Reads a scenario's name.
    fn scenario(scheduler: Scheduler, words: &str, text: &str) -> Result<Self, KillerError> {
        let shape = || KillerError::Shape(text.to_owned());
        let (name, preemptions) = match words.split_once('@') {
            None => (words, USUAL_PREEMPTIONS),
            Some(_) if scheduler != Scheduler::Loom => {
                return Err(KillerError::Uncounted(text.to_owned()));
            }
            Some((name, number)) => {
                let wrong = |_| KillerError::Preemptions(number.to_owned());
                (name, number.parse().map_err(wrong)?)
            }
        };
        let (file, test) = name.split_once("::").ok_or_else(shape)?;
        if file.is_empty() || test.is_empty() || name.contains(char::is_whitespace) {
            return Err(shape());
        }
        let (package, part) = match file {
            "slat" => (Package::Slat, Part::Lib),
            _ => (Package::LoomTests, Part::Test(file.to_owned())),
        };
        let target = Target { scheduler, package, part, features: String::new() };
        Ok(Self { target, test: test.to_owned(), preemptions, text: text.to_owned() })
    }

    /// Reads what `cargo test` would be told.
    fn of_cargo(text: &str) -> Result<Self, KillerError> {
        let shape = || KillerError::Shape(text.to_owned());
        let (mut part, mut features, mut test) = (None, String::new(), None);
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let place = match word {
                "--lib" => part.replace(Part::Lib).is_some(),
                "--test" => {
                    let file = words.next().ok_or_else(shape)?;
                    part.replace(Part::Test(file.to_owned())).is_some()
                }
                "--features" => {
                    features = words.next().ok_or_else(shape)?.to_owned();
                    false
                }
                _ if word.starts_with('-') => return Err(KillerError::Option(word.to_owned())),
                _ => test.replace(word).is_some(),
            };
            if place {
                return Err(shape());
            }
        }
        let (part, test) = part.zip(test).ok_or_else(shape)?;
        let target =
            Target { scheduler: Scheduler::Machine, package: Package::Slat, part, features };
        let (test, text) = (test.to_owned(), text.to_owned());
        Ok(Self { target, test, preemptions: USUAL_PREEMPTIONS, text })
    }
}

impl TryFrom<String> for Killer {
    type Error = KillerError;

    fn try_from(text: String) -> Result<Self, KillerError> {
        if text.starts_with('-') {
            return Self::of_cargo(&text);
        }
        match text.strip_prefix("shuttle ") {
            Some(name) => Self::scenario(Scheduler::Shuttle, name, &text),
            None => Self::scenario(Scheduler::Loom, &text, &text),
        }
    }
}

#[cfg(test)]
mod tests;
