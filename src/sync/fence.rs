//! The fences between a write of one's own and a later look at what others wrote.
//!
//! Two sides that each write one word and then read the other's need a full fence in between, both of
//! them; then at least one sees the other's write (the store-buffer pattern, Intel SDM vol. 3A, 9.2.3.4).
//! Where they stand in pairs, docs/ORDERING.md names both halves.

#[cfg(not(any(loom, shuttle)))]
use core::sync::atomic as imp;

#[cfg(loom)]
use loom::sync::atomic as imp;
#[cfg(shuttle)]
use shuttle::sync::atomic as imp;

use super::Ordering;

/// Orders all that the caller did before with all that it does afterwards.
#[inline]
pub(crate) fn full_fence() {
    imp::fence(Ordering::SeqCst);
}

/// The full fence of the fault path: behind a compare-exchange of the caller's, or behind a load of
/// what another's compare-exchange left.
///
/// On x86 it costs nothing. A locked operation is a full fence already (Intel SDM vol. 3A, 9.2.3.9);
/// and two loads are performed in order, the first not before the store that it reads is visible to
/// all (9.2.3.2, 9.2.3.7). So only the compiler has to be held back. Elsewhere, and for the model
/// checkers, it is the real one.
#[inline]
pub(crate) fn fence_after_exchange() {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle))))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle)))))]
    full_fence();
}
