//! Frame sources that hand everything to another one, and are told first.

use std::fmt::Debug;

use slat::{Content, FrameRun, FrameSource, HostPfn};

/// A source over another one. [`frame_source_over`] makes it a [`FrameSource`].
pub(crate) trait Over: Debug + Send + Sync + 'static {
    type Source: FrameSource;

    /// The one that everything is handed to.
    fn source(&self) -> &Self::Source;

    /// Called before frames are allocated.
    fn before_allocate(&self) {}

    /// Called before frames go back.
    fn before_free(&self, _run: FrameRun, _content: Content) {}

    /// Called before a frame is turned into a table.
    fn before_table(&self, _pfn: HostPfn) {}
}

macro_rules! frame_source_over {
    ($name:ident $(<$inner:ident>)?) => {
        // SAFETY: every promise is kept by the source that everything is handed to.
        unsafe impl$(<$inner: slat::FrameSource + std::fmt::Debug>)? slat::FrameSource for $name$(<$inner>)? {
            fn allocate(
                &self,
                count: u64,
                hint: slat::Hint,
                runs: &mut Vec<slat::FrameRun>,
            ) -> Result<(), slat::OutOfFrames> {
                $crate::common::Over::before_allocate(self);
                $crate::common::Over::source(self).allocate(count, hint, runs)
            }

            unsafe fn free(&self, run: slat::FrameRun, content: slat::Content) {
                $crate::common::Over::before_free(self, run, content);
                // SAFETY: the caller's promise is the same.
                unsafe { $crate::common::Over::source(self).free(run, content) }
            }

            unsafe fn table(&self, pfn: slat::HostPfn) -> &slat::Table {
                $crate::common::Over::before_table(self, pfn);
                // SAFETY: the caller's promise is the same.
                unsafe { $crate::common::Over::source(self).table(pfn) }
            }

            fn free_frames(&self) -> u64 {
                $crate::common::Over::source(self).free_frames()
            }
        }
    };
}
pub(crate) use frame_source_over;
