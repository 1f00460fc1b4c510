//! Taking rights away from the leaves of a region.
//!
//! A leaf may have less than its region: its backing may have a say. So it is left with what both have; and
//! what a region has gained its leaves get one by one, when it is needed.

use alloc::vec::Vec;

use super::{
    agent::Agent,
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
        for chunk in chunks(region.range) {
            let gone = self.with_agent(|agent| self.restrict_chunk(agent, region, chunk));
            if !gone.is_empty() {
                // Who looked a leaf up before it went.
                self.wait_for_pins();
            }
            gone.into_iter().for_each(|released| region.ground.release(released));
        }
    }

    /// Returns what could not be left with any rights, and was unmapped.
    fn restrict_chunk(
        &self,
        agent: &Agent<F, S>,
        region: &Region,
        chunk: GpaRange,
    ) -> Vec<Released> {
        let pin = agent.reader.pin();
        let mut runs: Vec<(GpaRange, Option<Prot>)> = Vec::new();
        let leaves = pin.mappings(chunk).expect("a region is of input addresses");
        for leaf in leaves.filter(|leaf| !region.attr.prot().contains(leaf.attr.prot())) {
            let (range, prot) = (leaf.range(), self.restricted(region, &leaf));
            match runs.last_mut() {
                // Without a gap: what is mapped in one meanwhile may have less than these.
                Some((run, same)) if *same == prot && run.end_page() == range.first_page() => {
                    *run = run.hull(range);
                }
                _ => runs.push((range, prot)),
            }
        }
        let (mut gone, mut flushes) = (Vec::new(), Vec::new());
        for (run, prot) in runs {
            // It fails only where somebody has collapsed what was just split: then the leaf is as it was.
            let changed = match prot {
                Some(prot) => pin.protect(run, prot).ok(),
                None => pin.unmap_range(run, |leaf| gone.push(region.released(&leaf))).ok(),
            };
            flushes.extend(changed.map(|(_, flush)| flush));
        }
        drop(pin);
        agent.stripe.unmapped.add(gone.iter().map(|released| released.size.pages()).sum());
        self.serve_with(chunk, flushes);
        gone
    }

    /// Returns what a leaf keeps of its rights; `None` if it cannot stay.
    fn restricted(&self, region: &Region, leaf: &Mapping) -> Option<Prot> {
        let can_be = |prot: &Prot| self.table.format().with_prot(Entry::EMPTY, *prot).is_ok();
        let both = leaf.attr.prot() & region.attr.prot();
        if can_be(&both) {
            return Some(both);
        }
        // Nothing that a leaf can say: so it gets what it would if it were mapped now.
        let page = region.backing_page(leaf.gpa.page());
        let want = Want::new(page, leaf.size, Prot::empty()).with_present(leaf.pfn);
        match region.ground.backing.frame(&want) {
            Answer::Frame(frame, most) if frame == leaf.pfn => {
                Some(region.attr.prot() & most).filter(can_be)
            }
            Answer::Frame(frame, _) => {
                region.ground.backing.release(Released::unused(page, frame, leaf.size));
                None
            }
            Answer::Smaller | Answer::Wait | Answer::Failed(_) => None,
        }
    }
}
