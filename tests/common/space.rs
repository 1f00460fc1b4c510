//! The input space of a format, stated independently of the format's own code.

use slat::{Format, Levels};

use super::PAGE;

/// Where the input addresses are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Bytes in the space, or in each half of it.
    pub(crate) part: u64,
    /// The first address of the last part: 0 if there is only one.
    pub(crate) upper: u64,
}

impl Space {
    pub(crate) fn of(format: &impl Format) -> Self {
        let bits = match format.levels() {
            Levels::Five => 57,
            _ => 48,
        };
        if format.name() == "long-mode" {
            Self { part: 1 << (bits - 1), upper: u64::MAX << (bits - 1) }
        } else {
            Self { part: 1 << bits, upper: 0 }
        }
    }

    /// Tells whether the space has two halves, with a hole between.
    pub(crate) fn is_split(self) -> bool {
        self.upper != 0
    }

    /// The last page of the first part.
    pub(crate) fn last_low_page(self) -> u64 {
        self.part - PAGE
    }

    /// The very last page.
    pub(crate) fn last_page(self) -> u64 {
        self.upper.wrapping_add(self.part).wrapping_sub(PAGE)
    }

    /// Addresses that are none of this space's.
    pub(crate) fn outside(self) -> Vec<u64> {
        let mut outside = vec![self.part, self.part + PAGE, self.part | 0xfff, 1 << 62];
        if self.is_split() {
            outside.extend([self.upper - PAGE, self.upper - 1, 1 << 63]);
        } else {
            outside.extend([1 << 63, u64::MAX, u64::MAX - 0xfff, self.part | 0x1234_5000]);
        }
        outside
    }
}
