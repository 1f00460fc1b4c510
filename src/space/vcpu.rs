//! A vCPU's handle on a space.

use alloc::sync::Arc as StdArc;
use core::{fmt, ops::Deref};

use super::{
    agent::{Agent, Fault, Patience},
    errors::FaultError,
    hold::{Hold, HoldRange},
    shared::Shared,
    stats::VcpuStats,
};
use crate::{
    addr::Gpa,
    arena::FrameSource,
    attr::Prot,
    format::{Format, Tracking},
    observe::{Inside, Observer, ObserverId},
    reader::Reader,
    sync::Arc,
};

/// The most pages around a fault that can be mapped with it: those of one leaf table.
const MOST_AROUND: u64 = 512;

/// Not a number of pages to map around a fault: a power of two up to 512 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} pages cannot be mapped around a fault: a power of two up to 512 can")]
pub struct BadFaultAround(pub u64);

/// What a vCPU needs of its [`Space`](crate::Space): a translation cache's [`Observer`], the fault path, and
/// counters of its own.
///
/// Make one for each vCPU, and for each thread that holds pages for a device; such a one never enters. It can
/// be made on one thread and used on another, and keeps the space alive.
pub struct Vcpu<F: Format, S: FrameSource> {
    shared: Arc<Shared<F, S>>,
    agent: Agent<F, S>,
    observer: Observer<F, S>,
    /// What the counters showed when it was made: they had another owner before.
    before: VcpuStats,
}

impl<F: Format, S: FrameSource> Vcpu<F, S> {
    pub(super) fn new(shared: &Arc<Shared<F, S>>) -> Self {
        let (agent, observer) = (Agent::new(shared), shared.table.observer());
        let before = agent.stripe.look();
        Self { shared: Arc::clone(shared), agent, observer, before }
    }

    /// Returns the name by which a [`Kick`](crate::Kick) is told of it.
    #[must_use]
    pub fn id(&self) -> ObserverId {
        self.observer.id()
    }

