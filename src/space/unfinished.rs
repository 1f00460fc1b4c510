//! What a change leaves if it is not carried out to its end.

use super::{region::Layout, shared::Shared};
use crate::{arena::FrameSource, format::Format};

/// A layout was published for a change that goes on. If that fails, or a panic comes, there is the one again
/// that was there before, and the change can be tried again.
pub(super) struct Unfinished<'s, F: Format, S: FrameSource> {
    shared: &'s Shared<F, S>,
    /// What is published in the end, if anything is.
    layout: Option<Layout>,
}

impl<'s, F: Format, S: FrameSource> Unfinished<'s, F, S> {
    /// Publishes `now` in the place of `before`. The caller holds `changes`.
    pub(super) fn begin(shared: &'s Shared<F, S>, before: &Layout, now: Layout) -> Self {
        shared.publish(now);
        Self { shared, layout: Some(before.clone()) }
    }

    /// Stays with what was published.
    pub(super) fn finish(mut self) {
        self.layout = None;
    }

    /// Goes on with this layout.
    pub(super) fn finish_with(mut self, layout: Layout) {
        self.layout = Some(layout);
    }
}

impl<F: Format, S: FrameSource> Drop for Unfinished<'_, F, S> {
    fn drop(&mut self) {
        if let Some(layout) = self.layout.take() {
            self.shared.publish(layout);
        }
    }
}
