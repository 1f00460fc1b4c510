//! The accessed and dirty bits of the entries above the pages, and of the leaves.

use serde::Serialize;
use slat::{Format, Gpa, Level, PAGE_BYTES};

use crate::{layout::INDEX_BITS, machine::Machine};

/// What the entries of one level say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LevelBits {
    pub(crate) level: u32,
    pub(crate) entries: u64,
    pub(crate) accessed: u64,
    pub(crate) dirty: u64,
}

impl LevelBits {
    /// Reads all entries on the way to the pages, level by level; the root's come first.
    pub(super) fn of(machine: &Machine<'_>) -> Vec<Self> {
        let format = machine.table().format();
        let reader = machine.table().reader();
        let pin = reader.pin();
        let mut levels = Vec::<Self>::new();
        // Where the last page went: pages ascend, so what is new is on the way to this one.
        let mut last: Option<Gpa> = None;
        for page in 0..machine.layout.len() {
            let gpa = machine.layout.gpa(page);
            for (depth, step) in pin.walk(gpa, Level::L1).iter().enumerate() {
                let level = format.levels().count() - depth as u32;
                if levels.len() == depth {
                    levels.push(Self { level, entries: 0, accessed: 0, dirty: 0 });
                }
                let span = |gpa: Gpa| gpa.get() / PAGE_BYTES >> ((level - 1) * INDEX_BITS);
                if last.is_none_or(|last| span(last) != span(gpa)) && format.is_present(step.entry)
                {
                    let bits = &mut levels[depth];
                    bits.entries += 1;
                    bits.accessed += u64::from(step.entry.has(format.accessed_bit()));
                    bits.dirty += u64::from(step.entry.has(format.dirty_bit()));
                }
            }
            last = Some(gpa);
        }
        levels
    }
}
