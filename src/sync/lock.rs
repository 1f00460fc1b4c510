//! The mutual exclusion of structural changes and of the frame sources' free lists, and waiting for what
//! another does under a lock.
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
    pub(super) use parking_lot::{Condvar, Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }

    #[cfg(feature = "vm-memory")]
    pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        mutex.try_lock()
    }

    pub(super) fn wait<'a, T>(
        condvar: &Condvar,
        mut guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(&mut guard);
        guard
    }
}

#[cfg(any(loom, shuttle))]
mod imp {
    extern crate std;

    use std::sync::PoisonError;

    #[cfg(loom)]
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    #[cfg(shuttle)]
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        // As parking_lot: a panic under the lock does not poison it.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mutex without poisoning.
#[derive(Debug)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(shuttle)]
        super::step::step("lock");
        MutexGuard(imp::lock(&self.0))
    }

    /// Takes the lock, if nobody has it.
    #[cfg(all(feature = "vm-memory", not(any(loom, shuttle))))]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        imp::try_lock(&self.0).map(MutexGuard)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
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

/// A wait for something that happens under a [`Mutex`]. May end without it.
///
/// Where there is no standard library it is a poll: the lock is let go of for a moment, and taken again.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    #[cfg(any(loom, shuttle, feature = "std"))]
    inner: imp::Condvar,
}

impl Condvar {
    #[cfg(any(loom, shuttle, feature = "std"))]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        #[cfg(shuttle)]
        super::step::step("wait");
        MutexGuard(imp::wait(&self.inner, guard.0))
    }

    #[cfg(not(any(loom, shuttle, feature = "std")))]
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let mutex = guard.0.mutex();
        drop(guard);
        core::hint::spin_loop();
        MutexGuard(imp::lock(mutex))
    }

    pub(crate) fn notify_all(&self) {
        #[cfg(any(loom, shuttle, feature = "std"))]
        self.inner.notify_all();
    }
}
