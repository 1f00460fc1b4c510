//! Taking rights away from the leaves of a region.
//!
//! A leaf may have less than its region: its backing may have a say. So it is left with what both have; and
//! what a region has gained its leaves get one by one, when it is needed.

use alloc::vec::Vec;

use super::{
    backing::{Answer, Want},
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
        for chunk in chunks(region.range) {
            self.restrict_chunk(region, chunk);
            self.shoot(chunk).expect("the caller is outside");
        }
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
            for (run, prot) in runs {
                // Shot down with the chunk. It fails where somebody has collapsed what was just split: then
                //   the leaf is as it was, and a fault of what it lacks, not of what it has too much.
                drop(pin.protect(run, prot));
            }
        });
    }

    /// Returns what a leaf keeps of its rights.
    fn restricted(&self, region: &Region, leaf: &Mapping) -> Prot {
        let both = leaf.attr.prot() & region.attr.prot();
        if self.table.format().with_prot(Entry::EMPTY, both).is_ok() {
            return both;
        }
        // Nothing that a leaf can say: so it gets what it would if it were mapped now.
        let page = region.backing_page(leaf.gpa.page());
        let want = Want::new(page, leaf.size, Prot::empty()).with_present(leaf.pfn);
        match region.ground.backing.frame(&want) {
            Answer::Frame(frame, most) if frame == leaf.pfn => region.attr.prot() & most,
            _ => region.attr.prot(),
        }
    }
}
