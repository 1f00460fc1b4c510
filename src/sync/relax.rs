//! Waiting for a word that somebody else will change.

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
use std::{thread, time::Duration};

/// One wait: spins for a while, then lets others run, then sleeps in between.
#[derive(Debug, Default)]
pub(crate) struct Relax {
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    rounds: u32,
}

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
impl Relax {
    /// Up to this round it spins.
    const SPINS: u32 = 64;
    /// Up to this round it gives the processor away. A thread that went on with that would hold up what waits for the
    /// processor to be idle, or for a grace period of the kernel's: KVM's changes of memslots, say.
    const YIELDS: u32 = 128;
    const SLEEP: Duration = Duration::from_micros(50);

    fn wait(&mut self) {
        match self.rounds {
            0..Self::SPINS => core::hint::spin_loop(),
            Self::SPINS..Self::YIELDS => thread::yield_now(),
            _ => return thread::sleep(Self::SLEEP),
        }
        self.rounds += 1;
    }
}

impl Relax {
    /// Gives the other side time. Under a checker it is the checker's yield, so that the wait ends.
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn pause(&mut self) {
        #[cfg(shuttle)]
        super::step::step("pause");
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(all(feature = "std", not(any(loom, shuttle))))]
        self.wait();
        #[cfg(not(any(feature = "std", loom, shuttle)))]
        core::hint::spin_loop();
    }
}
