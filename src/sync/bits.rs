//! A set of numbers that only grows, and that anyone may look into without a lock.

use alloc::boxed::Box;

use super::{AtomicU64, Ordering};

/// Bits that are clear at first, and stay set.
#[derive(Debug)]
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    /// Makes `count` bits.
    ///
    /// # Panics
    /// As a `Vec` does, if there is no memory for them.
    pub(crate) fn new(count: u64) -> Self {
        let words = count.div_ceil(u64::BITS.into());
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Sets bit `index`: what the caller did before is done for everyone who finds it set.
    ///
    /// # Panics
    /// If there is no such bit; so does [`is_set`](Self::is_set).
    pub(crate) fn set(&self, index: u64) {
        let (word, mask) = self.place(index);
        // Release: what the bit stands for comes before the bit;
        //   pairs with `is_set` [edge: supplied].
        // An exchange, and no store: it goes on with the release sequences of the word's other bits.
        word.fetch_or(mask, Ordering::Release);
    }

    /// Tells whether bit `index` is set. If it is, what was done before it was set is done.
    #[inline]
    pub(crate) fn is_set(&self, index: u64) -> bool {
        let (word, mask) = self.place(index);
        // Acquire: what the bit stands for comes before what the caller does with it;
        //   pairs with `set` [edge: supplied].
        word.load(Ordering::Acquire) & mask != 0
    }

    #[inline]
    fn place(&self, index: u64) -> (&AtomicU64, u64) {
        let bits = u64::from(u64::BITS);
        (&self.0[(index / bits) as usize], 1 << (index % bits))
    }
}
