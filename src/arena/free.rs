//! Which frames are free, and which of those must be zeroed before they are used again.
//!
//! Free runs are joined with their neighbours whatever they contain, so that tables given back one
//! by one become long runs again. An allocation takes the shortest run that is long enough: what was
//! used before is used again, and the long run of what was never used, whose memory may not even
//! exist yet, is cut only when nothing else will do. Every step costs O(log runs).

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{Content, FrameRun};
use crate::addr::HostPfn;

/// Disjoint runs of frame numbers, joined with their neighbours.
#[derive(Debug, Default)]
struct Runs {
    /// Length by first frame. Runs are not empty, and neither overlap nor touch.
    by_start: BTreeMap<u64, u64>,
    /// The same runs as (length, first frame).
    by_length: BTreeSet<(u64, u64)>,
}

impl Runs {
    /// Adds the frames `first..first + count`, of which none is here.
    fn insert(&mut self, mut first: u64, mut count: u64) {
        if let Some((&before, &length)) = self.by_start.range(..first).next_back()
            && before + length == first
        {
            self.unlink(before, length);
            first = before;
            count += length;
        }
        if let Some(&length) = self.by_start.get(&(first + count)) {
            self.unlink(first + count, length);
            count += length;
        }
        self.link(first, count);
    }

    /// Removes the frames `first..first + count`, which lie in one run.
    fn remove(&mut self, first: u64, count: u64) {
        let Some((&start, &length)) = self.by_start.range(..=first).next_back() else {
            unreachable!("the caller found the frames in a run");
        };
        self.unlink(start, length);
        self.link(start, first - start);
        self.link(first + count, start + length - (first + count));
    }

    /// Returns the first frames of `first..first + count` that are here, as far as one run goes.
    fn overlap(&self, first: u64, count: u64) -> Option<(u64, u64)> {
        let end = first + count;
        let before = self.by_start.range(..=first).next_back();
        let (&start, &length) = before
            .filter(|&(&start, &length)| start + length > first)
            .or_else(|| self.by_start.range(first..end).next())?;
        let from = start.max(first);
        Some((from, (start + length).min(end) - from))
    }

    /// Returns up to `count` frames at the front of the shortest run that has as many, or of the
    /// longest one if none has.
    fn best(&self, count: u64) -> Option<(u64, u64)> {
        let fits = self.by_length.range((count, 0)..).next();
        let &(length, first) = fits.or_else(|| self.by_length.last())?;
        Some((first, length.min(count)))
    }

    fn link(&mut self, first: u64, count: u64) {
        if count > 0 {
            self.by_start.insert(first, count);
            self.by_length.insert((count, first));
        }
    }

    fn unlink(&mut self, first: u64, count: u64) {
        self.by_start.remove(&first);
        self.by_length.remove(&(count, first));
    }
}

/// The free frames of a source.
#[derive(Debug, Default)]
pub(super) struct FreeFrames {
    free: Runs,
    /// The free frames that are not known to be zero.
    unknown: Runs,
    len: u64,
}

impl FreeFrames {
    /// Adds frames that are not free yet.
    pub(super) fn put(&mut self, run: FrameRun, content: Content) {
        let FrameRun { first, count } = run;
        if count == 0 {
            return;
        }
        debug_assert!(
            self.free.overlap(first.get(), count).is_none(),
            "a frame of {run:?} is given back that is already free",
        );
        self.free.insert(first.get(), count);
        if content == Content::Unknown {
            self.unknown.insert(first.get(), count);
        }
        self.len += count;
    }

    /// Takes `count` frames and appends them to `runs`, in ascending order and in as few runs as it
    /// finds. Returns those of them that the caller must zero, or `None`, and takes nothing, if there
    /// are too few.
    pub(super) fn take(&mut self, count: u64, runs: &mut Vec<FrameRun>) -> Option<Vec<FrameRun>> {
        if count > self.len {
            return None;
        }
        let (old, mut missing) = (runs.len(), count);
        while missing > 0
            && let Some((first, taken)) = self.free.best(missing)
        {
            self.free.remove(first, taken);
            runs.push(FrameRun { first: HostPfn::new(first), count: taken });
            missing -= taken;
        }
        self.len -= count;
        let taken = &mut runs[old..];
        taken.sort_unstable_by_key(|run| run.first);

        let mut dirty = Vec::new();
        for run in taken {
            while let Some((first, count)) = self.unknown.overlap(run.first.get(), run.count) {
                self.unknown.remove(first, count);
                dirty.push(FrameRun { first: HostPfn::new(first), count });
            }
        }
        Some(dirty)
    }

    /// Returns how many frames are free.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
