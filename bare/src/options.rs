//! What the run is asked for, on the image's command line: words `name=value`.
//!
//! | word | |
//! | --- | --- |
//! | `processors=N` | how many of the machine's are used, 16 at most (default 1) |
//! | `rounds=N` | how often the cases beside running guests do what they do (default 20) |
//! | `case=TEXT` | only the cases whose names have this in them, with hyphens for spaces |
//! | `flush=no` | shoot-downs are dropped: it must fail |
//! | `levels=5` | five levels of tables; as the last word, since it is read before there is long mode |

use core::{fmt, ops::RangeInclusive};

use crate::machine::{loader, processors};

/// More would overflow nothing, but take for ever.
const ROUNDS: RangeInclusive<u64> = 1..=1_000_000;
const PROCESSORS: RangeInclusive<u64> = 1..=processors::MOST as u64;

/// The options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) processors: u32,
    pub(crate) rounds: u64,
    pub(crate) only: &'static str,
    pub(crate) flush: Flushing,
}

/// What is done about translations that became stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    Served,
    /// Nothing, to see whether anybody notices.
    Dropped,
}

/// Why a word of the command line cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadOption {
    Unknown(&'static str),
    /// The number is none of these.
    Number(&'static str, RangeInclusive<u64>),
    /// The number is no power of two.
    NoPower(&'static str),
    /// It was read before there was long mode, and was not found.
    NotLast(&'static str),
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "there is no option {word}"),
            Self::Number(word, range) => {
                write!(f, "{word}: it takes a number from {} to {}", range.start(), range.end())
            }
            Self::NoPower(word) => write!(f, "{word}: it takes a power of two"),
            Self::NotLast(word) => write!(f, "{word} has to be the last word"),
        }
    }
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// The first word that cannot be.
    pub(crate) fn read() -> Result<Self, BadOption> {
        let line = loader::command_line();
        let mut options = Self { processors: 1, rounds: 20, only: "", flush: Flushing::Served };
        // The first word is the image's name.
        for word in line.split_ascii_whitespace().skip(1) {
            match word.split_once('=') {
                Some(("processors", count)) => options.processors = processors(word, count)?,
                Some(("rounds", rounds)) => options.rounds = number(word, rounds, ROUNDS)?,
                Some(("case", only)) => options.only = only,
                Some(("flush", "no")) => options.flush = Flushing::Dropped,
                Some(("levels", levels)) => check_levels(line, word, levels)?,
                _ => return Err(BadOption::Unknown(word)),
            }
        }
        Ok(options)
    }
}

/// Reads how many processors there are.
pub(crate) fn processors(word: &'static str, digits: &str) -> Result<u32, BadOption> {
    Ok(number(word, digits, PROCESSORS)? as u32)
}

/// Looks whether the levels, which were read before there was long mode, were found.
pub(crate) fn check_levels(line: &str, word: &'static str, levels: &str) -> Result<(), BadOption> {
    match levels {
        "4" => Ok(()),
        "5" if line.ends_with(word) => Ok(()),
        "5" => Err(BadOption::NotLast(word)),
        _ => Err(BadOption::Unknown(word)),
    }
}

/// Reads a number that has to be in a range.
pub(crate) fn number(
    word: &'static str,
    digits: &str,
    range: RangeInclusive<u64>,
) -> Result<u64, BadOption> {
    let number = digits.parse().ok().filter(|number| range.contains(number));
    number.ok_or(BadOption::Number(word, range))
}
