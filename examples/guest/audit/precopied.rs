//! What a precopy has to have done.

use serde::Serialize;
use slat::{Collapsed, Gpa, GpaRange, Heat, PAGE_BYTES, PageSize};

use super::Audit;
use crate::{
    deeds::Bits,
    heat,
    machine::Machine,
    precopy::{Copied, Round},
};

/// What became of memory that was copied while vCPUs wrote to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Precopied {
    /// The last is the one for which the vCPUs stood still.
    pub(crate) rounds: Vec<CopyRound>,
    pub(crate) kicks: u64,
    /// For how long the vCPUs stood still, in seconds.
    pub(crate) stopped_seconds: f64,
    /// Large leaves that were split, and made again; and tables of small leaves that could not become one.
    pub(crate) split: u64,
    pub(crate) collapsed: u64,
    pub(crate) kept_small: u64,
    /// Pages of which the copy differs from memory, and the bytes that do.
    pub(crate) wrong_pages: u64,
    pub(crate) wrong_bytes: u64,
}

/// One round of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CopyRound {
    pub(crate) dirty_pages: u64,
    pub(crate) copied_bytes: u64,
    pub(crate) seconds: f64,
    /// How much of each part of memory was dirty.
    #[serde(serialize_with = "heat::serialize")]
    pub(crate) density: Heat,
}

impl From<&Round> for CopyRound {
    fn from(round: &Round) -> Self {
        Self {
            dirty_pages: round.dirty,
            copied_bytes: round.copied * PAGE_BYTES,
            seconds: round.time.as_secs_f64(),
            density: round.row.clone(),
        }
    }
}

impl Precopied {
    fn new(copied: &Copied, kicks: u64) -> Self {
        Self {
            rounds: copied.rounds.iter().map(CopyRound::from).collect(),
            kicks,
            stopped_seconds: copied.stopped.as_secs_f64(),
            split: copied.split,
            collapsed: copied.collapsed.leaves,
            kept_small: copied.collapsed.kept,
            wrong_pages: copied.wrong.len() as u64,
            wrong_bytes: copied.wrong.iter().map(|(_, bytes)| bytes).sum(),
        }
    }
}

impl Copied {
    /// Returns what the copier saw and cleared in the entries of a leaf.
    pub(super) fn said_of(&self, leaf: GpaRange) -> Bits {
        let mut pages = (leaf.start().get()..=leaf.last().get()).step_by(PAGE_BYTES as usize);
        let dirty = pages.any(|gpa| self.ever_dirty.contains(Gpa::new(gpa)));
        Bits { accessed: false, dirty }
    }
}

impl Audit {
    /// Checks that the copy is what memory was when the vCPUs stood still.
    pub(super) fn check_precopy(&mut self, machine: &Machine<'_>, copied: &Copied) {
        if let Some(stuck) = &copied.stuck {
            self.complain(format!("the copier stopped: {stuck}"));
        }
        for (gpa, bytes) in &copied.wrong {
            self.complain(format!("{bytes} bytes of the copy of {gpa} are not what was written"));
        }
        let Collapsed { leaves, kept, .. } = copied.collapsed;
        if machine.layout.granule() == PageSize::Size2M && copied.stuck.is_none() {
            // What was mapped before had to be split, and the rest had to get tables.
            let tables = machine.layout.mapped() as u64 / PageSize::Size2M.pages();
            self.compare(&[("tables that were to become leaves again", leaves + kept, tables)]);
        }
        self.precopy = Some(Precopied::new(copied, machine.kicks.sent()));
    }
}

#[cfg(test)]
mod tests;
