//! What the threads of a run tell each other, all of it by a word: which regions are in use, who is still
//! there, and who shall come out of the guest.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::sync::atomic::{AtomicU64, Ordering};

use slat::{Kick, ObserverId, SignalKicks, ThreadKicks, ThreadSeat};

use crate::phase::Phase;

// Relaxed in all of this: these words decide when something is tried, never whether it is right. What
// orders the threads' use of memory is the table.

/// The signals of one run.
#[derive(Debug)]
pub(crate) struct Stage {
    /// One for each region of the layout.
    pub(crate) places: Vec<Place>,
    pub(crate) vcpus: Present,
    pub(crate) managers: Present,
    pub(crate) phase: Phase,
    /// How many times a region is still to be changed.
    rounds: AtomicU64,
}

impl Stage {
    /// Makes the stage for a layout with so many regions, and for so many vCPUs and managers.
    pub(crate) fn new(regions: usize, vcpus: usize, managers: usize, rounds: u64) -> Self {
        Self {
            places: (0..regions).map(|_| Place::default()).collect(),
            vcpus: Present::new(vcpus),
            managers: Present::new(managers),
            phase: Phase::default(),
            rounds: AtomicU64::new(rounds),
        }
    }

    /// Takes on one round, if there is one left.
    pub(crate) fn take_round(&self) -> bool {
        let less = |rounds: u64| rounds.checked_sub(1);
        self.rounds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A region, as those who use it and those who change it see it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// How many vCPUs have settled here.
    settled: AtomicU64,
    /// How often vCPUs have paused here.
    uses: AtomicU64,
}

impl Place {
    /// Says that a vCPU has settled there.
    pub(crate) fn arrive(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn depart(&self) {
        self.settled.fetch_sub(1, Ordering::Relaxed);
    }

    /// Says that a vCPU pauses there, in the middle of its work.
    pub(crate) fn pause(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often vCPUs have paused there, if any has settled there.
    pub(crate) fn uses(&self) -> Option<u64> {
        let uses = self.uses.load(Ordering::Relaxed);
        (self.settled.load(Ordering::Relaxed) > 0).then_some(uses)
    }
}

/// How many threads of a kind are at work.
#[derive(Debug)]
pub(crate) struct Present(AtomicU64);

/// A thread at work; gone when it is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct AtWork<'s>(&'s Present);

impl Present {
    pub(crate) fn new(count: usize) -> Self {
        Self(AtomicU64::new(count as u64))
    }

    /// Returns the guard of one of those who were counted when the stage was made.
    pub(crate) fn guard(&self) -> AtWork<'_> {
        AtWork(self)
    }

    pub(crate) fn any(&self) -> bool {
        self.count() > 0
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How vCPUs are made to come out of the guest, with a count: by a word that a software MMU looks at, or
/// by a signal that ends KVM_RUN.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    seats: ThreadKicks,
    signals: Option<SignalKicks>,
    sent: AtomicU64,
}

impl Kicks {
    /// Makes those for vCPUs that KVM runs.
    pub(crate) fn by_signal(signals: SignalKicks) -> Self {
        Self { signals: Some(signals), ..Self::default() }
    }

    /// Runs a vCPU of KVM's on this thread.
    pub(crate) fn run<T>(
        &self,
        observer: ObserverId,
        arm: impl Fn() + Send + 'static,
        vcpu: impl FnOnce() -> T,
    ) -> T {
        match &self.signals {
            Some(signals) => signals.run(observer, arm, vcpu),
            None => vcpu(),
        }
    }

    /// Registers this thread as the one that runs the observer's vCPU, in software.
    pub(crate) fn sit(&self, observer: ObserverId) -> ThreadSeat<'_> {
        self.seats.sit(observer)
    }

    /// Returns how many kicks there were.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Kick for Kicks {
    fn kick(&self, observer: ObserverId) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.seats.kick(observer);
        if let Some(signals) = &self.signals {
            signals.kick(observer);
        }
    }
}
