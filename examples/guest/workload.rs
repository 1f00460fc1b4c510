//! What the vCPUs do with guest memory.
//!
//! A workload sees pages by their index and words within them, as if all of them were there: faults
//! are the [`Vcpu`]'s business. Every write adds to a word, so that a page's sum says which writes
//! arrived; the vCPUs log what they did, and the audit compares.

use std::{ops::Range, time::Duration};

use crate::{
    layout::Layout,
    memory::WORDS,
    trace::{Kind, Trace},
    vcpu::{Broken, Vcpu},
};

/// The work of one guest.
pub(crate) trait Workload: Sync {
    /// Returns what to call it.
    fn name(&self) -> &str;

    /// Returns the guest memory that it needs.
    fn layout(&self) -> &Layout;

    /// Returns how far [`Vcpu::advance`] will come, for the progress bar.
    fn length(&self, vcpus: usize) -> u64;

    /// Tells whether every page of the layout will have been touched in the end.
    fn touches_all(&self) -> bool;

    /// Does one vCPU's share of the work.
    fn run(&self, vcpu: &mut Vcpu<'_>) -> Result<(), Broken>;
}

/// Steps between two looks at the clock.
const BATCH: usize = 1024;

/// Private touches: each vCPU has a part of memory to itself.
pub(crate) struct Touch {
    pub(crate) layout: Layout,
    pub(crate) seed: u64,
}

impl Touch {
    fn share(&self, vcpu: &Vcpu<'_>) -> Range<usize> {
        let bound = |number| self.layout.len() * number / vcpu.count;
        bound(vcpu.number)..bound(vcpu.number + 1)
    }

    /// Returns which word of a page is written, and what: 0 in every fourth page, which is only read
    /// and must stay clean.
    fn stamp(&self, page: usize) -> (usize, u64) {
        let hash = mix(self.seed ^ page as u64);
        (hash as usize % WORDS, if page % 4 == 3 { 0 } else { hash | 1 })
    }
}

impl Workload for Touch {
    fn name(&self) -> &str {
        "touch"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn length(&self, _vcpus: usize) -> u64 {
        2 * self.layout.len() as u64
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn run(&self, vcpu: &mut Vcpu<'_>) -> Result<(), Broken> {
        for page in self.share(vcpu) {
            let (word, stamp) = self.stamp(page);
            vcpu.expect(page, word, 0)?;
            if stamp != 0 {
                vcpu.add(page, word, stamp)?;
            }
            vcpu.advance(1);
        }
        for page in self.share(vcpu) {
            let (word, stamp) = self.stamp(page);
            vcpu.expect(page, word, stamp)?;
            vcpu.advance(1);
        }
        Ok(())
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

    fn length(&self, vcpus: usize) -> u64 {
        self.time.as_millis() as u64 * vcpus as u64
    }

    fn touches_all(&self) -> bool {
        false
    }

    /// Each vCPU counts its writes to a page in a word of its own there, so it knows what it must
    /// read, whatever the others do.
    fn run(&self, vcpu: &mut Vcpu<'_>) -> Result<(), Broken> {
        let word = vcpu.number;
        let mut counter = mix(self.seed ^ mix(vcpu.number as u64));
        let mut elapsed = Duration::ZERO;
        while elapsed < self.time {
            for _ in 0..BATCH {
                counter = counter.wrapping_add(1);
                let random = mix(counter);
                let page = (random >> 1) as usize % self.layout.len();
                if random & 1 == 0 {
                    let writes = vcpu.sum(page);
                    vcpu.expect(page, word, writes)?;
                } else {
                    vcpu.add(page, word, 1)?;
                }
            }
            let before = elapsed.as_millis();
            elapsed = vcpu.elapsed();
            vcpu.advance((elapsed.as_millis() - before) as u64);
        }
        Ok(())
    }
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

    fn length(&self, vcpus: usize) -> u64 {
        (self.layout.len() * vcpus) as u64
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn run(&self, vcpu: &mut Vcpu<'_>) -> Result<(), Broken> {
        for page in 0..self.layout.len() {
            vcpu.add(page, page % WORDS, vcpu.number as u64 + 1)?;
            vcpu.advance(1);
        }
        Ok(())
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

    fn length(&self, _vcpus: usize) -> u64 {
        self.trace.steps.len() as u64
    }

    fn touches_all(&self) -> bool {
        true
    }

    fn run(&self, vcpu: &mut Vcpu<'_>) -> Result<(), Broken> {
        let hands = self.trace.steps.chunks(DEAL).skip(vcpu.number).step_by(vcpu.count);
        for step in hands.flatten() {
            let (page, word) = (step.page as usize, usize::from(step.word));
            match step.kind {
                Kind::Fetch => vcpu.fetch(page, word)?,
                Kind::Load => vcpu.load(page, word)?,
                Kind::Store => vcpu.add(page, word, 1)?,
                Kind::Modify => {
                    vcpu.load(page, word)?;
                    vcpu.add(page, word, 1)?;
                }
            }
            vcpu.advance(1);
        }
        Ok(())
    }
}

/// Returns a number that looks unrelated to `seed` (SplitMix64).
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
