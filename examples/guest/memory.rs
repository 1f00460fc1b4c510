//! The host's side of guest memory: frames with real contents, handed out to whoever faults, and given
//! back by whoever took a page away.
//!
//! Every word of a page says whose it is: besides a sum, which guests add to, it bears the number of the
//! page's [`Stay`]. So an access of one instruction tells all there is to know of it. A guest that still
//! reaches a frame through a translation that should be gone finds the stay of another page, or none.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    io, iter,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use slat::{Ended, Gpa, GpaRange, HostPfn, Mapping as Leaf, PAGE_BYTES, PageSize, Released};

use crate::{
    deeds::{Bits, Life},
    frame::{Frame, Word},
    kvm::DATA as FIRST,
    mapping::Mapping,
};

/// One stay of a page, or of as many as a large leaf maps, in memory: from when frames were filled for it
/// until they were given back. What is moved to other frames takes its contents along, and stays.
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
    /// The frames before this number were handed out, or lie between such as had to be aligned.
    next: AtomicU64,
    /// How many lie there.
    gaps: AtomicU64,
    pool: Mutex<Pool>,
    /// How many frames are in the pool: who finds none there takes no lock.
    pooled: AtomicU64,
    /// The pages of each stay: those of stay `n` are at `n - 1`.
    tenants: boxcar::Vec<GpaRange>,
    journal: Mutex<Journal>,
}

/// What became of pages that were taken away, for the audit.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The stays that ended.
    pub(crate) lives: Vec<Life>,
    /// What the entries said of pages that moved to other frames, and stay.
    pub(crate) moved: Vec<(Stay, Bits)>,
    /// Pages that moved: such as were copied while they were mapped, and such as were unmapped first.
    pub(crate) copied: u64,
    pub(crate) unmapped_first: u64,
    /// Leaves that came back and were mapped to frames that nobody was given.
    pub(crate) strays: u64,
}

/// Frames that were given back.
#[derive(Debug, Default)]
struct Pool {
    /// The first frames of leaves of each size. The last is handed out first: the sooner a frame has a new
    /// tenant, the sooner it shows that somebody still uses it for the old one.
    free: [Vec<HostPfn>; 3],
    traffic: Traffic,
}

