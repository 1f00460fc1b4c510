//! Broken entries: what is taken from the MMU while its size changes, and is still known.
//!
//! Some processors must not find translations of two sizes for one page in their caches (machine checks
//! for executable pages on Intel parts with the "page size change" erratum; AMD erratum 383). There the
//! entry is *broken* before another is made: it is not present to the MMU until the old translation is
//! shot down. Nothing of it is lost: an MMU ignores all other bits of an entry that is not present, so the
//! bits that make it present move to where no other entry has any, and all else stays in place.
//!
//! To software a broken leaf maps, and a broken table leads on, as before. Who changes anything there
//! *mends* it first: the old size is back, and the change of size has to begin again.

use super::Format;
use crate::{entry::Entry, level::Level};

/// Whether leaves may change their size while translations of the old size are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resize {
    /// They may: a walk always finds the one or the other.
    #[default]
    Live,
    /// Break before make: for the time of a shoot-down the MMU finds nothing.
    ///
    /// It says how [`split`](crate::PageTable::split) and [`collapse`](crate::PageTable::collapse) go about it.
    /// Who changes a size by hand (unmaps a leaf, and maps others in its place) has to serve the
    /// [`Flush`](crate::Flush) in between.
    BreakFirst,
}

/// The lowest three bits of an entry, of which EPT takes one at least for present, nPT and long mode the
/// first.
const LOW: u64 = 0b111;
/// Where they go.
const LOW_SHIFT: u32 = 57;
/// EPT's right to fetch in user mode, which makes an entry present as well.
const USER_EXECUTE: u64 = 1 << 10;
/// Where it goes.
const USER_EXECUTE_SHIFT: u32 = 50;

impl Entry {
    /// Tells whether the value may be a broken entry's; none that is present is.
    #[inline]
    pub(crate) const fn may_be_broken(self) -> bool {
        self.has(Self::UNPOPULATED.raw()) && self.raw() != Self::UNPOPULATED.raw()
    }

    /// Returns a present entry broken.
    pub(crate) fn broken<F: Format>(self, format: &F) -> Self {
        let present = self.raw() & format.present_bits();
        let moved = (present & LOW) << LOW_SHIFT | (present & USER_EXECUTE) << USER_EXECUTE_SHIFT;
        self.without(format.present_bits()).with(moved | Self::UNPOPULATED.raw())
    }

    /// Returns the entry of `level` that was broken, or `None` if none was.
    #[cold]
    pub(crate) fn mended<F: Format>(self, level: Level, format: &F) -> Option<Self> {
        if !self.may_be_broken() {
            return None;
        }
        let moved = LOW << LOW_SHIFT | USER_EXECUTE << USER_EXECUTE_SHIFT;
        let low = (self.raw() >> LOW_SHIFT) & LOW;
        let user_execute = (self.raw() >> USER_EXECUTE_SHIFT) & USER_EXECUTE;
        let mended = self.without(moved | Self::UNPOPULATED.raw()).with(low | user_execute);
        let was_broken = format.is_present(mended)
            && format.is_well_formed(level, mended)
            && mended.broken(format) == self;
        was_broken.then_some(mended)
    }
}
