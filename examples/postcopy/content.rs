//! What memory consists of before anybody writes to it, and which words of it are whose.
//!
//! Every word follows from the seed and its place. So a word that a vCPU reads is known to be right or wrong at
//! once, and a page that was never sent, or sent elsewhere, is found out by whichever word is looked at.

/// Words of 64 bits in a page.
pub(crate) const WORDS: usize = 512;

/// The memory of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    seed: u64,
}

impl Content {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns what the source has in a word.
    pub(crate) const fn word(self, page: u64, word: usize) -> u64 {
        mix(self.seed ^ mix(page * WORDS as u64 + word as u64))
    }

    /// Returns the one word of a page that vCPU number `vcpu` writes.
    pub(crate) const fn word_of(self, page: u64, vcpu: usize) -> usize {
        (self.first_owned(page) + vcpu) % WORDS
    }

    /// Returns the number of the vCPU that writes a word; nobody does if there are not so many.
    pub(crate) const fn owner(self, page: u64, word: usize) -> usize {
        (word + WORDS - self.first_owned(page)) % WORDS
    }

    /// Somewhere else in every page, so that no part of pages goes unwritten.
    const fn first_owned(self, page: u64) -> usize {
        (mix(self.seed ^ !page) % WORDS as u64) as usize
    }
}

/// Random numbers, as many as are asked for, the same for the same seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Returns one below `end`, which is not 0.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Splitmix64: each bit of the number has a say in each bit of the result.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(STEP);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vcpu_has_a_word_of_its_own_in_every_page() {
        let content = Content::new(7);
        for page in [0, 1, 2, 1 << 40] {
            for vcpu in [0, 1, 7, WORDS - 1] {
                assert_eq!(content.owner(page, content.word_of(page, vcpu)), vcpu);
            }
        }
    }

    #[test]
    fn words_differ_by_place_and_seed() {
        let content = Content::new(1);
        let mut words: Vec<_> = (0..8 * WORDS)
            .map(|at| content.word((at / WORDS) as u64, at % WORDS))
            .chain([Content::new(2).word(0, 0)])
            .collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
