//! The wide forms of x86-64: AVX2 loads, and exchanges of two slots.

use core::arch::{
    asm,
    x86_64::{
        __m128i, __m256i, _mm_cvtsi64_si128, _mm256_castsi256_pd, _mm256_movemask_pd,
        _mm256_sll_epi64,
    },
};

use super::{GROUP, Hits, group_by_word, took};
use crate::{entry::Entry, format::Take, level::SLOTS, sync::Ordering, table::Slot};

/// Slots in one load.
const LOAD: usize = 4;
/// The first slots of pairs, in a group that begins with a pair.
const FIRST_OF_PAIR: u64 = 0x5555_5555_5555_5555;

/// Slots of a group that are listed without a question whether there are so many.
const FEW: usize = 4;

/// Two slots on a boundary of 16 bytes, which one instruction exchanges.
#[derive(Clone, Copy)]
struct Pair<'s>(&'s [Slot; 2]);

/// The knowledge that the processor has AVX2, POPCNT and CMPXCHG16B.
///
/// Invariant `detected`: [`Wide::detect`] alone makes it.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    /// Asks the processor, once; the library remembers.
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let there =
            std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("cmpxchg16b");
        // Without the standard library only what the program is compiled for.
        #[cfg(not(feature = "std"))]
        let there = cfg!(all(
            target_feature = "avx2",
            target_feature = "popcnt",
            target_feature = "cmpxchg16b"
        ));
        there.then_some(Self(()))
    }

    /// As [`hits`](super::hits).
    #[inline]
    pub(super) fn hits(self, slots: &[Slot], bit: u64) -> Hits {
        // SAFETY: the processor has AVX2 (invariant `detected`).
        unsafe { hits(slots, bit) }
    }

    /// As [`take_hits`](super::take_hits).
    #[inline]
    pub(super) fn take_hits(self, slots: &[Slot], hits: &mut Hits, take: Take) -> u64 {
        // SAFETY: the processor has POPCNT (invariant `detected`).
        unsafe { self.take_listed(slots, hits, take) }
    }

    /// Takes pairs at once, and single slots from a list, which is made without asking where they are:
    /// to branch on that costs more than the exchange.
    #[target_feature(enable = "popcnt")]
    fn take_listed(self, slots: &[Slot], hits: &mut Hits, take: Take) -> u64 {
        let odd = u32::from(!slots.as_ptr().cast::<u128>().is_aligned());
        let (mut singles, mut count, mut taken) = ([0_u16; SLOTS + FEW], 0, 0);
        for (group, hits) in hits.iter_mut().enumerate() {
            // Both of a pair were hit. The one that begins with the last slot goes on in the next group.
            let both = *hits & (*hits >> 1) & (FIRST_OF_PAIR << odd);
            if both != 0 {
                let got = self.take_pairs(&slots[group * GROUP..], both, take);
                *hits &= got | !(both | both << 1);
                taken += got.count_ones();
            }
            let mut left = *hits & !(both | both << 1);
            let end = count + left.count_ones() as usize;
            let mut at = count;
            loop {
                for single in &mut singles[at..at + FEW] {
                    *single = (group * GROUP) as u16 + left.trailing_zeros() as u16;
                    left &= left.wrapping_sub(1);
                }
                at += FEW;
                if at >= end {
                    break;
                }
            }
            count = end;
        }
        for &index in &singles[..count] {
            let index = usize::from(index);
            if took(&slots[index], take) {
                taken += 1;
            } else {
                hits[index / GROUP] &= !(1 << (index % GROUP));
            }
        }
        u64::from(taken)
    }

    /// Takes a bit from the pairs that begin at the slots of `firsts`; returns those slots that had it.
    fn take_pairs(self, slots: &[Slot], firsts: u64, take: Take) -> u64 {
        let (mut left, mut taken) = (firsts, 0);
        while left != 0 {
            let first = left.trailing_zeros();
            left &= left - 1;
            taken |= self.take_pair(Pair::at(slots, first as usize), take) << first;
        }
        taken
    }

    /// Takes a bit from two slots; returns those that had it.
    #[inline]
    fn take_pair(self, pair: Pair<'_>, take: Take) -> u64 {
        // Relaxed: what is wrong here makes the exchange fail.
        self.take_seen(pair, pair.0.each_ref().map(|slot| slot.0.load(Ordering::Relaxed)), take)
    }

    /// As [`Self::take_pair`], of two slots that were as `seen` a moment ago.
    #[inline]
    fn take_seen(self, pair: Pair<'_>, seen: [u64; 2], take: Take) -> u64 {
        let next = seen.map(|word| take.from(Entry::from_raw(word)).raw());
        if seen[0] & seen[1] & take.bit() != 0 && self.exchange(pair, seen, next) {
            return 0b11;
        }
        // One of them changed meanwhile, or has lost the bit: each by itself.
        let [first, second] = pair.0;
        u64::from(took(first, take)) | u64::from(took(second, take)) << 1
    }

    /// Replaces both slots, if both are as `seen`; tells whether they were.
    #[inline]
    fn exchange(self, pair: Pair<'_>, seen: [u64; 2], next: [u64; 2]) -> bool {
        let won: u8;
        // SAFETY:
        // 1. The processor has CMPXCHG16B (invariant `detected`).
        // 2. The pair lies on a boundary of 16 bytes and may be written: slots are atomics.
        // 3. It is a locked instruction: to every other access of either slot, of whatever size, it is one
        //    access (Intel SDM vol. 3A, 9.1.2). So it does what two compare-exchanges would, one right
        //    behind the other.
        // 4. RBX, which the compiler keeps, is as it was.
        unsafe {
            asm!(
                "xchg rsi, rbx",
                "lock cmpxchg16b xmmword ptr [rdi]",
                "sete r8b",
                "mov rbx, rsi",
                in("rdi") pair.0.as_ptr(),
                inout("rsi") next[0] => _,
                in("rcx") next[1],
                inout("rax") seen[0] => _,
                inout("rdx") seen[1] => _,
                lateout("r8b") won,
                options(nostack),
            );
        }
        won != 0
    }
}

