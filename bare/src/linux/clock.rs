//! Time, by the processor's counter, whose rate ACPI's timer tells.

use core::arch::x86_64::_rdtsc;

use x86::io::inl;

/// ACPI's timer, where QEMU's q35 has it: 24 bits at a rate that is the same everywhere.
const TIMER: u16 = 0x608;
const TIMER_BITS: u32 = 0xff_ffff;
const TIMER_RATE: u64 = 3_579_545;
/// So much of it is waited for.
const SAMPLE: u32 = 71_591;

/// The processor's counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    rate: u64,
}

/// A moment, or a time, by the counter.
pub(super) fn now() -> u64 {
    // SAFETY: every processor in long mode has it.
    unsafe { _rdtsc() }
}

fn timer() -> u32 {
    // SAFETY: the port is only read, and nothing follows from that.
    unsafe { inl(TIMER) }
}

impl Clock {
    /// Takes a fiftieth of a second to find out how fast the counter is.
    pub(super) fn new() -> Self {
        let (start, ticks) = (now(), timer());
        let passed = loop {
            let passed = timer().wrapping_sub(ticks) & TIMER_BITS;
            if passed >= SAMPLE {
                break passed;
            }
        };
        Self { rate: (now() - start) * TIMER_RATE / u64::from(passed) }
    }

    /// Returns how many milliseconds a time is.
    pub(super) fn milliseconds(self, time: u64) -> u64 {
        time / (self.rate / 1000)
    }

    /// Returns how many nanoseconds each of `count` took of a time, on average.
    pub(super) fn nanoseconds_each(self, time: u64, count: u64) -> u64 {
        u64::try_from(
            u128::from(time) * 1_000_000_000 / u128::from(self.rate) / u128::from(count.max(1)),
        )
        .expect("less than centuries")
    }
}
