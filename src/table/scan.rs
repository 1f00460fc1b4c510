//! Looking for a bit in many slots at a time, and taking it.
//!
//! A harvest reads every slot of a leaf table and changes few, so it looks first and takes where there
//! was something to see. The look is a hint: each slot as it stood at some moment, in no order. Only
//! the old value that a change returns decides what was there.
//!
//! Where the processor can, both are wide: 32 bytes a load, two slots an exchange. The language has no
//! atomic loads of that size, plain ones would race with the MMU and with every commit, and atomics of
//! two sizes must not meet in one place; so they are assembly. To the rest of the program they are what
//! they would be word by word: Relaxed loads, and one exchange behind the other. Everywhere else, and
//! for the model checkers, they are word by word. Tests compare the two.

#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
mod wide;

use super::Slot;
use crate::{format::Take, level::SLOTS, sync::Ordering};

/// Slots whose hits fit in a word.
pub(crate) const GROUP: usize = u64::BITS as usize;
/// Slots on one cache line: looked at together.
pub(super) const LINE: usize = 8;

/// Which slots of a run have a bit: bit `i` of word `w` is slot `64 * w + i` of the run.
pub(crate) type Hits = [u64; SLOTS.div_ceil(GROUP)];

/// Returns which of `slots`, at most a table's, have `bit`, a single one.
#[inline]
pub(crate) fn hits(slots: &[Slot], bit: u64) -> Hits {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
    if let Some(wide) = wide::Wide::detect() {
        return wide.hits(slots, bit);
    }
    hits_by_word(slots, bit)
}

/// Takes a bit from the slots of a leaf table that `hits` names. Leaves in `hits` those that had it, and
/// returns how many they are.
#[inline]
pub(crate) fn take_hits(slots: &[Slot], hits: &mut Hits, take: Take) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
    if let Some(wide) = wide::Wide::detect() {
        return wide.take_hits(slots, hits, take);
    }
    take_by_word(slots, hits, take)
}

fn hits_by_word(slots: &[Slot], bit: u64) -> Hits {
    let mut hits = Hits::default();
    for (group, hits) in slots.chunks(GROUP).zip(&mut hits) {
        *hits = group_by_word(group, bit);
    }
    hits
}

/// Returns which of at most 64 slots have `bit`.
fn group_by_word(group: &[Slot], bit: u64) -> u64 {
    let mut hits = 0;
    for (line, first) in group.chunks(LINE).zip((0..).step_by(LINE)) {
        let mut words = [0; LINE];
        for (word, slot) in words.iter_mut().zip(line) {
            // Relaxed: a hint.
            *word = slot.0.load(Ordering::Relaxed);
        }
        // One branch for a line without a hit.
        if words.iter().fold(0, |all, word| all | word) & bit != 0 {
            for (word, index) in words.iter().zip(first..) {
                hits |= u64::from(word & bit != 0) << index;
            }
        }
    }
    hits
}

/// As [`take_hits`].
fn take_by_word(slots: &[Slot], hits: &mut Hits, take: Take) -> u64 {
    let mut taken = 0;
    for (group, hits) in slots.chunks(GROUP).zip(hits) {
        let mut left = *hits;
        while left != 0 {
            let index = left.trailing_zeros();
            left &= left - 1;
            if took(&group[index as usize], take) {
                taken += 1;
            } else {
                *hits &= !(1 << index);
            }
        }
    }
    taken
}

/// Takes a bit from a slot; tells whether it was there.
#[inline]
fn took(slot: &Slot, take: Take) -> bool {
    // Not the value that the look found: another may have taken the bit since, or the leaf.
    slot.take(take).has(take.bit())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