impl<'s> Pair<'s> {
    /// Returns the pair that begins at `first`, an index at which one begins.
    #[inline]
    fn at(group: &'s [Slot], first: usize) -> Self {
        let pair = group[first..].first_chunk().expect("both of the pair were hit");
        debug_assert!(core::ptr::from_ref(pair).cast::<u128>().is_aligned());
        Self(pair)
    }
}

#[target_feature(enable = "avx2")]
fn hits(slots: &[Slot], bit: u64) -> Hits {
    // Moves the bit to the sign of its word, which is what the mask is made of.
    let shift = _mm_cvtsi64_si128(i64::from(bit.leading_zeros()));
    let mut hits = Hits::default();
    let (groups, rest) = slots.as_chunks::<GROUP>();
    for (group, hits) in groups.iter().zip(&mut hits) {
        *hits = group_hits(group, shift);
    }
    if !rest.is_empty() {
        hits[groups.len()] = group_by_word(rest, bit);
    }
    hits
}

#[target_feature(enable = "avx2")]
#[inline]
fn group_hits(group: &[Slot; GROUP], shift: __m128i) -> u64 {
    let mut hits = 0;
    for (four, first) in group.as_chunks::<LOAD>().0.iter().zip((0..).step_by(LOAD)) {
        let signs = _mm256_sll_epi64(load(four), shift);
        let mask = _mm256_movemask_pd(_mm256_castsi256_pd(signs)) as u64;
        hits |= mask << first;
    }
    hits
}

/// Reads four slots.
#[target_feature(enable = "avx2")]
#[inline]
fn load(four: &[Slot; LOAD]) -> __m256i {
    let words: __m256i;
    // SAFETY:
    // 1. The processor has AVX2, or this could not be called.
    // 2. The four slots may be read. Others write to them meanwhile; but this is no access that the
    //    compiler sees, and the processor reads each byte once, so each bit as it was at some moment.
    unsafe {
        asm!(
            "vmovdqu {words}, ymmword ptr [{four}]",
            four = in(reg) four.as_ptr(),
            words = out(ymm_reg) words,
            options(readonly, nostack, preserves_flags),
        );
    }
    words
}

#[cfg(test)]
mod tests;