/// How often frames of 4 KiB changed hands.
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
            gaps: AtomicU64::new(0),
            pool: Mutex::default(),
            pooled: AtomicU64::new(0),
            tenants: boxcar::Vec::new(),
            journal: Mutex::default(),
        })
    }

    /// Returns where the frames are in this process, one after the other.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Hands out the frames of a leaf, of which it returns the first, aligned to its size; or `None` if
    /// there are none left. Takes a lock only if frames were given back.
    pub(crate) fn allocate(&self, size: PageSize) -> Option<HostPfn> {
        if let Some(pfn) = self.recycled(size) {
            return Some(pfn);
        }
        let place = |next: u64| {
            let first = next.next_multiple_of(size.pages());
            (first, first + size.pages())
        };
        let end = |next| Some(place(next).1).filter(|&end| end <= self.capacity);
        // Relaxed: the numbers alone matter, and no two vCPUs get the same.
        let next = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok()?;
        let (first, _) = place(next);
        self.gaps.fetch_add(first - next, Ordering::Relaxed);
        Some(HostPfn::new(FIRST.get() + first))
    }

    fn recycled(&self, size: PageSize) -> Option<HostPfn> {
        // Relaxed: a frame that is not seen yet is there for the next one who asks.
        if self.pooled.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut pool = self.pool();
        let pfn = pool.free[size as usize].pop()?;
        pool.traffic.handed_out += size.pages();
        self.count_pooled(&pool);
        Some(pfn)
    }

    fn count_pooled(&self, pool: &Pool) {
        let pooled = pool.free.iter().map(Vec::len).sum::<usize>();
        self.pooled.store(pooled as u64, Ordering::Relaxed);
    }

    /// Fills frames with zeroes for `leaf`, before it is mapped to them.
    pub(crate) fn assign(&self, pfn: HostPfn, leaf: GpaRange) -> Stay {
        let number = self.tenants.push(leaf) as u32 + 1;
        let stay = Stay::new(number).expect("stays are numbered from 1");
        self.fill(pfn, leaf.pages(), Some(stay));
        stay
    }

    fn fill(&self, pfn: HostPfn, pages: u64, stay: Option<Stay>) {
        run(pfn, pages).for_each(|pfn| self.handed_out(pfn).fill(stay));
    }

    /// Copies what is in the frames of one leaf to those of another: its pages move there.
    pub(crate) fn copy(&self, from: HostPfn, to: HostPfn, size: PageSize) {
        for (from, to) in iter::zip(run(from, size.pages()), run(to, size.pages())) {
            self.handed_out(to).copy_from(self.handed_out(from));
        }
    }

    /// Returns the pages of a stay.
    pub(crate) fn tenant(&self, stay: Stay) -> Option<GpaRange> {
        self.tenants.get(stay.get() as usize - 1).copied()
    }

    /// Takes back the frames of a leaf that nobody reaches any more, and notes what is to be said of its stay
    /// if it was mapped. If anybody does reach them, their words will tell.
    pub(crate) fn give_back(&self, leaf: GpaRange, released: Released) {
        let Released { frame, size, ended, .. } = released;
        if let Ended::Unmapped { accessed, dirty } = ended {
            let Some(life) = self.life(leaf, frame, Bits { accessed, dirty }) else {
                self.journal().strays += 1;
                return;
            };
            self.journal().lives.push(life);
        }
        self.free(frame, size);
    }

    /// Returns what is to be said of a leaf that is, or was, mapped to the frames from `pfn` on, which have
    /// one stay; `None` if they were never handed out.
    pub(crate) fn life(&self, leaf: GpaRange, pfn: HostPfn, bits: Bits) -> Option<Life> {
        let stay = self.frame(pfn)?.stay()?;
        let sums = run(pfn, leaf.pages()).map(|pfn| Some(self.frame(pfn)?.sum()));
        let sum = sums.sum::<Option<u64>>()? & Word::SUM;
        Some(Life { leaf, stay, bits, sum })
    }

    /// Returns what is to be said of each of the stays in the frames that a leaf maps now: several, if small
    /// leaves were made one.
    pub(crate) fn lives(&self, mapped: Leaf) -> Vec<Life> {
        let pages = iter::zip(pages(&mapped), frames([&mapped]));
        let page = |gpa| GpaRange::from_pages(gpa, 1).expect("the leaf has it");
        let lives = pages.filter_map(|(gpa, pfn)| self.life(page(gpa), pfn, mapped.into()));
        let mut all: Vec<Life> = Vec::new();
        for life in lives {
            match all.last_mut().filter(|last| last.stay == life.stay) {
                Some(last) => last.take_in(life),
                None => all.push(life),
            }
        }
        all
    }

    /// Takes back the frames of a leaf.
    pub(crate) fn free(&self, pfn: HostPfn, size: PageSize) {
        self.fill(pfn, size.pages(), None);
        let mut pool = self.pool();
        pool.free[size as usize].push(pfn);
        pool.traffic.given_back += size.pages();
        self.count_pooled(&pool);
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
        let fresh = self.next.load(Ordering::Relaxed) - self.gaps.load(Ordering::Relaxed);
        let Traffic { handed_out, given_back } = self.pool().traffic;
        Traffic { handed_out: fresh + handed_out, given_back }
    }

    /// Returns what became of pages that were taken away.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Returns as many frames from one on as there are.
fn run(first: HostPfn, count: u64) -> impl Iterator<Item = HostPfn> {
    (first.get()..first.get() + count).map(HostPfn::new)
}

/// Returns the frames that leaves map.
pub(crate) fn frames<'l>(
    leaves: impl IntoIterator<Item = &'l Leaf>,
) -> impl Iterator<Item = HostPfn> {
    leaves.into_iter().flat_map(|leaf| run(leaf.pfn, leaf.size.pages()))
}

/// Returns the addresses of the pages that a leaf maps, also of the last ones of the input space.
pub(crate) fn pages(leaf: &Leaf) -> impl Iterator<Item = Gpa> {
    let first = leaf.gpa.get();
    (0..leaf.size.pages()).map(move |page| Gpa::new(first + page * PAGE_BYTES))
}

/// Bytes of the host's that a page of guest memory takes, with what is remembered of it.
pub(crate) const PAGE_COST: u64 = PAGE_BYTES + 2 * size_of::<GpaRange>() as u64;

#[cfg(test)]
mod tests;
