//! A witness of publication: nothing in an ordinary build, a plain cell under loom.
//!
//! Whoever initialises a table in private writes its witness, and whoever descends into the table
//! reads it. The cell is not atomic, so loom fails an execution in which the publication does not
//! order the two, even where the entries themselves would compare equal.

/// Writes to it must happen before, or after, every read.
#[derive(Debug)]
pub(crate) struct Witness(#[cfg(loom)] loom::cell::UnsafeCell<()>);

#[cfg(loom)]
#[expect(unsafe_code, reason = "the checker watches the cell; that is what it is for")]
// SAFETY: the cell holds nothing, and loom stops the execution at the first unordered access.
unsafe impl Sync for Witness {}

impl Witness {
    pub(crate) fn new() -> Self {
        Self(
            #[cfg(loom)]
            loom::cell::UnsafeCell::new(()),
        )
    }

    /// States that the caller alone reaches what the witness stands for.
    #[inline]
    pub(crate) fn write(&self) {
        #[cfg(loom)]
        self.0.with_mut(|_| ());
    }

    /// States that what the witness stands for was initialised before.
    #[inline]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        self.0.with(|_| ());
    }
}
