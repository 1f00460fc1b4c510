//! Waiting for a word that somebody else will change.

/// One wait: spins for a while, then lets others run.
#[derive(Debug, Default)]
pub(crate) struct Relax {
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    rounds: u32,
}

impl Relax {
    /// Rounds of spinning before the processor is given away.
    #[cfg(all(feature = "std", not(any(loom, shuttle))))]
    const SPINS: u32 = 64;

    /// Gives the other side time. Under a checker it is the checker's yield, so that the wait ends.
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn pause(&mut self) {
        #[cfg(shuttle)]
        super::step::step("pause");
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(not(any(loom, shuttle)))]
        {
            #[cfg(feature = "std")]
            if self.rounds == Self::SPINS {
                return std::thread::yield_now();
            }
            #[cfg(feature = "std")]
            {
                self.rounds += 1;
            }
            core::hint::spin_loop();
        }
    }
}
