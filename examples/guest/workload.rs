//! What the vCPUs do with guest memory.
//!
//! A workload sees pages by their index and words within them, as if all of them were there: faults
//! are the [vCPU](crate::vcpu)'s business. Every write adds to a word, so that a page's sum says which
//! writes arrived; the vCPUs log what they did, and the audit compares.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use slat::{
    Prot,
    mmu::{Access, AccessKind},
};

use crate::{
    frame::{WORDS, Word},
    layout::Layout,
    manager::Turnover,
    precopy::Precopy,
    progress::Length,
    stage::Stage,
    trace::{Kind, Step, Trace},
};

/// The work of one guest.
pub(crate) trait Workload: Sync {
    /// Returns what to call it.
    fn name(&self) -> &str;

    /// Returns the guest memory that it needs.
    fn layout(&self) -> &Layout;

    /// Returns how much there is to do.
    fn length(&self, vcpus: usize) -> Length;

    /// Tells whether every page of the layout will have been touched in the end.
    fn touches_all(&self) -> bool;

    /// Returns what is to become of its memory while it runs; `None` if it stays as it is.
    fn turnover(&self) -> Option<Turnover> {
        None
    }

    /// Returns how its memory is copied while it runs; `None` if it is not.
    fn precopy(&self) -> Option<&Precopy> {
        None
    }

    /// Returns one vCPU's share of the work.
    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's>;
}

/// Whose share it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'s> {
    /// The number of the vCPU.
    pub(crate) number: usize,
    /// How many there are.
    pub(crate) count: usize,
    /// When they were let go.
    pub(crate) begun: Instant,
    pub(crate) stage: &'s Stage,
}

/// What one vCPU is to do, one after the other.
pub(crate) trait Share {
    fn next(&mut self) -> Option<Op>;

    /// Says that one was in vain, and none that follows was done: there is no memory.
    fn absent(&mut self) {}

    /// Says that all so far were done, or are not to be done any more.
    fn settled(&mut self) {}
}

impl<I: Iterator<Item = Op>> Share for I {
    fn next(&mut self) -> Option<Op> {
        Iterator::next(self)
    }
}

/// One thing that a guest does with a word of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) page: usize,
    pub(crate) word: usize,
    pub(crate) act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Fetches an instruction.
    Fetch,
    /// Reads it, whatever it holds.
    Load,
    /// Reads it; it must hold this.
    Expect(u64),
    /// Reads it; it must hold what this vCPU has added to the page since it came where it is.
    Recall,
    /// Adds to it.
    Add(u64),
    /// Does nothing for a while; the word is of no account.
    Pause,
}

impl Act {
    /// Returns how the MMU is asked, if it is.
    pub(crate) const fn access(self) -> Option<Access> {
        match self {
            Self::Fetch => Some(Access::FETCH),
            Self::Load | Self::Expect(_) | Self::Recall => Some(Access::READ),
            Self::Add(_) => Some(Access::WRITE),
            Self::Pause => None,
        }
    }
}

/// Returns the right that an access needs.
pub(crate) const fn needs(access: Access) -> Prot {
    match access.kind {
        AccessKind::Read => Prot::R,
        AccessKind::Write => Prot::W,
        AccessKind::Fetch => Prot::X,
    }
}

/// Steps between two looks at the clock.
const TICK: u64 = 1024;

/// Private touches: each vCPU has a part of memory to itself.
pub(crate) struct Touch {
    pub(crate) layout: Layout,
    pub(crate) seed: u64,
}

impl Touch {
    fn pages(&self, part: Part<'_>) -> Range<usize> {
        let bound = |number| self.layout.len() * number / part.count;
        bound(part.number)..bound(part.number + 1)
    }

    /// Returns which word of a page is written, and what: nothing in every fourth page, which is only
    /// read and must stay clean.
    fn stamp(&self, page: usize) -> (usize, Option<u64>) {
        let hash = mix(self.seed ^ page as u64);
        (hash as usize % WORDS, (page % 4 != 3).then_some(hash & Word::SUM | 1))
    }
}

