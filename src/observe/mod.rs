//! Observers: who walks the table without a pin, what their caches may still hold, and when a table
//! that was unlinked may be freed.
//!
//! - A [`Domain`] is a tree, its observers, and its dead. Structural operations run in it.
//! - An [`Observer`] is one translation cache; [`Inside`] is it in use. Its [`record`] says where it
//!   is, the [`hub`] knows all of them and counts [`Generation`]s; the [`log`] says what a generation
//!   made stale, and [`Due`] what of that an observer has to invalidate.
//! - A [`Flush`] is the duty to invalidate, a [`Shootdown`] does it, with the caller's [`Kick`].
//! - What was unlinked waits in [`limbo`] until neither a pin nor an observer can reach it.
//!
//! All orderings of this protocol are here. Two pairs of fences carry it, and four edges; each has its
//! row in docs/ORDERING.md.

mod domain;
mod due;
mod flush;
mod hub;
mod kick;
mod limbo;
mod log;
#[cfg(all(test, loom))]
mod model;
mod observer;
mod observers;
mod record;
mod rounds;
mod shootdown;

#[cfg(all(feature = "std", unix, not(any(loom, shuttle))))]
pub use self::kick::{BadSignal, SignalKicks};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use self::kick::{ThreadKicks, ThreadSeat};
pub(crate) use self::{
    domain::{Domain, Structure},
    flush::{Collect, Covered},
    rounds::{Course, Drops},
};
pub use self::{
    due::{Due, Generation, Ranges, Scope, Stale},
    flush::{Flush, ForeignFlush},
    kick::Kick,
    observer::{Inside, Observer},
    observers::{Observers, Reclaimed, Stats, UnknownObserver},
    record::{ObserverId, ObserverState},
    shootdown::{InsideGuest, Progress, Shootdown},
};

// The tests spell out full-sized tables; the checkers' are narrow.
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
