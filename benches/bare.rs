//! The bare operations: what a walk, a walk with a compare-exchange, and the links of a region cost
//! without any protocol. They run over the library's own tables, in the same memory, so a comparison
//! sees the same caches.

#![expect(unsafe_code, reason = "walks raw tables by hand, as the limit to compare with")]
#![expect(clippy::disallowed_types, reason = "the bare operation uses the bare atomic")]

mod beside;

use std::sync::atomic::{AtomicU64, Ordering};

pub use beside::{Beside, Numbers, RWX, Table, area, empty_table, ept, runs_once, table, timed};
use slat::{Arena, Gpa, GpaRange, HostPfn};

const PRESENT: u64 = 0b111;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Four levels of EPT tables in an arena, as bare words.
#[derive(Clone, Copy, Debug)]
pub struct Bare<'a> {
    words: &'a [AtomicU64],
    base: u64,
    root: u64,
}

impl<'a> Bare<'a> {
    /// Looks at the tables of `table`, whose frames lie in `arena`.
    pub fn of(table: &Table, arena: &'a Arena) -> Self {
        let count = arena.capacity() as usize * 512;
        // SAFETY: the arena is mapped, page-aligned, and holds nothing but tables, whose words are
        // atomics; it outlives `'a`.
        let words =
            unsafe { std::slice::from_raw_parts(arena.as_ptr().cast::<AtomicU64>(), count) };
        Self { words, base: arena.base().get(), root: table.root().get() }
    }

    #[inline]
    fn slot(&self, frame: u64, index: u64) -> &'a AtomicU64 {
        &self.words[((frame - self.base) * 512 + (index & 511)) as usize]
    }

    /// Walks to the leaf's slot, checking each entry on the way.
    #[inline]
    fn leaf(&self, gpa: u64) -> Option<&'a AtomicU64> {
        let mut frame = self.root;
        for shift in [39, 30, 21] {
            let entry = self.slot(frame, gpa >> shift).load(Ordering::Acquire);
            if entry & PRESENT == 0 || entry & LARGE != 0 {
                return None;
            }
            frame = (entry & FRAME) >> 12;
        }
        Some(self.slot(frame, gpa >> 12))
    }

    /// Returns the frame behind `gpa`: four loads, each checked.
    #[inline]
    #[must_use]
    pub fn lookup(&self, gpa: Gpa) -> Option<HostPfn> {
        let entry = self.leaf(gpa.get())?.load(Ordering::Acquire);
        (entry & PRESENT != 0).then(|| HostPfn::new((entry & FRAME) >> 12))
    }

    /// Returns the slots of all leaves of `range`, whose tables lie side by side.
    ///
    /// # Panics
    /// If they do not, or one is missing.
    #[must_use]
    pub fn leaves(&self, range: GpaRange) -> &'a [AtomicU64] {
        let first = self.leaf(range.start().get()).expect("the range is populated");
        let last = self.leaf(range.last().get()).expect("the range is populated");
        let index = |slot: &AtomicU64| {
            ((&raw const *slot).addr() - self.words.as_ptr().addr()) / size_of::<u64>()
        };
        let leaves = &self.words[index(first)..=index(last)];
        assert_eq!(leaves.len() as u64, range.pages(), "the leaf tables lie side by side");
        leaves
    }

    /// Walks and replaces the leaf entry `from` by `to`, by one compare-exchange.
    #[inline]
    #[must_use]
    pub fn exchange(&self, gpa: Gpa, from: u64, to: u64) -> bool {
        self.leaf(gpa.get()).is_some_and(|slot| {
            slot.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Walks and clears the leaf entry, whatever it is.
    ///
    /// # Panics
    /// If there is no leaf table.
    pub fn clear(&self, gpa: Gpa) -> u64 {
        self.leaf(gpa.get()).expect("the page is populated").swap(0, Ordering::Relaxed)
    }
}

/// Reads `words`, as wide as the processor can, and returns what all of them have together: the least that
/// a scan of them costs. Nobody writes them meanwhile.
#[must_use]
pub fn read(words: &[AtomicU64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { read_avx2(words) };
    }
    words.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(words: &[AtomicU64]) -> u64 {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_or_si256, _mm256_setzero_si256};

    let mut all = [_mm256_setzero_si256(); 8];
    let (lines, rest) = words.as_chunks::<32>();
    for line in lines {
        for (sum, four) in all.iter_mut().zip(line.as_chunks::<4>().0) {
            // SAFETY: 32 bytes that nobody writes meanwhile.
            let words = unsafe { _mm256_loadu_si256(four.as_ptr().cast::<__m256i>()) };
            *sum = _mm256_or_si256(*sum, words);
        }
    }
    let all = all.into_iter().reduce(|a, b| _mm256_or_si256(a, b)).expect("eight of them");
    // SAFETY: any 32 bytes are four numbers.
    let all: [u64; 4] = unsafe { std::mem::transmute(all) };
    rest.iter()
        .fold(all.into_iter().fold(0, |a, b| a | b), |all, word| all | word.load(Ordering::Relaxed))
}

/// Writes the links of `tables` leaf tables into `links`: one store each, and nothing else.
pub fn link(links: &[AtomicU64], tables: u64) {
    for (index, slot) in (0..tables).zip(links) {
        slot.store((0x1000 + index) << 12 | PRESENT, Ordering::Release);
    }
}
