//! Which thread this is.

use core::num::NonZeroU64;

/// Returns a number that no other thread has or will have, or `None` where threads cannot be told
/// apart: without the standard library, and under shuttle.
pub(crate) fn this_thread() -> Option<NonZeroU64> {
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    {
        std::thread_local! {
            // Not its address, which a later thread may have again.
            static THREAD: NonZeroU64 = super::unique();
        }
        Some(THREAD.with(|&number| number))
    }
    #[cfg(loom)]
    {
        loom::thread_local! {
            static THREAD: NonZeroU64 = super::unique();
        }
        Some(THREAD.with(|&number| number))
    }
    #[cfg(not(any(loom, all(feature = "std", not(shuttle)))))]
    None
}
