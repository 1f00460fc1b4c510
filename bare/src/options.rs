//! What the run is asked for, on the image's command line: words `name=value`.
//!
//! | word | |
//! | --- | --- |
//! | `rounds=N` | how often the cases beside running guests do what they do (default 20) |
//! | `case=TEXT` | only the cases whose names have this in them |
//! | `flush=no` | shoot-downs are dropped: it must fail |
//! | `levels=5` | five levels of tables; as the last word, since it is read before there is long mode |

use crate::machine::loader;

/// The options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
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

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// The word that means nothing.
    pub(crate) fn read() -> Result<Self, &'static str> {
        let mut options = Self { rounds: 20, only: "", flush: Flushing::Served };
        // The first word is the image's name.
        for word in loader::command_line().split_ascii_whitespace().skip(1) {
            match word.split_once('=') {
                Some(("rounds", rounds)) => options.rounds = rounds.parse().map_err(|_| word)?,
                Some(("case", only)) => options.only = only,
                Some(("flush", "no")) => options.flush = Flushing::Dropped,
                Some(("levels", "4" | "5")) => {}
                _ => return Err(word),
            }
        }
        Ok(options)
    }
}
