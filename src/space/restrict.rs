//! Taking rights away from the leaves of a region.
//!
//! A leaf may have less than its region: its backing may have a say. So it is left with what both have; and
//! what a region has gained its leaves get one by one, when it is needed.

use alloc::vec::Vec;

use super::{
    backing::{Answer, Released, Want},
    region::Region,
    shared::{Shared, chunks},
};
use crate::{
    addr::GpaRange, arena::FrameSource, attr::Prot, entry::Entry, format::Format, mapping::Mapping,
};

impl<F: Format, S: FrameSource> Shared<F, S> {
    /// Takes the rights away that the region does not have, and shoots them down. The caller holds `changes`,
    /// is outside, has split what the region cuts, and nobody maps or grants more than the region has.
    pub(super) fn restrict(&self, region: &Region) {
        chunks(region.range).for_each(|chunk| self.restrict_chunk(region, chunk));
    }

    fn restrict_chunk(&self, region: &Region, chunk: GpaRange) {
        self.with_agent(|agent| {
            let pin = agent.reader.pin();
            let mut runs: Vec<(GpaRange, Prot)> = Vec::new();
            let leaves = pin.mappings(chunk).expect("a region is of input addresses");
            for leaf in leaves.filter(|leaf| !region.attr.prot().contains(leaf.attr.prot())) {
                let (range, prot) = (leaf.range(), self.restricted(region, &leaf));
                match runs.last_mut() {
                    // Without a gap: what is mapped in it meanwhile may have less than these.
                    Some((run, same)) if *same == prot && run.end_page() == range.first_page() => {
                        *run = run.hull(range);
                    }
                    _ => runs.push((range, prot)),
                }
            }
            // It fails where somebody has collapsed what was just split: then the leaf is as it was, and a
            //   fault of what it lacks, not of what it has too much.
            let done: Vec<_> =
                runs.into_iter().filter_map(|(run, prot)| pin.protect(run, prot).ok()).collect();
            drop(pin);
            self.shoot(chunk).expect("the caller is outside");
            // Not before they are served: caches would forget all that they know.
            drop(done);
        });
    }

    /// Returns what a leaf keeps of its rights.
    fn restricted(&self, region: &Region, leaf: &Mapping) -> Prot {
        let both = leaf.attr.prot() & region.attr.prot();
        let can_be = |prot| self.table.format().with_prot(Entry::EMPTY, prot).is_ok();
        if can_be(both) {
            return both;
        }
        // Nothing that a leaf can say: so it gets what it would if it were mapped now.
        let page = region.backing_page(leaf.gpa.page());
        let want = Want::new(page, leaf.size, Prot::empty()).with_present(leaf.pfn);
        let now = match region.ground.backing.frame(&want) {
            Answer::Frame(frame, most) if frame == leaf.pfn => Some(region.attr.prot() & most),
            Answer::Frame(frame, _) => {
                let unused = Released::unused(page, frame, leaf.size);
                region.ground.backing.release(unused);
                None
            }
            _ => None,
        };
        // Or what the region has, but for writes: the frame may be others' as well.
        now.filter(|&now| can_be(now)).unwrap_or(region.attr.prot().difference(Prot::W))
    }
}
