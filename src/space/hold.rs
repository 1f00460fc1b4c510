//! Holding a page, for who reads and writes guest memory without an MMU.
//!
//! A hold keeps the page's frame from being given back, whatever becomes of the page, and its region: what is
//! unmapped meanwhile is released when the hold is ([`holds`](super::holds)). It keeps no pin, and may be
//! held for as long as a device needs.

use alloc::{sync::Arc as StdArc, vec::Vec};
use core::{fmt, mem};

use super::{
    agent::{Agent, Patience},
    errors::FaultError,
    region::Ground,
    shared::Shared,
};
use crate::{
    addr::{Gpa, GpaRange, HostPfn, PAGE_BYTES},
    arena::FrameSource,
    attr::Prot,
    format::Format,
    ops::HostRun,
    sync::Arc,
};

/// So many written holds are noted at once, if nobody asks for dirty pages before.
const DEFERRED: usize = 1024;

/// What became of a page while it was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldEnd {
    /// The page is mapped to the frame that was held. If it was written, it is dirty now.
    InPlace,
    /// The page is not mapped to that frame any more: it was discarded, or copied. What was written is in
    /// nobody's memory.
    Moved,
    /// The region, or its backing, went. What was written is in nobody's memory.
    RegionGone,
}

/// A frame that is held.
#[derive(Debug)]
pub(super) struct Held {
    ground: StdArc<Ground>,
    gpa: Gpa,
    frame: HostPfn,
}

/// A page that stays readable, or writable, until it is released: its frame is given to nobody else.
///
/// A device model writes the frame, and then says so: [`release_written`](Self::release_written) makes the
/// page dirty, [`defer_written`](Self::defer_written) leaves that to the next look for dirty pages. Dropped, a
/// hold that allows writes counts as written.
#[must_use = "dropping it releases the page at once"]
pub struct Hold<F: Format, S: FrameSource> {
    shared: Arc<Shared<F, S>>,
    /// `None` once it is released.
    held: Option<Held>,
    access: Prot,
}

impl<F: Format, S: FrameSource> Hold<F, S> {
    /// Takes a hold: makes the page resident first, if it is not.
    pub(super) fn take(
        shared: &Arc<Shared<F, S>>,
        agent: &Agent<F, S>,
        gpa: Gpa,
        access: Prot,
    ) -> Result<Self, FaultError> {
        loop {
            // Not by a fault where the page is there: that of a write would count as one where software keeps
            //   the dirty bits.
            if let Some(held) = Held::enter(shared, agent, gpa, access) {
                return Ok(Self { shared: Arc::clone(shared), held: Some(held), access });
            }
            agent.fault(shared, gpa, access, Patience::Wait)?;
        }
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("it is released by value")
    }

    /// Returns the address that was asked for.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.held().gpa
    }

    /// Returns the frame behind the page.
    #[must_use]
    pub fn frame(&self) -> HostPfn {
        self.held().frame
    }

    /// Returns what the page is held for.
    #[must_use]
    pub fn access(&self) -> Prot {
        self.access
    }

    /// Tells whether the region, or its backing, went. The frame is as good as before.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.held().ground.holds.is_gone()
    }

    /// Makes the page dirty, and goes on holding it.
    ///
    /// # Concurrency
    /// As [`Pinned::note_dirty`](crate::Pinned::note_dirty), under a lock of the space that is taken for a moment before and
    /// behind it.
    pub fn mark_written(&self) -> HoldEnd {
        self.shared.with_agent(|agent| self.held().note(&self.shared, agent, Noting::Written))
    }

    /// Releases the page, which was not written.
    ///
    /// # Concurrency
    /// Takes a lock that holds of the same region share, and one of the space for a moment before and behind it.
    pub fn release(mut self) -> HoldEnd {
        self.end(Noting::Nothing)
    }

    /// Releases the page, and makes it dirty: it was written.
    ///
    /// # Concurrency
    /// As [`release`](Self::release). A look for dirty pages that comes later reports the page.
    pub fn release_written(mut self) -> HoldEnd {
        self.end(Noting::Written)
    }

    /// Gives the page, which was written, to the space: it is made dirty, and released, at the beginning of
    /// the next [`dirty`](crate::Space::dirty), or of the next change of regions. Until then its frame is
    /// held.
    ///
    /// For who completes many requests and does not want to touch the table for each.
    ///
    /// # Concurrency
    /// Takes a lock that all who do so share. Every 1024th such page, all that wait are noted at once.
    pub fn defer_written(mut self) {
        let Some(held) = self.held.take() else { return };
        let mut deferred = self.shared.deferred.lock();
        deferred.push(held);
        let full = deferred.len() >= DEFERRED;
        drop(deferred);
        if full {
            self.shared.note_deferred();
        }
    }

    fn end(&mut self, noting: Noting) -> HoldEnd {
        let held = self.held.take().expect("it is released once");
        self.shared.with_agent(|agent| held.end(&self.shared, agent, noting))
    }
}

