//! The kicks that are ready made.

#![cfg(feature = "std")]

use std::sync::Barrier;

use super::*;

#[test]
fn a_kick_of_a_thread_sticks_until_it_is_cleared() {
    let rig = Rig::new();
    let observer = rig.observer();
    let kicks = ThreadKicks::new();
    kicks.kick(observer.id());
    let seat = kicks.sit(observer.id());
    assert!(!seat.is_kicked(), "a kick for nobody");
    kicks.kick(rig.observer().id());
    assert!(!seat.is_kicked(), "a kick for another");
    kicks.kick(observer.id());
    assert!(seat.is_kicked() && seat.is_kicked());
    // The thread was unparked: this returns.
    thread::park();
    seat.clear();
    assert!(!seat.is_kicked());
    drop(seat);
    kicks.kick(observer.id());
    let empty = std::format!("{:?}", ThreadKicks::new());
    assert_eq!(std::format!("{kicks:?}"), empty, "no seat is left");
}

/// vCPUs that park inside until they are kicked, and a thread that shoots down.
#[test]
fn parked_vcpus_come_out_for_every_shootdown() {
    let rig = Rig::new();
    let kicks = ThreadKicks::new();
    let start = Barrier::new(3);
    let done = Flag::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut observer = rig.observer();
            let (kicks, start, done) = (&kicks, &start, &done);
            scope.spawn(move || {
                let seat = kicks.sit(observer.id());
                start.wait();
                while !done.is_set() {
                    let inside = observer.enter(Tracking::On);
                    while !seat.is_kicked() {
                        thread::park();
                    }
                    drop(inside);
                    seat.clear();
                }
            });
        }
        start.wait();
        for page in 0..300 {
            let flush = rig.duty(range(page * PAGE, PAGE));
            flush.shootdown().wait(&kicks).unwrap();
        }
        done.set();
        // Those that look only now are out; the others are inside for the last time.
        rig.duty(range(0, PAGE)).shootdown().wait(&kicks).unwrap();
    });
}

/// A flag between threads.
struct Flag(crate::sync::AtomicU64);

impl Flag {
    fn new() -> Self {
        Self(crate::sync::AtomicU64::new(0))
    }

    fn set(&self) {
        self.0.store(1, crate::sync::Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(crate::sync::Ordering::Acquire) == 1
    }
}

#[cfg(unix)]
mod signals {
    #![expect(unsafe_code, reason = "waits for signals")]

    use core::mem::MaybeUninit;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;

    /// Blocks the signal for this thread; it stays pending then, and nobody's default action runs.
    fn block(signal: i32) -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is ours, and this initialises it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: it was initialised just now.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: the set is ours.
        assert_eq!(unsafe { libc::sigaddset(&raw mut set, signal) }, 0);
        // SAFETY: the set is ours; the old one is not asked for.
        let blocked = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut())
        };
        assert_eq!(blocked, 0);
        set
    }

    /// Waits for a signal of the set, as KVM_RUN does for any.
    fn wait(set: &libc::sigset_t) -> i32 {
        let mut signal = 0;
        // SAFETY: both are ours.
        assert_eq!(unsafe { libc::sigwait(&raw const *set, &raw mut signal) }, 0);
        signal
    }

    #[test]
    fn a_vcpu_in_a_system_call_is_armed_and_then_signalled() {
        let rig = Rig::new();
        let kicks = SignalKicks::new(libc::SIGUSR1).unwrap();
        let entered = Barrier::new(2);
        let armed = Arc::new(Flag::new());
        thread::scope(|scope| {
            let mut observer = rig.observer();
            let (kicks, entered, arms) = (&kicks, &entered, Arc::clone(&armed));
            let armed = &armed;
            scope.spawn(move || {
                let set = block(libc::SIGUSR1);
                kicks.run(
                    observer.id(),
                    move || arms.set(),
                    || {
                        let inside = observer.enter(Tracking::On);
                        entered.wait();
                        assert_eq!(wait(&set), libc::SIGUSR1);
                        assert!(armed.is_set(), "first");
                        drop(inside);
                    },
                );
            });
            entered.wait();
            rig.duty(range(0, PAGE)).shootdown().wait(kicks).unwrap();
        });
    }

    #[test]
    fn nobody_is_signalled_whose_vcpu_has_returned_or_panicked() {
        let rig = Rig::new();
        let observer = rig.observer();
        let kicks = SignalKicks::new(libc::SIGTERM).unwrap();
        assert_eq!(kicks.run(observer.id(), || panic!("armed"), || 5), 5);
        let panics = || {
            kicks.run(
                observer.id(),
                || panic!("armed"),
                || {
                    resume_unwind(alloc::boxed::Box::new(()));
                },
            )
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        kicks.kick(observer.id());
        // Another's kick does not reach it either.
        kicks.run(observer.id(), || panic!("armed"), || kicks.kick(rig.observer().id()));
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        for signal in [0, -1, 32, 65, i32::MAX] {
            assert_eq!(SignalKicks::new(signal).unwrap_err(), BadSignal(signal));
        }
        assert!(SignalKicks::new(libc::SIGRTMIN()).is_ok());
    }
}
