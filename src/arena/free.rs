//! Which frames are free: two ordered maps of runs, one of zeroed frames and one of others.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{Content, FrameRun};
use crate::addr::HostPfn;

/// How many free runs an allocation looks at before it takes what comes.
const LOOK: usize = 32;

/// Free runs, joined with their neighbours.
#[derive(Debug, Default)]
struct Runs {
    /// Length by first frame; runs neither overlap nor touch.
    by_start: BTreeMap<u64, u64>,
    frames: u64,
}

impl Runs {
    fn insert(&mut self, mut first: u64, mut count: u64) {
        self.frames += count;
        if let Some((&before, &length)) = self.by_start.range(..first).next_back()
            && before + length == first
        {
            self.by_start.remove(&before);
            first = before;
            count += length;
        }
        if let Some(length) = self.by_start.remove(&(first + count)) {
            count += length;
        }
        self.by_start.insert(first, count);
    }

    /// Takes up to `count` frames as one run; the whole of it if one of the first few runs, or the
    /// last (which holds what was never used), is long enough.
    fn take(&mut self, count: u64) -> Option<(u64, u64)> {
        let fits = |&(_, &length): &(&u64, &u64)| length >= count;
        let whole = self.by_start.iter().take(LOOK).find(fits);
        let (&first, &length) = whole
            .or_else(|| self.by_start.last_key_value().filter(fits))
            .or_else(|| self.by_start.first_key_value())?;
        let taken = length.min(count);
        self.by_start.remove(&first);
        if taken < length {
            self.by_start.insert(first + taken, length - taken);
        }
        self.frames -= taken;
        Some((first, taken))
    }
}

/// The free frames of a source.
#[derive(Debug, Default)]
pub(super) struct FreeFrames {
    zero: Runs,
    unknown: Runs,
}

impl FreeFrames {
    pub(super) fn put(&mut self, run: FrameRun, content: Content) {
        match content {
            Content::Zero => self.zero.insert(run.first.get(), run.count),
            Content::Unknown => self.unknown.insert(run.first.get(), run.count),
        }
    }

    /// Takes `count` frames, zeroed ones first, and appends them to `runs`; calls `clean` for every
    /// run that must still be zeroed. Returns false, and takes nothing, if there are too few.
    pub(super) fn take(
        &mut self,
        mut count: u64,
        runs: &mut Vec<FrameRun>,
        mut clean: impl FnMut(FrameRun),
    ) -> bool {
        if count > self.len() {
            return false;
        }
        while count > 0 {
            let (first, taken) = match self.zero.take(count) {
                Some(run) => run,
                None => {
                    let Some((first, taken)) = self.unknown.take(count) else { break };
                    clean(FrameRun { first: HostPfn::new(first), count: taken });
                    (first, taken)
                }
            };
            runs.push(FrameRun { first: HostPfn::new(first), count: taken });
            count -= taken;
        }
        true
    }

    pub(super) fn len(&self) -> u64 {
        self.zero.frames + self.unknown.frames
    }
}