impl<F: Format, S: FrameSource> Drop for Hold<F, S> {
    fn drop(&mut self) {
        if self.held.is_some() {
            let written = self.access.contains(Prot::W);
            self.end(if written { Noting::Written } else { Noting::Nothing });
        }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Hold<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, access, .. } = self;
        f.debug_struct("Hold").field("held", held).field("access", access).finish_non_exhaustive()
    }
}

/// What is to be noted of a held page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noting {
    Nothing,
    Written,
}

impl Held {
    /// Holds the frame that the page is mapped to, if that allows `access`.
    fn enter<F: Format, S: FrameSource>(
        shared: &Shared<F, S>,
        agent: &Agent<F, S>,
        gpa: Gpa,
        access: Prot,
    ) -> Option<Self> {
        let pin = agent.reader.pin();
        let region = pin.read(&shared.layout).open_region_at(gpa)?;
        // What it has lost its leaves may have for a while.
        if !region.attr.prot().contains(access) {
            return None;
        }
        let ground = StdArc::clone(&region.ground);
        let leaf = pin.lookup(gpa).filter(|leaf| leaf.attr.prot().contains(access))?;
        let held = Self { frame: leaf.frame_of(gpa)?, ground, gpa };
        // Before the pin ends, so that who unmaps the page now finds the frame held.
        held.ground.holds.add(held.frame);
        Some(held)
    }

    /// Takes the frame off the list, and gives back what was put off for it. Tells whether the backing is gone.
    fn leave(self) -> bool {
        let (gone, free) = self.ground.holds.remove(self.frame);
        free.into_iter().for_each(|released| self.ground.backing.release(released));
        gone
    }

    /// Looks what became of the page, and notes what is to be noted.
    fn note<F: Format, S: FrameSource>(
        &self,
        shared: &Shared<F, S>,
        agent: &Agent<F, S>,
        noting: Noting,
    ) -> HoldEnd {
        let pin = agent.reader.pin();
        if pin.read(&shared.layout).region_on(&self.ground, self.gpa).is_none() {
            return HoldEnd::RegionGone;
        }
        // The leaf is this region's for as long as the pin is held.
        let in_place = match noting {
            Noting::Written => pin.note_dirty_of(self.gpa, self.frame).is_some(),
            Noting::Nothing => {
                pin.lookup(self.gpa).and_then(|leaf| leaf.frame_of(self.gpa)) == Some(self.frame)
            }
        };
        if in_place { HoldEnd::InPlace } else { HoldEnd::Moved }
    }

    fn end<F: Format, S: FrameSource>(
        self,
        shared: &Shared<F, S>,
        agent: &Agent<F, S>,
        noting: Noting,
    ) -> HoldEnd {
        let end = self.note(shared, agent, noting);
        // While it is entered: nobody else has the frame, so the leaf that was noted is the one that was written.
        if self.leave() { HoldEnd::RegionGone } else { end }
    }
}

