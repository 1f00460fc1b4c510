//! A harvest on all the threads of a rayon pool.
//!
//! The bitmap is cut at its words, so that no two threads write to one, and the range with it. Where such
//! a cut goes through a large leaf, neither side may decide alone whether to clear it, or the one that
//! comes second would find nothing to report: both put it aside, and it is harvested in the end.

use alloc::vec::Vec;

use rayon::prelude::*;

use super::{Crop, Fate, HarvestError, Mark, Wanted};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    bitmap::{Bitmap, WORD_PAGES, Window},
    format::Format,
    observe::{Collect, Covered, Domain, Flush, Scope, Stale},
};

/// Parts for each thread: so that one with fewer tables in its part has another to go on with.
const PARTS_PER_THREAD: usize = 8;
/// Words of a bitmap below which a part is not worth its pin: those of 16 leaf tables.
const LEAST_WORDS: usize = 128;

impl<F: Format, S: FrameSource> Domain<F, S> {
    /// As [`Walker::harvest`](crate::table::Walker::harvest), in parallel.
    pub(crate) fn harvest_in_parallel(
        &self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<(u64, Flush<'_>), HarvestError> {
        let wanted = Wanted::check(self.tree().format(), range, mark, Fate::Cleared, found)?;
        let mut changed = Collect::new(self.hub(), Covered::default());
        // If a part panics, nobody knows what the others have cleared.
        changed.covered.merge(Stale::new(range, Scope::Structure));
        let parts = rayon::current_num_threads() * PARTS_PER_THREAD;
        let words = range.pages().div_ceil(WORD_PAGES) as usize;
        let words = words.div_ceil(parts).max(LEAST_WORDS);
        let windows: Vec<_> = found.window().part(range).split(words).collect();
        let mut parts: Vec<_> =
            windows.into_par_iter().map(|window| self.gather_part(&wanted, window)).collect();

        let mut cut: Vec<_> = parts.iter_mut().flat_map(|part| part.cut.drain(..)).collect();
        cut.dedup();
        let (mut pages, mut covered) = (0, Covered::default());
        for part in parts {
            pages += part.pages;
            covered.join(part.covered);
        }
        let mut rest = Crop::new(found.window());
        let participant = self.tree().epoch().join();
        let pin = participant.pin();
        while let Some(part) = cut.pop() {
            self.tree().walk(&pin).gather(&wanted, part, &mut rest);
            // A collapse may have made a leaf meanwhile that is cut by this part as well.
            cut.append(&mut rest.cut);
        }
        covered.join(rest.covered);
        changed.covered = covered;
        Ok((pages + rest.pages, changed.done()))
    }

    fn gather_part<'b>(&self, wanted: &Wanted<'_>, window: Window<'b>) -> Crop<'b> {
        let part = window.range().overlap(wanted.range);
        let mut crop = Crop::new(window);
        if let Some(part) = part {
            let participant = self.tree().epoch().join();
            let pin = participant.pin();
            self.tree().walk(&pin).gather(wanted, part, &mut crop);
        }
        crop
    }
}
