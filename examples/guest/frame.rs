//! What lies in a frame of guest memory, word by word.

#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::sync::atomic::{AtomicU64, Ordering};

use slat::PAGE_BYTES;

use crate::{mapping::Mapping, memory::Stay};

/// Words of 64 bits in a page.
pub(crate) const WORDS: usize = PAGE_BYTES as usize / 8;

/// A word of guest memory.
///
/// ```text
///   63              40 39                               8 7             0
///  +------------------+----------------------------------+---------------+
///  | sum, mod 2^24    | number of the stay; 0: it's free | 0xc3, a `ret` |
///  +------------------+----------------------------------+---------------+
/// ```
///
/// The sum is uppermost, so that to add to it never touches the rest. The lowest byte comes first in
/// memory: whichever word a guest calls, it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) sum: u64,
    pub(crate) stay: Option<Stay>,
}

impl Word {
    /// Of a frame that nobody has.
    pub(crate) const FREE: Self = Self { sum: 0, stay: None };

    const RET: u64 = 0xc3;
    const STAY_SHIFT: u32 = 8;
    const SUM_SHIFT: u32 = 40;
    /// What sums are taken modulo, less one.
    pub(crate) const SUM: u64 = u64::MAX >> Self::SUM_SHIFT;

    pub(crate) fn from_raw(raw: u64) -> Self {
        let stay = Stay::new((raw >> Self::STAY_SHIFT) as u32);
        Self { sum: raw >> Self::SUM_SHIFT, stay }
    }

    pub(crate) fn raw(self) -> u64 {
        let stay = u64::from(self.stay.map_or(0, Stay::get));
        self.sum << Self::SUM_SHIFT | stay << Self::STAY_SHIFT | Self::RET
    }

    /// Returns what to add to a raw word, so that its sum grows by `amount`.
    pub(crate) const fn addend(amount: u64) -> u64 {
        amount << Self::SUM_SHIFT
    }
}

/// One frame. Guests share memory without asking each other, so its words are atomic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'m>(&'m [AtomicU64]);

// Relaxed in all of this: who may look at a frame was given it by the table, and who gets it next by a
// shoot-down. That these order is the library's promise, and tested so.
impl<'m> Frame<'m> {
    /// Returns the frame that is the `number`-th of a mapping, which has so many.
    pub(crate) fn of(mapping: &'m Mapping, number: u64) -> Self {
        Self(mapping.words(number as usize * PAGE_BYTES as usize, WORDS))
    }

    pub(crate) fn load(self, word: usize) -> Word {
        Word::from_raw(self.0[word].load(Ordering::Relaxed))
    }

    /// Adds to a word, so that concurrent writes are all there in the end; returns what it was.
    pub(crate) fn add(self, word: usize, amount: u64) -> Word {
        Word::from_raw(self.0[word].fetch_add(Word::addend(amount), Ordering::Relaxed))
    }

    /// Returns whose frame it is; `None` if it is free.
    pub(crate) fn stay(self) -> Option<Stay> {
        self.load(0).stay
    }

    /// Returns the sum of all words: what was added to the page during its stay.
    pub(crate) fn sum(self) -> u64 {
        (0..WORDS).map(|word| self.load(word).sum).sum::<u64>() & Word::SUM
    }

    /// Fills the frame with zeroes, for another stay.
    pub(crate) fn fill(self, stay: Option<Stay>) {
        let word = Word { sum: 0, stay }.raw();
        self.0.iter().for_each(|place| place.store(word, Ordering::Relaxed));
    }

    pub(crate) fn copy_from(self, other: Frame<'_>) {
        for (to, from) in self.0.iter().zip(other.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