impl<F: Format, S: FrameSource> Shared<F, S> {
    /// Notes the written holds that were put off.
    pub(super) fn note_deferred(&self) {
        let deferred = mem::take(&mut *self.deferred.lock());
        if deferred.is_empty() {
            return;
        }
        self.with_agent(|agent| {
            for held in deferred {
                held.end(self, agent, Noting::Written);
            }
        });
    }
}

/// The pages of a range, held: for devices that reach guest memory by host addresses (DMA).
#[must_use = "dropping it releases the pages at once"]
pub struct HoldRange<F: Format, S: FrameSource> {
    gpa: Gpa,
    len: u64,
    /// One for each page, in order.
    pages: Vec<Hold<F, S>>,
}

impl<F: Format, S: FrameSource> HoldRange<F, S> {
    pub(super) fn take(
        shared: &Arc<Shared<F, S>>,
        agent: &Agent<F, S>,
        gpa: Gpa,
        len: u64,
        access: Prot,
    ) -> Result<Self, FaultError> {
        let end = len.checked_sub(1).map(|last| gpa.checked_add(last));
        let pages = match end {
            None => Vec::new(),
            Some(None) => return Err(FaultError::NoRegion { gpa: GpaRange::ALL.last() }),
            Some(Some(last)) => {
                let mut pages = Vec::new();
                for page in gpa.page()..=last.page() {
                    match Hold::take(shared, agent, Gpa::of_page(page).max(gpa), access) {
                        Ok(hold) => pages.push(hold),
                        Err(error) => {
                            // Nobody has written them.
                            for hold in pages {
                                hold.release();
                            }
                            return Err(error);
                        }
                    }
                }
                pages
            }
        };
        Ok(Self { gpa, len, pages })
    }

    /// Returns the runs of contiguous host memory that the range lies in, in order: few and long ones where
    /// consecutive pages have consecutive frames.
    pub fn runs(&self) -> impl Iterator<Item = HostRun> + '_ {
        let mut pages = self.pages.iter().peekable();
        let mut offset = self.gpa.page_offset();
        let mut left = self.len;
        core::iter::from_fn(move || {
            let first = pages.next()?.frame();
            let mut count = 1;
            while pages.next_if(|page| Some(page.frame()) == first.checked_add(count)).is_some() {
                count += 1;
            }
            let len = left.min(count * PAGE_BYTES - offset);
            left -= len;
            Some(HostRun { pfn: first, offset: mem::take(&mut offset), len })
        })
    }

    /// Returns the holds, one for each page, in order.
    pub fn pages(&self) -> &[Hold<F, S>] {
        &self.pages
    }

    /// Releases all pages, which were not written. Returns what became of them: the worst of any page.
    pub fn release(self) -> HoldEnd {
        worst(self.pages.into_iter().map(Hold::release))
    }

    /// Releases all pages, and makes them dirty. Returns what became of them: the worst of any page.
    pub fn release_written(self) -> HoldEnd {
        worst(self.pages.into_iter().map(Hold::release_written))
    }
}

fn worst(ends: impl Iterator<Item = HoldEnd>) -> HoldEnd {
    ends.fold(HoldEnd::InPlace, |worst, end| match (worst, end) {
        (HoldEnd::RegionGone, _) | (_, HoldEnd::RegionGone) => HoldEnd::RegionGone,
        (HoldEnd::Moved, _) | (_, HoldEnd::Moved) => HoldEnd::Moved,
        _ => HoldEnd::InPlace,
    })
}

impl<F: Format, S: FrameSource> fmt::Debug for HoldRange<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpa, len, .. } = self;
        f.debug_struct("HoldRange").field("gpa", gpa).field("len", len).finish_non_exhaustive()
    }
}
