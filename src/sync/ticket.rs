//! A ticket lock: first come, first served. For builds without the standard library.

#![expect(unsafe_code, reason = "a lock hands out references to its contents")]

use core::{
    cell::UnsafeCell,
    fmt,
    ops::{Deref, DerefMut},
    sync::atomic::Ordering,
};

use crate::sync::AtomicU64;

pub(super) struct Mutex<T> {
    /// The next ticket to hand out.
    next: AtomicU64,
    /// The ticket whose holder has the lock; only that holder writes it.
    serving: AtomicU64,
    /// Touched only by the holder of the ticket `serving`.
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only under the lock, by one thread at a time, so sharing the mutex is
// no more than sending the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self { next: AtomicU64::new(0), serving: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Relaxed: it only has to be unlike all others; its turn orders.
    let ticket = mutex.next.fetch_add(1, Ordering::Relaxed);
    // Acquire: what the last holder wrote comes before what this one reads;
    //   pairs with the guard's drop [edge: ticket-lock].
    while mutex.serving.load(Ordering::Acquire) != ticket {
        pause();
    }
    MutexGuard { mutex, ticket }
}

/// Gives the holder time.
fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    core::hint::spin_loop();
}

#[derive(Debug)]
pub(super) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    ticket: u64,
}

impl<'a, T> MutexGuard<'a, T> {
    #[cfg(not(loom))]
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard's ticket is being served, so nobody else reaches the value (invariant
        // of `Mutex::value`).
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // Release: what this holder wrote comes before the next holder's turn;
        //   pairs with `lock` [edge: ticket-lock].
        self.mutex.serving.store(self.ticket + 1, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::{Mutex, lock};
    use crate::sync::{Arc, explore};

    /// The cell is loom's, so an access that the lock does not order ends the model.
    #[test]
    fn a_holder_comes_after_the_last_one() {
        explore(3, || {
            let mutex = Arc::new(Mutex::new((loom::cell::UnsafeCell::new(()), 0)));
            let take = |mutex: &Mutex<(loom::cell::UnsafeCell<()>, u32)>| {
                let mut held = lock(mutex);
                held.0.with_mut(|_| ());
                held.1 += 1;
            };
            let shared = mutex.clone();
            let other = loom::thread::spawn(move || take(&shared));
            take(&mutex);
            other.join().unwrap();
            assert_eq!(lock(&mutex).1, 2);
        });
    }
}