    /// Enters, as [`Observer::enter`] does. The MMU keeps accessed and dirty bits if `tracking` says so, or
    /// if the space [tracks](crate::Space::track_dirty) writes.
    ///
    /// # Concurrency
    /// Lock-free. Who switches tracking on has either been seen here, or kicks.
    pub fn enter(&mut self, tracking: Tracking) -> InsideVcpu<'_, F, S> {
        // Held until it is inside: who switches tracking on waits for the pin, and then looks who is inside.
        let pin = self.agent.reader.pin();
        let tracking = match pin.read(&self.shared.layout).tracking {
            Tracking::On => Tracking::On,
            Tracking::Off => tracking,
        };
        InsideVcpu(self.observer.enter(tracking))
    }

    /// Resolves a fault: finds the region, asks its backing for a frame, and maps it. `access` is what the
    /// guest was about to do; empty to make the page resident.
    ///
    /// A fault that turns out to be spurious is resolved, too: the page is there and allows the access. So is
    /// the fault of a write that is watched while writes are [tracked](crate::Space::track_dirty).
    ///
    /// # Errors
    /// [`FaultError`]; the page is as it was.
    ///
    /// # Concurrency
    /// Takes effect at one compare-exchange of the leaf. Of vCPUs that fault on one page all are resolved, one
    /// page is resident, and the others' frames are given back. Takes no lock and writes nothing shared but the
    /// slot, but where it cannot be done at once, and then with no pin held: where there is room, or a leaf, for
    /// larger sizes only, it takes the writer lock; where the backing has to fetch the page, it waits for that; and
    /// where a leaf has to go or to lose a right first, it kicks vCPUs that are inside and waits for them. Where
    /// another vCPU is fetching the page, or it is being taken away, it does not wait, and says
    /// [`Retry`](Fault::Retry).
    ///
    /// Call it with no pin held, and not from inside an observer.
    #[inline]
    pub fn fault(&self, gpa: Gpa, access: Prot) -> Result<Fault, FaultError> {
        self.agent.fault(&self.shared, gpa, access, Patience::None)
    }

    /// Resolves a fault as [`fault`](Self::fault) does, and waits for a page that another is fetching, and for
    /// who is changing the region.
    ///
    /// # Errors
    /// As [`fault`](Self::fault).
    ///
    /// # Concurrency
    /// As [`fault`](Self::fault). It waits for as long as the other fetches, or changes regions.
    pub fn fault_and_wait(&self, gpa: Gpa, access: Prot) -> Result<(), FaultError> {
        self.agent.fault(&self.shared, gpa, access, Patience::Wait).map(drop)
    }

    /// Sets how many pages a fault maps that makes a page resident: those of the aligned group of so many
    /// pages around it that are in the region, are not mapped, and that the backing has at once. 1 to begin
    /// with.
    ///
    /// # Errors
    /// [`BadFaultAround`] if it is no power of two, or more than 512.
    pub fn set_fault_around(&mut self, pages: u64) -> Result<(), BadFaultAround> {
        if !pages.is_power_of_two() || pages > MOST_AROUND {
            return Err(BadFaultAround(pages));
        }
        self.agent.set_around(pages);
        Ok(())
    }

    /// Holds the page of `gpa` for a device model: makes it resident, as
    /// [`fault_and_wait`](Self::fault_and_wait) does, and keeps its frame from being given to anybody else.
    ///
    /// # Errors
    /// As [`fault`](Self::fault).
    ///
    /// # Concurrency
    /// Takes a lock that holds of the same region share.
    pub fn hold(&self, gpa: Gpa, access: Prot) -> Result<Hold<F, S>, FaultError> {
        Hold::take(&self.shared, &self.agent, gpa, access)
    }

    /// Holds the pages of `len` bytes from `gpa` on; none if `len` is 0.
    ///
    /// # Errors
    /// As [`fault`](Self::fault), for the first page that cannot be held; nothing is held then.
    ///
    /// # Concurrency
    /// As [`hold`](Self::hold), page by page.
    pub fn hold_range(
        &self,
        gpa: Gpa,
        len: u64,
        access: Prot,
    ) -> Result<HoldRange<F, S>, FaultError> {
        HoldRange::take(&self.shared, &self.agent, gpa, len, access)
    }

    /// Returns what was done through it: exact on the thread that uses it.
    #[must_use]
    pub fn stats(&self) -> VcpuStats {
        self.agent.stripe.look().since(self.before)
    }

    /// Returns the reader, to look at the table. See [`Space::table`](crate::Space::table) for what is not to be
    /// changed.
    #[must_use]
    pub fn reader(&self) -> &Reader<F, S> {
        &self.agent.reader
    }
}

/// A vCPU that is inside: all of an [`Inside`] but its [`acknowledge`](Inside::acknowledge). Dropping it leaves.
///
/// A vCPU that is kicked has to come out, and to enter again. If it only caught up, it would go on with the root
/// pointer that it entered with, and that may not keep dirty bits when they are needed.
///
/// ```compile_fail,E0596
/// # fn catch_up(vcpu: &mut slat::Vcpu<slat::Ept, slat::HeapFrames>) {
/// let mut inside = vcpu.enter(slat::Tracking::Off);
/// inside.acknowledge(|_| ());
/// # }
/// ```
#[must_use = "dropping it leaves at once"]
#[derive(Debug)]
pub struct InsideVcpu<'v, F: Format, S: FrameSource>(Inside<'v, F, S>);

impl<'v, F: Format, S: FrameSource> Deref for InsideVcpu<'v, F, S> {
    type Target = Inside<'v, F, S>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<F: Format, S: FrameSource> Drop for Vcpu<F, S> {
    fn drop(&mut self) {
        self.shared.stripes.give_back(StdArc::clone(&self.agent.stripe));
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Vcpu<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("observer", &self.observer).finish_non_exhaustive()
    }
}
