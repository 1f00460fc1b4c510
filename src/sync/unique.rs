//! Numbers that are handed out once.

use core::num::NonZeroU64;
#[expect(
    clippy::disallowed_types,
    reason = "publishes nothing, so the checkers need not see it"
)]
use core::sync::atomic::AtomicU64;

use super::Ordering;

/// Returns a number that no other call returns.
pub(crate) fn unique() -> NonZeroU64 {
    #[expect(clippy::disallowed_types, reason = "as above; theirs cannot be static")]
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the number only has to differ; it says nothing about memory.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NonZeroU64::new(number).expect("2^64 numbers take centuries to hand out")
}
