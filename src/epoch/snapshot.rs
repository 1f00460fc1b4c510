//! A value that is read under a pin and replaced as a whole.
//!
//! Readers take no lock and write nothing. Who replaces the value waits for the pins that may have seen
//! the old one, and that is more than its reclamation: when it is over, whatever anybody did on account of
//! the old value *under that pin* is done.

use core::fmt;

use crossbeam_epoch::{Atomic, Owned};

use super::{Epoch, Pin};
use crate::sync::{Ordering, Turn, Witness};

/// A value of which one version is the current one.
///
/// Invariants:
/// 1. `current` is never null and always came from an `Owned`; a version is freed once, when it is replaced
///    or with the snapshot.
/// 2. `epoch` is the collector whose pins its readers hold.
pub(crate) struct Snapshot<T> {
    current: Atomic<Version<T>>,
    /// The checker's, for `current`.
    turn: Turn,
    epoch: crossbeam_epoch::Collector,
}

struct Version<T> {
    value: T,
    witness: Witness,
}

impl<T> Version<T> {
    fn new(value: T) -> Self {
        let witness = Witness::new();
        witness.write();
        Self { value, witness }
    }
}

/// The version that was replaced. Whoever may have seen it before may do so still.
#[must_use = "it is leaked unless it is freed"]
pub(crate) struct Replaced<T>(*mut Version<T>);

impl<T: Send + Sync> Snapshot<T> {
    /// Makes the first version, for readers with pins of `epoch`.
    pub(crate) fn new(epoch: &Epoch, value: T) -> Self {
        let current = Atomic::new(Version::new(value));
        Self { current, turn: Turn::new(), epoch: epoch.collector.clone() }
    }

    /// Returns the current version.
    ///
    /// # Panics
    /// If the pin is of another epoch.
    #[inline]
    pub(crate) fn read<'g>(&'g self, pin: &'g Pin) -> &'g T {
        assert!(pin.0.collector() == Some(&self.epoch), "the pin is of this snapshot's epoch");
        self.turn.take();
        // Acquire: the version's words come before its address; pairs with `replace` [edge: snapshot].
        let version = self.current.load(Ordering::Acquire, &pin.0);
        // SAFETY:
        // 1. It came from an `Owned` (invariant 1).
        // 2. The pin is of the epoch that whoever frees it waits for (invariant 2, `Replaced::free`), and
        //    outlives the reference.
        let version = unsafe { version.deref() };
        version.witness.read();
        &version.value
    }

    /// Makes `value` the current version. One thread at a time does.
    pub(crate) fn replace(&self, value: T) -> Replaced<T> {
        // SAFETY: the guard is not used to protect anything: what was current is freed by who waits.
        let guard = unsafe { crossbeam_epoch::unprotected() };
        self.turn.take();
        // Release: the version's words come before its address; pairs with `read` [edge: snapshot].
        //   Who made the version before came before this thread, by whatever lets one at a time replace.
        let old = self.current.swap(Owned::new(Version::new(value)), Ordering::Release, guard);
        Replaced(old.as_raw().cast_mut())
    }
}

impl<T> Replaced<T> {
    /// Frees it.
    ///
    /// # Safety
    /// Every pin of the snapshot's epoch has ended that was held when it was replaced.
    pub(crate) unsafe fn free(self) {
        // SAFETY:
        // 1. It came from an `Owned` and is freed once (invariant 1; `self` is consumed).
        // 2. By the caller's promise nobody reads it: who pinned later has not seen it.
        let version = unsafe { Owned::from_raw(self.0) };
        version.witness.write();
    }
}

impl<T> Drop for Snapshot<T> {
    fn drop(&mut self) {
        let current = core::mem::replace(&mut self.current, Atomic::null());
        // SAFETY: it came from an `Owned` (invariant 1), and readers borrow the snapshot.
        drop(unsafe { current.into_owned() });
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
