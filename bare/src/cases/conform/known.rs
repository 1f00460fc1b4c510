//! Where emulators are known to differ from the manuals, and what these leave open.

use slat::{
    Level, PageSize,
    mmu::{AccessKind, Fault},
};

use super::attempt::{Came, Due, Tried};
use crate::{
    machine::emulator::Emulator::{self, Bochs, Qemu},
    virt::{FRAME, LARGE},
};

/// Bits of entries of nPT.
const PRESENT: u64 = 1 << 0;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// A bit of a page-fault error code; the first is as in entries.
const RESERVED: u64 = 1 << 3;

/// One such difference.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) on: Emulator,
    /// Of which format it is.
    pub(super) format: &'static str,
    pub(super) standing: Standing,
    way: Way,
}

/// What the manuals say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They leave it open.
    Open,
    /// They say otherwise.
    Wrong,
}

/// In which way an emulator differs, where it does.
#[derive(Debug)]
enum Way {
    /// It takes the entry for another.
    Takes(fn(&Tried<'_>) -> Option<u64>),
    /// It does what it should, but for something.
    Makes(fn(&Tried<'_>, &Due) -> Option<Due>),
}

use Standing::{Open, Wrong};

pub(super) static KNOWN: [Known; 9] = [
    Known {
        name: "the present bit is left out of the code for a reserved bit",
        on: Qemu,
        format: "npt",
        standing: Wrong,
        way: Way::Makes(without_present),
    },
    Known {
        name: "bit 8 of a PML4 or PML5 entry is ignored, which must be zero",
        on: Qemu,
        format: "npt",
        standing: Wrong,
        way: Way::Takes(without_bit_8),
    },
    Known {
        name: "bit 8 of a PML4 or PML5 entry is ignored, which must be zero",
        on: Bochs,
        format: "npt",
        standing: Wrong,
        way: Way::Takes(without_bit_8),
    },
    Known {
        name: "a walk that faults leaves no accessed bits above",
        on: Bochs,
        format: "npt",
        standing: Open,
        way: Way::Makes(with_nothing_set),
    },
    Known {
        name: "a walk that faults leaves no accessed bits above",
        on: Bochs,
        format: "ept",
        standing: Open,
        way: Way::Makes(with_nothing_set),
    },
    Known {
        name: "the walk of a guest's tables is reported as a write, not as a read and a write",
        on: Bochs,
        format: "ept",
        standing: Wrong,
        way: Way::Makes(as_write_only),
    },
    Known {
        name: "bit 12 of a large leaf is ignored, which must be zero",
        on: Bochs,
        format: "ept",
        standing: Wrong,
        way: Way::Takes(without_bit_12),
    },
    Known {
        name: "a leaf of 1 GiB is made accessed before it is checked",
        on: Qemu,
        format: "npt",
        standing: Wrong,
        way: Way::Makes(with_huge_accessed),
    },
    Known {
        name: "a leaf of 1 GiB is taken although CPUID has none",
        on: Qemu,
        format: "npt",
        standing: Wrong,
        way: Way::Makes(with_huge_taken),
    },
];

impl Known {
    /// Returns what the emulator makes of it, if it differs in this way there.
    pub(super) fn expect(
        &self,
        tried: &Tried<'_>,
        due: &Due,
        as_if: &mut dyn FnMut(u64) -> Due,
    ) -> Option<Due> {
        match self.way {
            Way::Takes(takes) => {
                let taken = takes(tried)?;
                let mut due = as_if(taken);
                // What was ignored is still there.
                due.attempt.left[tried.index] ^= taken ^ tried.raw;
                due.before[tried.index] ^= taken ^ tried.raw;
                Some(due)
            }
            Way::Makes(makes) => makes(tried, due),
        }
    }
}

/// Returns the same with another fault.
fn reporting(due: &Due, other: impl FnOnce(Fault) -> Option<Fault>) -> Option<Due> {
    let Came::Stopped(fault) = due.attempt.came else { return None };
    let mut due = due.clone();
    due.attempt.came = Came::Stopped(other(fault)?);
    Some(due)
}

fn without_present(_: &Tried<'_>, due: &Due) -> Option<Due> {
    reporting(due, |fault| match fault {
        Fault::NestedPageFault { gpa, exitinfo1 } if exitinfo1 & RESERVED != 0 => {
            Some(Fault::NestedPageFault { gpa, exitinfo1: exitinfo1 & !PRESENT })
        }
        _ => None,
    })
}

fn without_bit_8(tried: &Tried<'_>) -> Option<u64> {
    const BIT: u64 = 1 << 8;
    let ignored = tried.place.level(tried.index) >= Level::L4 && tried.raw & BIT != 0;
    ignored.then_some(tried.raw & !BIT)
}

fn with_nothing_set(_: &Tried<'_>, due: &Due) -> Option<Due> {
    let Came::Stopped(_) = due.attempt.came else { return None };
    let mut due = due.clone();
    due.attempt.left.clone_from(&due.before);
    Some(due)
}

fn as_write_only(_: &Tried<'_>, due: &Due) -> Option<Due> {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const FINAL: u64 = 1 << 8;
    reporting(due, |fault| match fault {
        Fault::EptViolation { gpa, qualification }
            if qualification & (READ | WRITE | FINAL) == READ | WRITE =>
        {
            Some(Fault::EptViolation { gpa, qualification: qualification & !READ })
        }
        _ => None,
    })
}

fn without_bit_12(tried: &Tried<'_>) -> Option<u64> {
    const BIT: u64 = 1 << 12;
    let is_large = matches!(tried.place.level(tried.index), Level::L2 | Level::L3);
    let ignored = is_large && tried.raw & (LARGE | BIT) == LARGE | BIT;
    ignored.then_some(tried.raw & !BIT)
}

fn with_huge_accessed(tried: &Tried<'_>, due: &Due) -> Option<Due> {
    let Came::Stopped(fault) = due.attempt.came else { return None };
    let index = (0..tried.place.entries()).find(|&at| tried.place.level(at) == Level::L3)?;
    let left = &due.attempt.left;
    let came_there = tried.place.is_at(fault.gpa()) && left[index - 1] & ACCESSED != 0;
    let is_large = left[index] & (PRESENT | LARGE) == PRESENT | LARGE;
    let mut due = due.clone();
    due.attempt.left[index] |= ACCESSED;
    (came_there && is_large).then_some(due)
}

fn with_huge_taken(tried: &Tried<'_>, due: &Due) -> Option<Due> {
    let Came::Stopped(Fault::NestedPageFault { gpa, exitinfo1 }) = due.attempt.came else {
        return None;
    };
    let below = PageSize::Size1G.bytes() - 1;
    let is_huge = tried.place.level(tried.index) == Level::L3 && tried.raw & LARGE != 0;
    let is_aligned = tried.raw & FRAME & below == 0;
    let is_refused = exitinfo1 & RESERVED != 0 && tried.place.is_at(gpa);
    let mut due = due.clone();
    due.attempt.came = Came::Through;
    let dirty = if tried.kind == AccessKind::Write { DIRTY } else { 0 };
    due.attempt.left[tried.index] |= ACCESSED | dirty;
    (is_huge && is_aligned && is_refused).then_some(due)
}
