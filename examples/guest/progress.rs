//! The progress bar, which shows on a terminal only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle, style::TemplateError};

/// In how many pieces the bar moves: all vCPUs share it, and must not meet there often.
const PIECES: u64 = 256;
/// Accesses between two looks at the clock, where time is what passes.
const TICK: u64 = 1 << 16;

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many accesses, by all vCPUs together.
    Accesses(u64),
    /// Anything, for so long.
    Time(Duration),
    /// Anything, until regions were changed so many times.
    Rounds(u64),
}

/// How far all have come.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    length: Length,
}

impl Progress {
    pub(crate) fn new(name: &str, length: Length) -> Result<Self, TemplateError> {
        let style = ProgressStyle::with_template("{prefix}{msg} {wide_bar} {percent}%")?;
        let total = match length {
            Length::Accesses(number) | Length::Rounds(number) => number,
            Length::Time(time) => time.as_millis() as u64,
        };
        let bar = ProgressBar::new(total).with_style(style).with_message(name.to_owned());
        Ok(Self { bar, length })
    }

    /// Makes one that is never shown.
    #[cfg(test)]
    pub(crate) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), length: Length::Accesses(0) }
    }

    /// Notes that a region was changed once more.
    pub(crate) fn round(&self) {
        if let Length::Rounds(_) = self.length {
            self.bar.inc(1);
        }
    }

    /// Shows a step by itself, of so many pages; the function that is returned shows how many are done.
    pub(crate) fn step(&self, name: &'static str, pages: u64) -> impl FnMut(u64) {
        let bar = self.bar.clone();
        let (before, length) = (bar.position(), bar.length().unwrap_or_default());
        move |done| {
            bar.set_prefix(format!("{name} "));
            bar.set_length(pages);
            bar.set_position(done);
            if done == pages {
                bar.set_prefix("");
                bar.set_length(length);
                bar.set_position(before);
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far one vCPU has come.
#[derive(Debug)]
pub(crate) struct Ticker<'p> {
    progress: &'p Progress,
    begun: Instant,
    /// Accesses that the bar does not show yet, and after how many it will.
    unshown: u64,
    piece: u64,
}

impl<'p> Ticker<'p> {
    pub(crate) fn new(progress: &'p Progress, begun: Instant) -> Self {
        let piece = match progress.length {
            Length::Accesses(number) => number / PIECES,
            Length::Time(_) => TICK,
            Length::Rounds(_) => u64::MAX,
        };
        Self { progress, begun, unshown: 0, piece }
    }

    /// Notes so many accesses.
    pub(crate) fn advance(&mut self, accesses: u64) {
        self.unshown += accesses;
        if self.unshown > self.piece {
            match self.progress.length {
                Length::Time(_) => {
                    self.progress.bar.set_position(self.begun.elapsed().as_millis() as u64);
                }
                _ => self.progress.bar.inc(self.unshown),
            }
            self.unshown = 0;
        }
    }
}
