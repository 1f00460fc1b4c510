//! A mutant: what is broken, and who must notice.

use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

use crate::{edit::Edit, killer::Killer};

/// One row of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Mutant {
    /// What is wrong in it, in words that no other row has.
    pub(crate) name: String,
    pub(crate) class: Class,
    /// Edits that several rows share, by name; they come before the row's own.
    #[serde(default)]
    pub(crate) shared: Vec<String>,
    /// Shared edits without which the rest of them is hidden: made first, and alone, they must be noticed by
    /// no killer.
    #[serde(default)]
    pub(crate) hidden_by: Vec<String>,
    /// What these edits are.
    #[serde(skip)]
    pub(crate) uncover: Vec<Edit>,
    /// What is changed, one after the other.
    #[serde(default)]
    pub(crate) edits: Vec<Edit>,
    /// Who must notice: every one of them. With `survives`, who comes nearest, and must not.
    pub(crate) killers: Vec<Killer>,
    /// How long a killer may take.
    #[serde(default = "usual_limit")]
    pub(crate) seconds: u64,
    /// What is wrong shows in that a killer does not end.
    #[serde(default)]
    pub(crate) hangs: bool,
    /// Why nobody can notice.
    #[serde(default)]
    pub(crate) survives: Option<String>,
}

const fn usual_limit() -> u64 {
    120
}

impl Mutant {
    /// Makes a row that breaks nothing.
    pub(crate) fn unbroken(name: String, killers: Vec<Killer>) -> Self {
        Self {
            name,
            class: Class::Model,
            shared: Vec::new(),
            hidden_by: Vec::new(),
            uncover: Vec::new(),
            edits: Vec::new(),
            killers,
            seconds: usual_limit(),
            hangs: false,
            survives: None,
        }
    }

    pub(crate) const fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What kind of mistake a mutant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Class {
    /// An ordering is weaker than it has to be
    Ordering,
    /// The fence of one side is missing
    PairHalf,
    /// A load and a store stand where an exchange has to be
    TornExchange,
    /// Who lost an exchange does not look again
    NoRetry,
    /// What a walk decides by is read at the wrong time
    ShapeLate,
    /// The generation is read at the wrong time
    GenerationEarly,
    /// Others are not told: the generation stays as it was
    NoBump,
    /// Something is reached, or freed, whose pins have not ended
    NoPin,
    /// Observers, or who else may be under way, are not waited for
    NoWait,
    /// A lock is not taken, or not long enough
    NoLock,
    /// Something lock-free waits for another thread
    Waits,
    /// What processors have cached is not flushed
    NoFlush,
    /// Who waits is not woken
    NoWake,
    /// A step is not done
    StepDropped,
    /// A step is done too early or too late
    StepReordered,
    /// A condition is not looked at, or a wrong one
    WrongCondition,
    /// A bit of an entry is wrong, or lost
    WrongBit,
    /// What says that nothing is to be done says it wrongly
    CleanFlag,
    /// A round forgets what processors have still cached, or what another round needs
    Carry,
    /// A wrong level
    Level,
    /// A wrong mask
    Mask,
    /// A range ends in a wrong place
    RangeEnd,
    /// A number is not counted right
    Count,
    /// A means of the models themselves is missing
    Model,
}

impl Class {
    /// Returns its name in the list and on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
