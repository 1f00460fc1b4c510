//! The progress bar, which shows on a terminal only.

use indicatif::{ProgressBar, ProgressStyle, style::TemplateError};

use crate::destination::Arrivals;

/// In how many pieces the bar moves.
const PIECES: u64 = 256;

/// How many pages have come.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    piece: u64,
}

impl Progress {
    pub(crate) fn new(pages: u64) -> Result<Self, TemplateError> {
        let style = ProgressStyle::with_template("{pos}/{len} pages{msg} {wide_bar} {percent}%")?;
        let bar = ProgressBar::new(pages).with_style(style);
        Ok(Self { bar, piece: pages.div_ceil(PIECES) })
    }

    /// Makes one that is never shown.
    pub(crate) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), piece: u64::MAX }
    }

    /// Notes that one more has come.
    pub(crate) fn arrived(&self, arrivals: &Arrivals) {
        if arrivals.pages().is_multiple_of(self.piece) {
            let Arrivals { on_demand, in_background, .. } = arrivals;
            self.bar.set_position(arrivals.pages());
            self.bar.set_message(format!(": {on_demand} on demand, {in_background} in background"));
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
