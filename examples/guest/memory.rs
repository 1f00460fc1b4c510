//! The host's side of guest memory: frames with real contents, handed out to whoever faults, and given
//! back by whoever took a page away.
//!
//! Every word of a page says whose it is: besides a sum, which guests add to, it bears the number of the
//! page's [`Stay`]. So an access of one instruction tells all there is to know of it. A guest that still
//! reaches a frame through a translation that should be gone finds the stay of another page, or none.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    io,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use slat::{HostPfn, PAGE_BYTES};

use crate::{
    deeds::{Bits, Life},
    frame::Frame,
    kvm::DATA as FIRST,
    mapping::Mapping,
};

/// One stay of a page in memory: from when a frame was filled for it until that was given back. A page
/// that is moved to another frame takes its contents along, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stay(NonZeroU32);

impl Stay {
    pub(crate) const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A fixed number of frames. Memory is spent on those that were handed out.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    /// KVM's guest has it as well.
    mapping: Arc<Mapping>,
    capacity: u64,
    /// How many frames were ever handed out, or more, if some were asked for in vain.
    next: AtomicU64,
    pool: Mutex<Pool>,
    /// How many frames are in the pool: who finds none there takes no lock.
    pooled: AtomicU64,
    /// The page of each stay: that of stay `n` is at `n - 1`.
    tenants: boxcar::Vec<u32>,
}

/// Frames that were given back.
#[derive(Debug, Default)]
struct Pool {
    /// The last is handed out first: the sooner a frame has a new tenant, the sooner it shows that
    /// somebody still uses it for the old one.
    free: Vec<HostPfn>,
    traffic: Traffic,
}

/// How often frames changed hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) handed_out: u64,
    pub(crate) given_back: u64,
}

impl GuestMemory {
    /// The greatest number of pages that are told apart.
    pub(crate) const PAGES: u64 = 1 << 31;

    pub(crate) fn new(frames: usize) -> io::Result<Self> {
        let bytes = frames.checked_mul(PAGE_BYTES as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            mapping: Arc::new(Mapping::anonymous(bytes)?),
            capacity: frames as u64,
            next: AtomicU64::new(0),
            pool: Mutex::default(),
            pooled: AtomicU64::new(0),
            tenants: boxcar::Vec::new(),
        })
    }

    /// Returns where the frames are in this process, one after the other.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Hands out a frame, or `None` if there is none left. Takes a lock only if frames were given back.
    pub(crate) fn allocate(&self) -> Option<HostPfn> {
        if let Some(pfn) = self.recycled() {
            return Some(pfn);
        }
        // Relaxed: the number alone matters, and no two vCPUs get the same.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.capacity).then(|| HostPfn::new(FIRST.get() + number))
    }

    fn recycled(&self) -> Option<HostPfn> {
        // Relaxed: a frame that is not seen yet is there for the next one who asks.
        if self.pooled.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut pool = self.pool();
        let pfn = pool.free.pop()?;
        pool.traffic.handed_out += 1;
        self.pooled.store(pool.free.len() as u64, Ordering::Relaxed);
        Some(pfn)
    }

    /// Fills a frame with zeroes for `page`, before it is mapped there.
    pub(crate) fn assign(&self, pfn: HostPfn, page: usize) {
        let number = self.tenants.push(page as u32) as u32 + 1;
        self.handed_out(pfn).fill(Stay::new(number));
    }

    /// Copies what is in one frame to another: its page moves there.
    pub(crate) fn copy(&self, from: HostPfn, to: HostPfn) {
        self.handed_out(to).copy_from(self.handed_out(from));
    }

    /// Returns the page of a stay, by its index in the layout.
    pub(crate) fn tenant(&self, stay: Stay) -> Option<usize> {
        self.tenants.get(stay.get() as usize - 1).map(|&page| page as usize)
    }

    /// Takes back the frame that `page` had, of which the MMUs said `bits`; returns what is to be said of
    /// its stay, or `None` if the frame was never handed out. If anybody can still reach it, its words
    /// will tell.
    pub(crate) fn give_back(&self, page: usize, pfn: HostPfn, bits: Bits) -> Option<Life> {
        let life = self.life(page, pfn, bits)?;
        self.free(pfn);
        Some(life)
    }

    /// Returns what is to be said of a page that is in a frame now.
    pub(crate) fn life(&self, page: usize, pfn: HostPfn, bits: Bits) -> Option<Life> {
        let frame = self.frame(pfn)?;
        Some(Life { page, stay: frame.stay()?, bits, sum: frame.sum() })
    }

    /// Takes back a frame that was handed out.
    pub(crate) fn free(&self, pfn: HostPfn) {
        self.handed_out(pfn).fill(None);
        let mut pool = self.pool();
        pool.free.push(pfn);
        pool.traffic.given_back += 1;
        self.pooled.store(pool.free.len() as u64, Ordering::Relaxed);
    }

    fn handed_out(&self, pfn: HostPfn) -> Frame<'_> {
        self.frame(pfn).expect("frames are used by whoever was handed them")
    }

    /// Returns what lies in a frame, or `None` if it was never handed out.
    pub(crate) fn frame(&self, pfn: HostPfn) -> Option<Frame<'_>> {
        let number = pfn.get().checked_sub(FIRST.get())?;
        // Relaxed: as in `allocate`.
        let is_out = number < self.next.load(Ordering::Relaxed);
        (is_out && number < self.capacity).then(|| Frame::of(&self.mapping, number))
    }

    /// Returns how many times frames were handed out and given back, each from the first time on.
    pub(crate) fn traffic(&self) -> Traffic {
        let fresh = self.next.load(Ordering::Relaxed).min(self.capacity);
        let Traffic { handed_out, given_back } = self.pool().traffic;
        Traffic { handed_out: fresh + handed_out, given_back }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // A panic between the two statements of one change would leave a count wrong, no more.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    /// Returns how many frames are out.
    pub(crate) fn in_use(self) -> u64 {
        self.handed_out - self.given_back
    }
}

/// Bytes of the host's that a page of guest memory takes, with what is remembered of it.
pub(crate) const PAGE_COST: u64 = PAGE_BYTES + 2 * size_of::<u32>() as u64;

#[cfg(test)]
mod tests;
