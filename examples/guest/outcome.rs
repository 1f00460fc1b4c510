//! What becomes of a vCPU: what it counted, what it did, and why it stopped if it did.

use std::{fmt, time::Duration};

use serde::Serialize;
use slat::{FaultError, Gpa, HostPfn, mmu::Fault};

use crate::{
    deeds::Log,
    kvm::{Crash, LoadError},
};

/// What a vCPU counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Accesses that reached memory.
    pub(crate) accesses: u64,
    /// Entries into the guest.
    pub(crate) entries: u64,
    pub(crate) faults: u64,
    /// Faults for which this vCPU mapped a leaf, and the 4 KiB pages that it mapped so.
    pub(crate) mapped: u64,
    pub(crate) mapped_pages: u64,
    /// Faults for which another vCPU was first.
    pub(crate) lost: u64,
    /// Faults at a page that was just being moved.
    pub(crate) moving: u64,
    /// Faults where there is no memory.
    pub(crate) away: u64,
    /// Accesses through a translation that should have been gone: to a frame that is another's.
    pub(crate) stale: u64,
}

impl Tally {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            accesses: self.accesses + other.accesses,
            entries: self.entries + other.entries,
            faults: self.faults + other.faults,
            mapped: self.mapped + other.mapped,
            mapped_pages: self.mapped_pages + other.mapped_pages,
            lost: self.lost + other.lost,
            moving: self.moving + other.moving,
            away: self.away + other.away,
            stale: self.stale + other.stale,
        }
    }
}

/// Something that must not happen to a vCPU; it stops there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a fault cannot be resolved: {0}")]
    Unresolved(#[from] FaultError),
    #[error("{0} is not a fault that mapping a page resolves")]
    Fault(Fault),
    #[error("{0}, though the page was mapped before")]
    FaultAgain(Fault),
    #[error("{gpa} translates to frame {pfn}, which is not the guest's")]
    Stray { gpa: Gpa, pfn: HostPfn },
    #[error("read {found:#x} at {gpa}, expected {expected:#x}")]
    Value { gpa: Gpa, expected: u64, found: u64 },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Crash(#[from] Crash),
}

/// An access through a translation that should have been gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    pub(crate) gpa: Gpa,
    /// Where the page is that has the frame; `None` if the frame is free.
    pub(crate) tenant: Option<Gpa>,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpa, tenant } = self;
        match tenant {
            Some(tenant) => write!(f, "{gpa} in the frame that {tenant} has now"),
            None => write!(f, "{gpa} in a frame that is free"),
        }
    }
}

/// What became of one vCPU.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// The first of its stale accesses.
    pub(crate) stale: Option<Stale>,
    pub(crate) log: Log,
    pub(crate) elapsed: Duration,
    pub(crate) broken: Option<Broken>,
}
