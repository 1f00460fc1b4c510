//! The workload `precopy`: vCPUs that write while their memory is being copied.
//!
//! Each touches its part of memory first, but for a reserve. When writes are tracked it brings that in,
//! too, so that pages appear under the copier. Then most of what it does is in a *window* of a few pages, as
//! many as a translation cache holds, in one of the hot places that all vCPUs share; after some time it takes
//! another. And now and then it goes on with a sweep over its part, of which each page is written once. The
//! sweep has a pace of its own, as a guest's work has, whatever the processor: so the shorter a round is, the
//! fewer pages it leaves dirty, down to those of the windows.
//!
//! What a window is for: while a vCPU is in one, its cache knows that the pages are dirty already. If that is
//! not flushed after a harvest, what it writes from then on is marked nowhere.

use std::{iter::Peekable, ops::Range, time::Instant};

use slat::{PageSize, RangeError};

use crate::{
    layout::Layout,
    precopy::Precopy,
    progress::Length,
    workload::{Numbers, Op, Part, Share, Workload, access},
};

/// Hot places.
const SPOTS: usize = 4;
/// All of memory, of which a spot has one part.
const SPOT: usize = 128;
/// Units that the reserve is cut into, if there are so many, and every how many of them it is.
const UNITS: usize = 64;
const RESERVE: usize = 8;
/// The sweep goes through memory in so many times what a link needs to copy it.
const SWEEP: f64 = 4.0;
/// Pages of a window, and which part of the time for all of memory a vCPU stays there.
const WINDOW: usize = 32;
const VISIT: u32 = 8;
/// While the sweep has to catch up, every so many accesses are its.
const STEP: u64 = 8;

/// Writes to memory that is being copied.
pub(crate) struct Writers {
    layout: Layout,
    seed: u64,
    precopy: Precopy,
}

impl Writers {
    /// Makes the workload for `bytes` of memory, mapped by such leaves.
    pub(crate) fn new(
        bytes: u64,
        granule: PageSize,
        seed: u64,
        precopy: Precopy,
    ) -> Result<Self, RangeError> {
        Ok(Self { layout: Layout::linear(bytes)?.with_granule(granule)?, seed, precopy })
    }

    /// Returns how many pages a unit has: those of whole leaves.
    fn unit(&self) -> usize {
        let granule = self.layout.granule().pages() as usize;
        (self.layout.len() / UNITS).max(1).next_multiple_of(granule)
    }

    /// Tells whether a page is touched only when writes are tracked.
    fn is_reserved(&self, page: usize) -> bool {
        page / self.unit() % RESERVE == RESERVE - 1
    }

    /// Returns the pages of a hot place: none of the reserve, which all are to find untouched.
    fn spot(&self, spot: usize) -> Range<usize> {
        let unit = self.unit();
        let start = self.layout.len() * spot / SPOTS / unit * unit;
        let start = if self.is_reserved(start) { 0 } else { start };
        let end = start + (self.layout.len() / SPOT).clamp(1, unit);
        start..end.min(self.layout.len())
    }

    fn pages(&self, part: Part<'_>) -> Range<usize> {
        let bound = |number| self.layout.len() * number / part.count;
        bound(part.number)..bound(part.number + 1)
    }
}

/// Returns what is done with a page, whoever's it is: a few are read and never written, and must stay clean.
fn use_page(random: u64, page: usize, vcpu: usize) -> Op {
    let random = if is_read_only(page) { 0 } else { random };
    access(random, page, vcpu)
}

/// Tells whether a page is never written.
pub(crate) fn is_read_only(page: usize) -> bool {
    page % 4 == 3
}

impl Workload for Writers {
    fn name(&self) -> &str {
        "precopy"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, _vcpus: usize) -> Length {
        Length::Rounds(self.precopy.most_rounds)
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn precopy(&self) -> Option<&Precopy> {
        Some(&self.precopy)
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let mut writer = Writer {
            writers: self,
            part,
            numbers: Numbers::new(self.seed, part.number),
            stand: Stand::Touching,
            to_touch: Vec::new().into_iter().peekable(),
            planned: 0,
            swept: 0,
            due: 0,
            window: 0..0,
            arrived: part.begun,
        };
        writer.arrive();
        writer.touch(|page| !self.is_reserved(page));
        Box::new(writer)
    }
}

/// How far a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It touches its memory.
    Touching,
    /// It has; it waits for the tracking, and works meanwhile.
    Waiting,
    /// It touches the reserve.
    Bringing,
    /// It sweeps, since then.
    Sweeping(Instant),
}

/// One vCPU.
struct Writer<'s> {
    writers: &'s Writers,
    part: Part<'s>,
    numbers: Numbers,
    stand: Stand,
    to_touch: Peekable<std::vec::IntoIter<usize>>,
    planned: u64,
    /// Pages that the sweep has been to, and should have.
    swept: u64,
    due: u64,
    /// Where it is most of the time, and since when.
    window: Range<usize>,
    arrived: Instant,
}

impl Writer<'_> {
    /// Plans to touch those pages of its part.
    fn touch(&mut self, which: impl Fn(usize) -> bool) {
        let pages = self.writers.pages(self.part).filter(|&page| which(page));
        self.to_touch = Vec::from_iter(pages).into_iter().peekable();
    }

    /// Takes another window.
    fn arrive(&mut self) {
        let random = self.numbers.next();
        let spot = self.writers.spot(random as usize % SPOTS);
        let windows = spot.len().div_ceil(WINDOW);
        let start = spot.start + (random >> 8) as usize % windows * WINDOW;
        self.window = start..(start + WINDOW).min(spot.end);
        self.arrived = Instant::now();
    }

    /// Goes on with the sweep.
    fn sweep(&mut self) -> Option<Op> {
        let pages = self.writers.pages(self.part);
        let page = pages.start + (self.swept as usize).checked_rem(pages.len())?;
        self.swept += 1;
        Some(use_page(1, page, self.part.number))
    }
}

impl Share for Writer<'_> {
    fn next(&mut self) -> Option<Op> {
        let number = self.part.number;
        if let Some(page) = self.to_touch.next() {
            return Some(use_page(1, page, number));
        }
        if !self.part.stage.managers.any() {
            return None;
        }
        self.planned += 1;
        if self.swept < self.due
            && self.planned.is_multiple_of(STEP)
            && let Some(op) = self.sweep()
        {
            return Some(op);
        }
        let random = self.numbers.next();
        let page = self.window.start + (random >> 1) as usize % self.window.len();
        Some(use_page(random, page, number))
    }

    fn settled(&mut self) {
        let phase = &self.part.stage.phase;
        if self.arrived.elapsed() * VISIT > self.writers.precopy.link {
            self.arrive();
        }
        if self.to_touch.peek().is_some() {
            return;
        }
        match self.stand {
            Stand::Touching => {
                phase.touched();
                self.stand = Stand::Waiting;
            }
            Stand::Waiting if phase.is_tracked() => {
                self.touch(|page| self.writers.is_reserved(page));
                self.stand = Stand::Bringing;
            }
            Stand::Waiting => {}
            Stand::Bringing => {
                phase.touched();
                self.stand = Stand::Sweeping(Instant::now());
            }
            Stand::Sweeping(since) => {
                let time = SWEEP * self.writers.precopy.link.as_secs_f64();
                let pages = self.writers.pages(self.part).len() as f64;
                self.due = (since.elapsed().as_secs_f64() / time * pages) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
