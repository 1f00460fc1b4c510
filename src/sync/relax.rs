//! Waiting for a word that somebody else will change.

/// One wait: spins for a while, then lets others run.
#[derive(Debug, Default)]
pub(crate) struct Relax {
    rounds: u32,
}

impl Relax {
    /// Rounds of spinning before the processor is given away.
    #[cfg(not(any(loom, shuttle)))]
    const SPINS: u32 = 64;

    /// Gives the other side time. Under a checker it is the checker's yield, so that the wait ends.
    pub(crate) fn pause(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(not(any(loom, shuttle)))]
        {
            #[cfg(feature = "std")]
            if self.rounds > Self::SPINS {
                return std::thread::yield_now();
            }
            core::hint::spin_loop();
        }
    }
}
