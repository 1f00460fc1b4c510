//! A copy of all of the guest's memory, made while it writes, as for a live migration: in rounds, of the pages that
//! were written since the last one. In the end the copy has to be memory, byte by byte.

use alloc::{sync::Arc, vec, vec::Vec};
use core::num::NonZero;

use slat::{Bitmap, FramePool, Gpa, GpaRange, Heat, HostPfn, Mark, PAGE_BYTES, PageSize, Tracking};

use super::{
    memory::{Hands, Memory, Places, RAM, pages},
    options::Copying,
    pool::Pool,
};
use crate::machine::{console::say, memory::pointer};

/// So many characters a round's picture has.
const CELLS: NonZero<usize> = NonZero::new(64).unwrap();
/// Of so many pages that were written a lossy copy passes one over.
const LOST: usize = 64;
const WORDS: usize = (PAGE_BYTES / 8) as usize;

/// The copy.
#[derive(Debug)]
pub(super) struct Copy {
    space: Memory,
    hands: Hands,
    ram: [GpaRange; 2],
    pool: Arc<Pool>,
    /// The copy of each page, if there is one.
    frames: Vec<Option<HostPfn>>,
    copying: Copying,
    rounds: u64,
    copied: u64,
}

/// How the copy compares to memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compared {
    pub(super) same: u64,
    pub(super) different: u64,
}

/// Returns a word of a frame.
fn word(frame: HostPfn, index: usize) -> u64 {
    // SAFETY: the frame is of the guest's memory or of the copy, and mapped one to one; nobody has a reference to it.
    unsafe { pointer::<u64>(frame).wrapping_add(index).read_volatile() }
}

fn all_pages(range: GpaRange) -> impl Iterator<Item = Gpa> {
    (0..range.pages()).map(move |page| Gpa::new(range.start().get() + page * PAGE_BYTES))
}

impl Copy {
    /// Switches tracking on, and copies all that is there.
    pub(super) fn begin(
        space: &Memory,
        places: &Places,
        pool: Arc<Pool>,
        copying: Copying,
    ) -> Self {
        space.track_dirty(Tracking::On).expect("there is room for small leaves");
        let mut copy = Self {
            space: space.clone(),
            hands: space.vcpu(),
            ram: [0, 1].map(|index| pages(&places.ram[index])),
            pool,
            frames: vec![None; (RAM / PAGE_BYTES) as usize],
            copying,
            rounds: 0,
            copied: 0,
        };
        for gpa in copy.ram.into_iter().flat_map(all_pages) {
            copy.take(gpa);
        }
        copy
    }

    /// Returns the frame of the guest's page.
    fn frame(&self, gpa: Gpa) -> Option<HostPfn> {
        self.hands.reader().pin().lookup(gpa)?.frame_of(gpa)
    }

    /// Copies a page, if it is there, word by word.
    fn take(&mut self, gpa: Gpa) {
        let Some(from) = self.frame(gpa) else { return };
        let pool = &self.pool;
        let to = &mut self.frames[(gpa.get() / PAGE_BYTES) as usize];
        let to = *to.get_or_insert_with(|| {
            pool.take(PageSize::Size4K).expect("there is memory for a copy")
        });
        for index in 0..WORDS {
            // SAFETY: as in `word`. Other processors may write it meanwhile: then it is copied again in the next round.
            unsafe { pointer::<u64>(to).wrapping_add(index).write_volatile(word(from, index)) };
        }
        self.copied += 1;
    }

    /// Puts what was written since the last time into `found`.
    fn harvest(&self, range: GpaRange, found: &mut Bitmap) {
        if self.copying == Copying::Stale {
            let pin = self.hands.reader().pin();
            let (_, flush) =
                pin.harvest(range, Mark::Dirty, found).expect("the bitmap is of the range");
            // The mistake.
            return drop(flush);
        }
        self.space.dirty(range, found).expect("writes are tracked");
    }

    /// Copies what was written since the last round; returns how much.
    pub(super) fn round(&mut self) -> u64 {
        self.rounds += 1;
        let [low, high] = self.ram.map(|range| {
            let mut found = Bitmap::new(range);
            self.harvest(range, &mut found);
            found
        });
        let written = low.runs().chain(high.runs()).flat_map(all_pages);
        let is_lossy = self.copying == Copying::Lossy;
        let kept = written.enumerate().filter(|(nth, _)| !is_lossy || !nth.is_multiple_of(LOST));
        kept.for_each(|(_, gpa)| self.take(gpa));
        let count = low.count() + high.count();
        say!("round {:3}: {count:6} pages |{}|", self.rounds, Heat::new(&high, CELLS));
        count
    }

    /// Compares the copy to memory; the guest has ended.
    pub(super) fn compare(&mut self) -> Compared {
        self.round();
        let mut compared = Compared::default();
        for gpa in self.ram.into_iter().flat_map(all_pages) {
            let Some(frame) = self.frame(gpa) else { continue };
            let copy = self.frames[(gpa.get() / PAGE_BYTES) as usize];
            // What was never written is all zeros.
            let expected = |index| copy.map_or(0, |copy| word(copy, index));
            if (0..WORDS).all(|index| word(frame, index) == expected(index)) {
                compared.same += 1;
            } else {
                compared.different += 1;
            }
        }
        say!("{} rounds, {} pages copied; {compared:?}", self.rounds, self.copied);
        compared
    }
}
