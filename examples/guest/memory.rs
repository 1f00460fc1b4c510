//! The host's side of guest memory: frames with real contents, handed out to whoever faults, and given
//! back by whoever took a page away.
//!
//! A frame bears a *stamp*: the page that has it, and the how-manieth tenant that page is. A guest that
//! still reaches a frame through a translation that should be gone finds another stamp, or none.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    iter,
    num::NonZeroU32,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use slat::{HostPfn, PAGE_BYTES};

use crate::deeds::{Bits, Life};

/// Words of 64 bits in a page.
pub(crate) const WORDS: usize = PAGE_BYTES as usize / 8;

/// The number of the first frame: far from those of the tables, so that one taken for the other
/// shows at once.
const BASE: u64 = 1 << 32;

/// One stay of a page in a frame. No two have the same: when the frame is given to the next page, or
/// to the same again, its term is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stay {
    pub(crate) pfn: HostPfn,
    pub(crate) term: NonZeroU32,
}

/// What a frame says of its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The page, by its index in the layout; `None` while the frame is free.
    pub(crate) page: Option<usize>,
    pub(crate) term: NonZeroU32,
}

impl Stamp {
    /// The greatest number of pages that stamps tell apart.
    pub(crate) const PAGES: u64 = u32::MAX as u64;

    /// Of a frame that nobody has had yet.
    const FIRST: Self = Self { page: None, term: NonZeroU32::MIN };

    fn pack(self) -> u64 {
        let page = self.page.map_or(0, |page| page as u64 + 1);
        page << 32 | u64::from(self.term.get())
    }

    fn unpack(word: u64) -> Self {
        let page = (word >> 32).checked_sub(1).map(|page| page as usize);
        Self { page, term: NonZeroU32::new(word as u32).unwrap_or(NonZeroU32::MIN) }
    }

    fn next(self, page: Option<usize>) -> Self {
        // Terms may begin again after 4 billion: stays are told apart among those of one run.
        let term = self.term.checked_add(1).unwrap_or(NonZeroU32::MIN);
        Self { page, term }
    }
}

/// What lies in one frame. Guests share memory without asking each other, so its words are atomic.
#[derive(Debug)]
pub(crate) struct Frame {
    stamp: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl Frame {
    fn zeroed() -> Self {
        Self {
            stamp: AtomicU64::new(Stamp::FIRST.pack()),
            words: iter::repeat_with(AtomicU64::default).take(WORDS).collect(),
        }
    }

    pub(crate) fn load(&self, word: usize) -> u64 {
        // Relaxed, here and below: who may look at a frame was given it by the table, and who gets it
        // next by a shoot-down. That these order is the library's promise, and tested so.
        self.words[word].load(Ordering::Relaxed)
    }

    /// Adds to a word, so that concurrent writes are all there in the end.
    pub(crate) fn add(&self, word: usize, amount: u64) {
        self.words[word].fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the sum of all words: what was added to the page since it came here.
    pub(crate) fn sum(&self) -> u64 {
        self.words.iter().map(|word| word.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::unpack(self.stamp.load(Ordering::Relaxed))
    }

    /// Stamps the frame for its next tenant, or as free.
    fn hand_to(&self, page: Option<usize>) {
        self.stamp.store(self.stamp().next(page).pack(), Ordering::Relaxed);
    }

    fn zero(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// A fixed number of frames. Memory is spent on those that were handed out.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    frames: Box<[OnceLock<Frame>]>,
    /// How many frames were ever handed out, or more, if some were asked for in vain.
    next: AtomicU64,
    pool: Mutex<Pool>,
    /// How many frames are in the pool: who finds none there takes no lock.
    pooled: AtomicU64,
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
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            frames: iter::repeat_with(OnceLock::new).take(frames).collect(),
            next: AtomicU64::new(0),
            pool: Mutex::default(),
            pooled: AtomicU64::new(0),
        }
    }

    /// Hands out a zeroed frame, or `None` if there is none left. Takes a lock only if frames were
    /// given back.
    pub(crate) fn allocate(&self) -> Option<HostPfn> {
        if let Some(pfn) = self.recycled() {
            return Some(pfn);
        }
        // Relaxed: the number alone matters, and no two vCPUs get the same.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = self.frames.get(number as usize)?;
        frame.get_or_init(Frame::zeroed);
        Some(HostPfn::new(BASE + number))
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

    /// Says which page a frame is for, before it is mapped there.
    pub(crate) fn assign(&self, pfn: HostPfn, page: usize) {
        let frame = self.frame(pfn).expect("frames are assigned by whoever was handed them");
        frame.hand_to(Some(page));
    }

    /// Takes back the frame that `page` had, of which the MMUs said `bits`; returns what is to be said of
    /// its stay, or `None` if the frame was never handed out. If anybody can still reach it, the stamp
    /// will tell.
    pub(crate) fn give_back(&self, page: usize, pfn: HostPfn, bits: Bits) -> Option<Life> {
        let life = self.life(page, pfn, bits)?;
        self.free(pfn);
        Some(life)
    }

    /// Returns what is to be said of a page that is in a frame now.
    pub(crate) fn life(&self, page: usize, pfn: HostPfn, bits: Bits) -> Option<Life> {
        let frame = self.frame(pfn)?;
        let stay = Stay { pfn, term: frame.stamp().term };
        Some(Life { page, stay, bits, sum: frame.sum() })
    }

    /// Takes back a frame that was handed out.
    pub(crate) fn free(&self, pfn: HostPfn) {
        let frame = self.frame(pfn).expect("frames are given back by whoever was handed them");
        frame.hand_to(None);
        frame.zero();
        let mut pool = self.pool();
        pool.free.push(pfn);
        pool.traffic.given_back += 1;
        self.pooled.store(pool.free.len() as u64, Ordering::Relaxed);
    }

    /// Returns what lies in a frame, or `None` if it was never handed out.
    pub(crate) fn frame(&self, pfn: HostPfn) -> Option<&Frame> {
        let number = pfn.get().checked_sub(BASE)?;
        self.frames.get(number as usize)?.get()
    }

    /// Returns how many times frames were handed out and given back, each from the first time on.
    pub(crate) fn traffic(&self) -> Traffic {
        let fresh = self.frames.iter().filter(|frame| frame.get().is_some()).count() as u64;
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

#[cfg(test)]
mod tests;
