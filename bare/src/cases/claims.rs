//! What a case claims of the processor, the table and what they do together: each claim is tried, and those that do
//! not hold are printed.

use alloc::format;
use core::fmt;

use super::{Outcome, judge};
use crate::machine::console::say;

/// The claims of a case.
#[derive(Debug)]
pub(crate) struct Claims {
    case: &'static str,
    held: u64,
    failed: u64,
    /// Those that do not hold on this emulator, as is known.
    known: u64,
}

impl Claims {
    pub(crate) fn new(case: &'static str) -> Self {
        Self { case, held: 0, failed: 0, known: 0 }
    }

    /// Says of one whether it holds.
    pub(crate) fn claim(&mut self, what: fmt::Arguments<'_>, holds: bool) {
        if holds {
            self.held += 1;
        } else {
            self.failed += 1;
            say!("{}: does not hold: {what}", self.case);
        }
    }

    /// Says of one that it does not hold, which is known of this emulator.
    pub(crate) fn known(&mut self, what: &str) {
        self.known += 1;
        say!("known: {}: {what}: wrong by the manuals", self.case);
    }

    /// Returns how the case ended, with something that it has to say.
    pub(crate) fn outcome(&self, said: &str) -> Outcome {
        let Self { held, failed, known, .. } = self;
        let all = format!("{held} claims hold, {known} are known not to, {failed} do not; {said}");
        judge(*failed == 0, all)
    }
}

/// Claims that an expression is true.
macro_rules! claim {
    ($claims:expr, $holds:expr, $($what:tt)*) => {
        $claims.claim(format_args!($($what)*), $holds)
    };
}
pub(crate) use claim;
