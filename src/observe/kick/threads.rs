//! Kicks for software vCPUs: a flag that they look at.

use alloc::vec::Vec;
use core::{fmt, marker::PhantomData};
use std::thread::{self, Thread};

use super::{Kick, ObserverId};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Kicks threads that run software vCPUs: sets a flag for each, which sticks until the vCPU clears it,
/// and unparks the thread.
///
/// ```
/// use slat::ThreadKicks;
/// # use slat::{Ept, EptCaps, HeapFrames, Levels, PageTable, PhysWidth, Tracking};
/// # let ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
/// # let table = PageTable::new(ept, HeapFrames::new(8))?;
/// let kicks = ThreadKicks::new();
/// let mut observer = table.observer();
/// // On the vCPU's thread:
/// let seat = kicks.sit(observer.id());
/// # let mut stays = 0;
/// loop {
///     let inside = observer.enter(Tracking::On);
///     // Invalidate `inside.due()`.
///     while !seat.is_kicked() {
///         // Run a little, or park.
///         # slat::Kick::kick(&kicks, inside.id());
///     }
///     drop(inside);
///     seat.clear();
///     # stays += 1;
///     # if stays == 2 { break; }
/// }
/// # Ok::<(), slat::CreateError>(())
/// ```
#[derive(Debug)]
pub struct ThreadKicks {
    seats: Mutex<Vec<Arc<Seat>>>,
}

struct Seat {
    observer: ObserverId,
    thread: Thread,
    /// 1 from a kick until it is cleared. It says nothing but that: what a kicked vCPU has to know it
    /// learns from the generation, when it enters again.
    kicked: AtomicU64,
}

impl ThreadKicks {
    /// Makes one that kicks nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self { seats: Mutex::new(Vec::new()) }
    }

    /// Registers this thread as the one that runs `observer`'s vCPU, until the seat is dropped.
    pub fn sit(&self, observer: ObserverId) -> ThreadSeat<'_> {
        let thread = thread::current();
        let seat = Arc::new(Seat { observer, thread, kicked: AtomicU64::new(0) });
        self.seats.lock().push(Arc::clone(&seat));
        ThreadSeat { kicks: self, seat, thread: PhantomData }
    }
}

impl Default for ThreadKicks {
    fn default() -> Self {
        Self::new()
    }
}

impl Kick for ThreadKicks {
    fn kick(&self, observer: ObserverId) {
        for seat in self.seats.lock().iter().filter(|seat| seat.observer == observer) {
            // Relaxed: the flag alone matters. A clear that came before the observer was seen inside
            // comes before this.
            seat.kicked.store(1, Ordering::Relaxed);
            seat.thread.unpark();
        }
    }
}

/// A vCPU's thread among those that [`ThreadKicks`] kicks.
#[must_use = "nobody kicks the thread once it is dropped"]
#[derive(Debug)]
pub struct ThreadSeat<'k> {
    kicks: &'k ThreadKicks,
    seat: Arc<Seat>,
    /// Another thread would not be unparked.
    thread: PhantomData<*mut ()>,
}

impl ThreadSeat<'_> {
    /// Tells whether the vCPU was kicked since the flag was cleared: it has to leave.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        // Relaxed: as in `kick`.
        self.seat.kicked.load(Ordering::Relaxed) != 0
    }

    /// Clears the flag: after leaving, and before entering again.
    pub fn clear(&self) {
        // Relaxed: who kicked before saw the observer inside, and what it announced is seen by the
        // next entry; who sees it inside again kicks after this.
        self.seat.kicked.store(0, Ordering::Relaxed);
    }
}

impl Drop for ThreadSeat<'_> {
    fn drop(&mut self) {
        self.kicks.seats.lock().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { observer, thread, kicked } = self;
        f.debug_struct("Seat")
            .field("observer", observer)
            .field("thread", &thread.id())
            .field("kicked", kicked)
            .finish()
    }
}
