//! The mutual exclusion of structural changes and of the frame sources' free lists.
//!
//! parking_lot's where there is a standard library; a checker's under a checker; and a ticket lock,
//! fair and small, where there is neither. The fault path takes none of them.

use core::ops::{Deref, DerefMut};

#[cfg(not(any(loom, shuttle, feature = "std")))]
#[path = "ticket.rs"]
mod imp;

// Its model is not of the library, which takes loom's lock under loom.
#[cfg(all(test, loom))]
#[path = "ticket.rs"]
mod ticket;

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod imp {
    pub(super) use parking_lot::{Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }
}

#[cfg(any(loom, shuttle))]
mod imp {
    extern crate std;

    use std::sync::PoisonError;

    #[cfg(loom)]
    pub(super) use loom::sync::{Mutex, MutexGuard};
    #[cfg(shuttle)]
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        // As parking_lot: a panic under the lock does not poison it.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mutex without poisoning.
#[derive(Debug)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(imp::lock(&self.0))
    }
}

/// The right to what a [`Mutex`] guards, until dropped.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(imp::MutexGuard<'a, T>);

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