impl Workload for Touch {
    fn name(&self) -> &str {
        "touch"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, _vcpus: usize) -> Length {
        let pages = self.layout.len() as u64;
        Length::Accesses(2 * pages + (pages - pages / 4))
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let first = self.pages(part).flat_map(|page| {
            let (word, stamp) = self.stamp(page);
            let read = Op { page, word, act: Act::Expect(0) };
            let write = stamp.map(|stamp| Op { page, word, act: Act::Add(stamp) });
            [Some(read), write].into_iter().flatten()
        });
        let second = self.pages(part).map(|page| {
            let (word, stamp) = self.stamp(page);
            Op { page, word, act: Act::Expect(stamp.unwrap_or(0)) }
        });
        Box::new(first.chain(second))
    }
}

/// Random reads and writes all over memory, for some time.
pub(crate) struct Random {
    pub(crate) layout: Layout,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
}

impl Workload for Random {
    fn name(&self) -> &str {
        "random"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, _vcpus: usize) -> Length {
        Length::Time(self.time)
    }

    fn touches_all(&self) -> bool {
        false
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let mut numbers = Numbers::new(self.seed, part.number);
        let in_time =
            move |&step: &u64| step % TICK != 0 || step == 0 || part.begun.elapsed() < self.time;
        let steps = (0..).take_while(in_time);
        Box::new(steps.map(move |_| {
            let random = numbers.next();
            access(random, (random >> 1) as usize % self.layout.len(), part.number)
        }))
    }
}

/// Returns a read or a write, by the lowest bit of a random number.
///
/// Each vCPU counts its writes to a page in a word of its own there, so it knows what it must read,
/// whatever the others do.
pub(crate) fn access(random: u64, page: usize, vcpu: usize) -> Op {
    Op { page, word: vcpu, act: if random & 1 == 0 { Act::Recall } else { Act::Add(1) } }
}

/// All vCPUs write to all pages in the same order.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
}

impl Workload for Shared {
    fn name(&self) -> &str {
        "shared"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, vcpus: usize) -> Length {
        Length::Accesses((self.layout.len() * vcpus) as u64)
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let act = Act::Add(part.number as u64 + 1);
        Box::new((0..self.layout.len()).map(move |page| Op { page, word: page % WORDS, act }))
    }
}

/// A program's accesses, dealt out to the vCPUs.
pub(crate) struct Replay {
    pub(crate) name: String,
    pub(crate) trace: Trace,
}

/// Accesses that one vCPU replays before the next has its turn: few, so that neighbours on the same
/// pages race for them.
const DEAL: usize = 16;

impl Workload for Replay {
    fn name(&self) -> &str {
        &self.name
    }

    fn layout(&self) -> &Layout {
        &self.trace.layout
    }

    fn length(&self, _vcpus: usize) -> Length {
        Length::Accesses(self.trace.steps.len() as u64)
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn share<'s>(&'s self, part: Part<'s>) -> Box<dyn Share + 's> {
        let hands = self.trace.steps.chunks(DEAL).skip(part.number).step_by(part.count);
        Box::new(hands.flatten().flat_map(|&Step { kind, page, word }| {
            let op = |act| Op { page: page as usize, word: usize::from(word), act };
            let (first, second) = match kind {
                Kind::Fetch => (Act::Fetch, None),
                Kind::Load => (Act::Load, None),
                Kind::Store => (Act::Add(1), None),
                Kind::Modify => (Act::Load, Some(Act::Add(1))),
            };
            [Some(op(first)), second.map(op)].into_iter().flatten()
        }))
    }
}

/// Random numbers of one vCPU.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64, number: usize) -> Self {
        Self(mix(seed ^ mix(number as u64)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }
}

/// Returns a number that looks unrelated to `seed` (SplitMix64).
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
