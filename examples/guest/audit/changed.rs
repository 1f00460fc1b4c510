//! What managers have to have done to memory that came and went, moved, or was mapped by leaves of another size.

use serde::Serialize;
use slat::{Format, GpaRange};

use super::{Audit, reclaim, table_frames};
use crate::{
    layout::tables,
    machine::{Machine, Run},
    manager::{Change, Manager},
};

/// What became of memory that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Migrated {
    /// Regions whose pages were moved.
    pub(crate) rounds: u64,
    /// Pages that were copied while they could be read, and such that were unmapped first.
    pub(crate) copied: u64,
    pub(crate) unmapped_first: u64,
    pub(crate) kicks: u64,
    /// Accesses through translations that should have been gone.
    pub(crate) stale: u64,
}

/// What became of large leaves that were split and made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Resizing {
    /// Leaves that were split, and made again.
    pub(crate) split: u64,
    /// Pages that were reported as dirty, also as parts of large leaves.
    pub(crate) dirty_pages: u64,
    /// Splits that had to wait for the tables of a decoy.
    pub(crate) waited: u64,
    /// Pages that were found to have changed since they were copied, and not to be dirty.
    pub(crate) unmarked_pages: u64,
    /// Words of the copy, of what was reported as dirty, that are not what was written.
    pub(crate) wrong_words: u64,
}

/// What became of memory that came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Churned {
    /// Regions that were taken away.
    pub(crate) rounds: u64,
    /// Pages that were unmapped for that.
    pub(crate) unmapped: u64,
    pub(crate) kicks: u64,
    /// Accesses through translations that should have been gone.
    pub(crate) stale: u64,
    /// How many times data frames were handed out, and given back when all memory was taken away.
    pub(crate) frames_handed_out: u64,
    pub(crate) frames_given_back: u64,
    /// Tables that were left then: the root, and those of KVM's guest itself; and such as waited still:
    /// none.
    pub(crate) tables_left: u64,
    pub(crate) tables_waiting: u64,
}

impl Audit {
    pub(super) fn check_migrate(&mut self, machine: &Machine<'_>, run: &Run, rounds: u64) {
        let journal = machine.memory.journal();
        let migrated = Migrated {
            rounds: rounds_of(run),
            copied: journal.copied,
            unmapped_first: journal.unmapped_first,
            kicks: machine.kicks.sent(),
            stale: run.total().stale,
        };
        let moved = migrated.copied + migrated.unmapped_first;
        let leaves = journal.moved.iter().filter_map(|&(stay, _)| machine.memory.tenant(stay));
        let given_back = leaves.map(GpaRange::pages).sum();
        drop(journal);
        self.compare(&[
            ("regions that were moved", migrated.rounds, rounds),
            ("pages that were moved", given_back, moved),
        ]);
        self.migrate = Some(migrated);
    }

    /// Copies what is still dirty, now that all stand still, and checks that the copy is what memory is.
    pub(super) fn check_resize(&mut self, machine: &Machine<'_>, run: &Run) {
        if machine.change != Some(Change::Resize) {
            return;
        }
        let mut resizing = Resizing::default();
        for (number, manager) in run.managers.iter().enumerate() {
            let Some(resized) = &manager.resized else { continue };
            resizing.split += resized.split;
            resizing.dirty_pages += resized.dirty;
            resizing.waited += resized.waited;
            resizing.unmarked_pages += resized.unmarked;
            let regions = (number..machine.layout.regions().len()).step_by(run.managers.len());
            for region in regions.filter(|&region| machine.layout.decoy(region).is_none()) {
                let range = machine.layout.regions()[region];
                if let Err(stuck) = resized.copy_dirty(machine, range) {
                    self.complain(format!("the last look for dirty pages failed: {stuck}"));
                }
                for (gpa, words) in resized.differing(machine, range).filter(|it| it.1 > 0) {
                    self.complain(format!(
                        "{words} words of the copy of {gpa} are not what was written"
                    ));
                    resizing.wrong_words += words;
                }
            }
        }
        self.compare(&[("pages that changed and were not dirty", resizing.unmarked_pages, 0)]);
        self.resize = Some(resizing);
    }

    /// Takes all memory away, and checks that every frame comes back.
    pub(super) fn check_churn(&mut self, machine: &Machine<'_>, run: &Run, rounds: u64) {
        let unmapped = unmapped(machine);
        self.check_manager(&Manager::new(machine, &run.stage, run.present()).clear());
        reclaim(machine);
        let (stats, traffic) = (machine.table().stats(), machine.memory.traffic());
        let least = tables(machine.populated([]), machine.table().format().levels());
        let churned = Churned {
            rounds: rounds_of(run),
            unmapped,
            kicks: machine.kicks.sent(),
            stale: run.total().stale,
            frames_handed_out: traffic.handed_out,
            frames_given_back: traffic.given_back,
            tables_left: stats.tables,
            tables_waiting: stats.waiting,
        };
        self.compare(&[
            ("regions that were taken away", churned.rounds, rounds),
            ("frames that were given back", traffic.given_back, traffic.handed_out),
            ("tables that are left in the end", stats.tables, least),
            ("tables that wait in the end", stats.waiting, 0),
            ("frames in tables in the end", table_frames(machine), least),
        ]);
        self.churn = Some(churned);
    }
}

fn rounds_of(run: &Run) -> u64 {
    run.managers.iter().map(|manager| manager.rounds).sum()
}

/// Returns how many pages were unmapped for good.
pub(super) fn unmapped(machine: &Machine<'_>) -> u64 {
    machine.memory.journal().lives.iter().map(|life| life.leaf.pages()).sum()
}
