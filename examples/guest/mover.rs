//! How pages move to other frames while vCPUs use them, as when memory is defragmented, or migrated
//! between NUMA nodes. Two ways, by turns:
//!
//! - *copy on the side*: the region loses the right to write, so that nobody writes any more; its pages are
//!   copied while vCPUs go on reading; then they are unmapped;
//! - *unmap first*: the pages are unmapped; then nobody is left, and they are copied.
//!
//! Unmapping is a [`discard`](slat::Space::discard) from a backing that keeps what it gets back, [`Movable`].
//! The space closes the range for as long as that takes: faults are to be tried again. So when a leaf is
//! [released](Backing::release) nobody reaches its frames, and nobody asks for the page: that is the moment
//! to move it. Afterwards the pages are made resident again. (Nobody [holds](slat::Vcpu::hold) pages here: one
//! that is held comes back when the hold ends, and the page may be used again by then.)
//!
//! A vCPU that writes to a page that may only be read is denied, one that finds a page gone is to wait; both try
//! again until the page is back.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slat::{
    Answer, Backing, BackingError, Ended, Gpa, GpaRange, HostPfn, PAGE_BYTES, PageSize, Prot,
    Released, Want,
};

use crate::{
    backing::{self, OutOfFrames},
    deeds::Bits,
    frame::Frame,
    machine::Machine,
    manager::{Manager, Stuck},
    memory::GuestMemory,
};

/// The rights of pages that are being copied.
const FROZEN: Prot = Prot::R.union(Prot::X);

/// Memory that comes when it is needed, and is moved to other frames whenever it is unmapped.
///
/// Until it moves a page has one frame, whoever asks and however often: the first answer fills it.
#[derive(Debug)]
pub(crate) struct Movable {
    memory: Arc<GuestMemory>,
    granule: PageSize,
    /// Where the contents of each leaf are, by its first page.
    homes: Mutex<BTreeMap<u64, Home>>,
    /// Why a leaf stayed where it was.
    stayed: Mutex<Option<OutOfFrames>>,
}

/// Where the contents of a leaf are.
#[derive(Debug)]
struct Home {
    pfn: HostPfn,
    size: PageSize,
    /// Where they were copied to on the side.
    copy: Option<HostPfn>,
}

impl Movable {
    pub(crate) fn new(memory: Arc<GuestMemory>, granule: PageSize) -> Self {
        Self { memory, granule, homes: Mutex::default(), stayed: Mutex::default() }
    }

    /// Copies the pages of a range on the side; nobody may write to them meanwhile, or until they are
    /// unmapped.
    pub(crate) fn copy_aside(&self, range: GpaRange) -> Result<(), OutOfFrames> {
        for (page, pfn, size) in self.within(range) {
            let copy = self.copy(page, pfn, size)?;
            if let Some(home) = self.homes().get_mut(&page) {
                home.copy = Some(copy);
            }
        }
        Ok(())
    }

    /// Returns the leaves of a range that have contents, and where these are.
    pub(crate) fn within(&self, range: GpaRange) -> Vec<(u64, HostPfn, PageSize)> {
        let [first, last] = [range.start(), range.last()].map(|gpa| gpa.get() / PAGE_BYTES);
        let homes = self.homes();
        homes.range(first..=last).map(|(&page, home)| (page, home.pfn, home.size)).collect()
    }

    fn copy(&self, page: u64, from: HostPfn, size: PageSize) -> Result<HostPfn, OutOfFrames> {
        let gpa = Gpa::new(page * PAGE_BYTES);
        let to = self.memory.allocate(size).ok_or(OutOfFrames(gpa))?;
        self.memory.copy(from, to, size);
        Ok(to)
    }

    fn homes(&self) -> MutexGuard<'_, BTreeMap<u64, Home>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stayed(&self) -> MutexGuard<'_, Option<OutOfFrames>> {
        self.stayed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a leaf that nobody reaches, if there is a frame for it; else it stays where it is.
    fn move_home(&self, page: u64, old: HostPfn, size: PageSize, bits: Bits) {
        let aside = self.homes().get_mut(&page).and_then(|home| home.copy.take());
        let new = match aside.map_or_else(|| self.copy(page, old, size), Ok) {
            Ok(new) => new,
            Err(error) => {
                *self.stayed() = Some(error);
                return;
            }
        };
        let stay = self.memory.frame(old).and_then(Frame::stay);
        if let Some(home) = self.homes().get_mut(&page) {
            home.pfn = new;
        }
        let mut journal = self.memory.journal();
        match stay {
            Some(stay) => journal.moved.push((stay, bits)),
            None => journal.strays += 1,
        }
        match aside {
            Some(_) => journal.copied += size.pages(),
            None => journal.unmapped_first += size.pages(),
        }
        drop(journal);
        self.memory.free(old, size);
    }
}

impl Backing for Movable {
    fn pages(&self) -> u64 {
        backing::PAGES
    }

    fn largest(&self, _page: u64, _gpa: Gpa) -> PageSize {
        self.granule
    }

    fn frame(&self, want: &Want) -> Answer {
        let mut homes = self.homes();
        if let Some(home) = homes.get(&want.page) {
            return Answer::Frame(home.pfn, Prot::all());
        }
        match backing::fill(&self.memory, want) {
            Ok(pfn) => {
                homes.insert(want.page, Home { pfn, size: want.size, copy: None });
                Answer::Frame(pfn, Prot::all())
            }
            Err(error) => Answer::Failed(BackingError::new(error)),
        }
    }

    fn release(&self, released: Released) {
        let Released { page, frame, size, .. } = released;
        // What was answered and not used stays the page's.
        if let Ended::Unmapped { accessed, dirty } = released.ended {
            self.move_home(page, frame, size, Bits { accessed, dirty });
        }
    }
}

impl Manager<'_> {
    /// Moves all pages of a region.
    pub(crate) fn move_region(&mut self, region: usize) -> Result<(), Stuck> {
        let Machine { space, layout, movable, .. } = self.machine;
        let movable = movable.as_ref().expect("pages move in a machine whose pages are movable");
        let range = layout.regions()[region];
        if self.account.rounds.is_multiple_of(2) {
            self.take_out_aside(movable, range)?;
        } else {
            space.discard(range)?;
        }
        for (page, _, size) in movable.within(range) {
            // As a fault does, if none has come.
            space.prefault(backing::leaf(page, size), |_| ControlFlow::Continue(()))?;
        }
        self.account.rounds += 1;
        movable.stayed().take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Copies the pages of a region while vCPUs read them, and unmaps them.
    fn take_out_aside(&self, movable: &Movable, range: GpaRange) -> Result<(), Stuck> {
        let Machine { space, attr, .. } = self.machine;
        space.protect_region(range, FROZEN)?;
        let copied = movable.copy_aside(range);
        let discarded = space.discard(range);
        // In any case: else vCPUs would try again for ever.
        space.protect_region(range, attr.prot())?;
        copied?;
        discarded?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
