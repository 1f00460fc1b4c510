//! The facade through which every shared word goes: `core` and parking_lot in ordinary builds, loom
//! or shuttle under `--cfg loom` and `--cfg shuttle`.
//!
//! Atomics and locks are wrapped, not re-exported, so that `clippy.toml` can forbid the real ones
//! everywhere else. The model checkers are cfgs and not features, because features must only add.

#[cfg(all(loom, not(crossbeam_loom)))]
compile_error!("build the models with both `--cfg loom` and `--cfg crossbeam_loom`");

mod bits;
mod counter;
#[cfg(all(test, loom))]
mod explore;
mod fence;
mod lock;
mod relax;
#[cfg(shuttle)]
mod step;
mod thread;
#[cfg(loom)]
mod turn;
mod turns;
mod unique;
mod witness;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use alloc::sync::Arc;
#[cfg(not(any(loom, shuttle)))]
use core::sync::atomic as imp;
pub(crate) use core::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use loom::sync::Arc;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::Arc;

#[cfg(all(test, loom))]
pub(crate) use self::explore::explore;
#[cfg(shuttle)]
use self::step as imp;
#[cfg(shuttle)]
pub use self::step::{NextStep, next_step};
#[cfg(loom)]
use self::turn as imp;
pub(crate) use self::{
    bits::Bits,
    counter::Counter,
    fence::{fence_after_exchange, full_fence},
    lock::{Condvar, Mutex, MutexGuard},
    relax::Relax,
    thread::this_thread,
    turns::Turn,
    unique::unique,
    witness::Witness,
};

/// An atomic 64-bit word. In ordinary builds it is exactly that: eight bytes, at home in memory that
/// the MMU shares.
#[derive(Debug)]
#[repr(transparent)]
#[cfg_attr(
    not(any(loom, shuttle)),
    expect(clippy::disallowed_types, reason = "the one place that wraps it")
)]
pub(crate) struct AtomicU64(imp::AtomicU64);

#[cfg_attr(
    not(any(loom, shuttle)),
    expect(clippy::disallowed_types, reason = "the one place that wraps it")
)]
impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(imp::AtomicU64::new(value))
    }

    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    /// Stores `value`; returns what was there.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }

    /// Stores `new` if the value is `current`; returns what was there.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }

    /// Adds `value`; returns what was there.
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }

    /// Subtracts `value`; returns what was there.
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }

    /// Sets the bits that are in `value`; returns what was there.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_or(value, order)
    }

    /// Clears the bits that are not in `value`; returns what was there.
    #[inline]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_and(value, order)
    }

    /// Stores `value` if it is the greater; returns what was there.
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_max(value, order)
    }
}
