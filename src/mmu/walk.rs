//! The walk: from a table down to a leaf, setting accessed and dirty bits on the way.
//!
//! Each entry is decided on as a value and then, if a bit is missing in it, replaced by one
//! compare-exchange. If that fails, somebody changed the slot, and the new value is decided on from
//! the beginning: so a bit is never set in an entry that is not the one that was checked, and never
//! in one that is not present.
//!
//! Accessed bits are set from the top down, in each entry as the walk passes through it (Intel SDM
//! vol. 3A, 4.8, and vol. 3C, 29.3.5: "whenever the processor uses a paging-structure entry as part
//! of the translation"). A walk that ends in a fault has therefore set those above the entry that
//! stopped it, as a processor may, and none in that entry.

#![expect(unsafe_code, reason = "follows frame numbers to tables")]

use super::{
    DirtyChange, Mmu,
    rules::{Meaning, Refusal, Rights, Want},
};
use crate::{
    addr::HostPfn,
    arena::FrameSource,
    entry::Entry,
    level::{Level, PageSize},
    table::{Race, Slot},
};

/// Where a walk stands: about to read an entry of this table.
///
/// `table` was named by the root pointer or by a table entry that a walk of the same [`Mmu`] (or of
/// one with the same [`Stamp`](super::view::Stamp)) read: this is what [`Mmu::walk`] rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) level: Level,
    table: HostPfn,
    /// What the entries passed so far allow.
    rights: Rights,
}

/// A leaf, and what the whole walk to it allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) frame: HostPfn,
    pub(super) size: PageSize,
    pub(super) rights: Rights,
    /// With the bits that the walk set.
    pub(super) entry: Entry,
}

/// What one entry led to.
enum Step {
    Down { frame: HostPfn, rights: Rights },
    Done(Leaf, DirtyChange),
}

impl<S: FrameSource> Mmu<'_, S> {
    /// Returns where a walk from the root begins.
    pub(super) fn top(&self) -> Cursor {
        Cursor { level: self.rules.levels().root(), table: self.root, rights: Rights::all() }
    }

    /// Walks for page `page`. `passed` is told each table entry that was used: its level, and where
    /// the walk stands below it.
    pub(super) fn walk(
        &self,
        from: Cursor,
        page: u64,
        want: Want,
        mut passed: impl FnMut(Level, Cursor),
    ) -> Result<(Leaf, DirtyChange), Refusal> {
        let mut at = from;
        loop {
            // SAFETY:
            // 1. The frame was named by the root pointer or by a table entry of this tree (invariant
            //    of `Cursor`; caches hand back only the cursors of this tree, by its stamp).
            // 2. So it was allocated from `frames` and stays so while this `Mmu` lives, and longer
            //    than the reference, by the contract of `Mmu::new`.
            let table = unsafe { self.frames.table(at.table) };
            let slot = table.slot(at.level.index(page));
            match self.step(slot, at.level, at.rights, want)? {
                Step::Done(leaf, dirty) => return Ok((leaf, dirty)),
                Step::Down { frame, rights } => {
                    let Some(below) = at.level.below() else {
                        unreachable!("an entry of the last level never points at a table");
                    };
                    let next = Cursor { level: below, table: frame, rights };
                    passed(at.level, next);
                    at = next;
                }
            }
        }
    }

    /// Passes through one entry, and sets in it what the access sets.
    fn step(&self, slot: &Slot, level: Level, above: Rights, want: Want) -> Result<Step, Refusal> {
        let mut seen = slot.load();
        loop {
            let (step, next) = self.decide(level, seen, above, want)?;
            if next == seen {
                return Ok(step);
            }
            match slot.publish(seen, next) {
                Ok(()) => return Ok(step),
                // The slot was remapped, unmapped, or given bits by another walker: decide again.
                Err(Race) => seen = slot.load(),
            }
        }
    }

    /// Decides on an entry's value: what it leads to, and what the access makes of it.
    fn decide(
        &self,
        level: Level,
        seen: Entry,
        above: Rights,
        want: Want,
    ) -> Result<(Step, Entry), Refusal> {
        match self.rules.meaning(level, seen) {
            Meaning::NotPresent => Err(Refusal::NotPresent),
            Meaning::Reserved => Err(Refusal::Reserved),
            Meaning::Table { frame, rights } => {
                let step = Step::Down { frame, rights: above & rights };
                Ok((step, seen.with(self.rules.accessed())))
            }
            Meaning::Leaf { frame, size, rights } => {
                // 29.3.3.3, 5.6: rights are checked last, over the whole walk.
                let rights = above & rights;
                if !rights.contains(want.rights) {
                    return Err(Refusal::Rights(rights));
                }
                let entry = seen.with(self.rules.accessed() | want.dirty);
                let sets = entry.has(want.dirty) && !seen.has(want.dirty);
                let dirty = if sets { DirtyChange::Set } else { DirtyChange::None };
                Ok((Step::Done(Leaf { frame, size, rights, entry }, dirty), entry))
            }
        }
    }
}
