//! Many walks at a time, overlapped.
//!
//! A single random walk waits for memory, mostly for the cache line of the leaf's slot. A batch keeps a
//! ring of walks that have come as far as that slot and have asked for its line; by the time a walk's
//! turn comes round again the line is there.

use core::array;

use crate::{addr::Gpa, arena::FrameSource, format::Format, table::Walker, walk::Place};

/// How many walks are under way at once: about as many as a core has outstanding cache misses.
const RING: usize = 16;

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Walks for every item, in order, and calls `finish` with where its walk has come to; `None` if
    /// its address is not an input address.
    pub(crate) fn batch<T>(
        self,
        items: impl IntoIterator<Item = T>,
        gpa: impl Fn(&T) -> Gpa,
        mut finish: impl FnMut(T, Option<Place<'p>>),
    ) {
        let mut ring: [Option<(T, Option<Place<'p>>)>; RING] = array::from_fn(|_| None);
        let mut turn = 0;
        for item in items {
            let gpa = gpa(&item);
            let place = self.format().admits(gpa).then(|| self.approach(gpa.page()));
            if let Some(place) = place {
                place.slot.prefetch();
            }
            if let Some((item, place)) = ring[turn].replace((item, place)) {
                finish(item, place);
            }
            turn = (turn + 1) % RING;
        }
        for step in 0..RING {
            if let Some((item, place)) = ring[(turn + step) % RING].take() {
                finish(item, place);
            }
        }
    }
}
