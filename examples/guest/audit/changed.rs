//! What managers have to have done to memory that came and went, or moved.

use serde::Serialize;
use slat::{Format, GpaRange};

use super::{Audit, reclaim, table_frames};
use crate::{
    layout::tables,
    machine::{Machine, Run},
    manager::{Account, Flushing, Manager, Site},
};

/// What became of memory that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Migrated {
    /// Regions whose pages were moved.
    pub(crate) rounds: u64,
    /// Pages that were copied while they could be read, and such that were unmapped first.
    pub(crate) copied: u64,
    pub(crate) unmapped_first: u64,
    pub(crate) shootdowns: u64,
    pub(crate) kicks: u64,
    /// Accesses through translations that should have been gone.
    pub(crate) stale: u64,
}

/// What became of memory that came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Churned {
    /// Regions that were taken away.
    pub(crate) rounds: u64,
    /// Pages that were unmapped for that.
    pub(crate) unmapped: u64,
    pub(crate) shootdowns: u64,
    pub(crate) kicks: u64,
    /// Attempts to vacate a region in which a page was mapped again, or just being mapped.
    pub(crate) still_mapped: u64,
    pub(crate) busy: u64,
    /// Attempts to populate a region when too many tables waited for vCPUs to come out.
    pub(crate) short: u64,
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
        let sum = |count: fn(&Account) -> u64| run.managers.iter().map(count).sum::<u64>();
        let migrated = Migrated {
            rounds: sum(|manager| manager.rounds),
            copied: sum(|manager| manager.copied),
            unmapped_first: sum(|manager| manager.unmapped_first),
            shootdowns: sum(|manager| manager.shootdowns),
            kicks: run.stage.kicks.sent(),
            stale: run.total().stale,
        };
        let moved = migrated.copied + migrated.unmapped_first;
        let stays = run.managers.iter().flat_map(|manager| &manager.moved);
        let leaves = stays.filter_map(|&(stay, _)| machine.memory.tenant(stay));
        let given_back = leaves.map(GpaRange::pages).sum();
        self.compare(&[
            ("regions that were moved", migrated.rounds, rounds),
            ("pages that were moved", given_back, moved),
        ]);
        self.migrate = Some(migrated);
    }

    /// Takes all memory away, and checks that every frame comes back.
    pub(super) fn check_churn(&mut self, machine: &Machine<'_>, run: &Run, rounds: u64) {
        let site = Site { machine, stage: &run.stage, flushing: Flushing::Served };
        self.check_manager(&Manager::new(site, run.present()).clear());
        reclaim(machine);
        let (stats, traffic) = (machine.table.stats(), machine.memory.traffic());
        let least = tables(machine.populated([]), machine.table.format().levels());
        let sum = |count: fn(&Account) -> u64| run.managers.iter().map(count).sum::<u64>();
        let churned = Churned {
            rounds: sum(|manager| manager.rounds),
            unmapped: unmapped(run),
            shootdowns: sum(|manager| manager.shootdowns),
            kicks: run.stage.kicks.sent(),
            still_mapped: sum(|manager| manager.still_mapped),
            busy: sum(|manager| manager.busy),
            short: sum(|manager| manager.short),
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

/// Returns how many pages the managers have unmapped for good.
pub(super) fn unmapped(run: &Run) -> u64 {
    let lives = run.managers.iter().flat_map(|manager| &manager.lives);
    lives.map(|life| life.leaf.pages()).sum()
}
