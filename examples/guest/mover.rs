//! How pages move to other frames while vCPUs use them, as when memory is defragmented, or migrated
//! between NUMA nodes. Two ways, by turns:
//!
//! - *copy on the side*: the pages are made read-only and that is shot down, so that nobody writes any more;
//!   they are copied while vCPUs go on reading; then unmapped, and that is shot down too;
//! - *unmap first*: the pages are unmapped and that is shot down; then nobody is left, and they are copied.
//!
//! Then they are mapped to their new frames, and the old ones given back. A leaf never becomes a leaf of
//! another frame in one step: the accessed and dirty bits that the MMU sets meanwhile would be anybody's.
//!
//! A vCPU that finds a page read-only or gone faults, and tries again until the page is back; the others
//! run on. Where a page is, is decided by who holds its region: see
//! [`Place::try_hold`](crate::stage::Place::try_hold).

use std::iter;

use slat::{GpaRange, HostPfn, Mapping, Prot};

use crate::{
    frame::Frame,
    machine::Machine,
    manager::{Manager, Stuck},
};

/// The rights of pages that are being copied.
const FROZEN: Prot = Prot::R.union(Prot::X);

impl Manager<'_> {
    /// Moves all pages of a region.
    pub(crate) fn move_region(&mut self, region: usize) -> Result<(), Stuck> {
        let range = self.site.machine.layout.regions()[region];
        let _moving = self.site.stage.places[region].begin_move();
        let (unmapped, copies) = if self.account.rounds.is_multiple_of(2) {
            let copies = self.copy_on_the_side(range)?;
            let unmapped = self.unmap(range)?;
            self.account.copied += pages(&unmapped);
            (unmapped, copies)
        } else {
            let unmapped = self.unmap(range)?;
            self.account.unmapped_first += pages(&unmapped);
            let copies = self.copy(&unmapped)?;
            (unmapped, copies)
        };
        let place = |page: &Mapping| (page.gpa, page.pfn);
        if !unmapped.iter().map(place).eq(copies.iter().map(|(page, _)| place(page))) {
            return Err(Stuck::Disturbed { range });
        }
        for (old, (_, new)) in iter::zip(unmapped, copies) {
            self.settle(old, new)?;
        }
        self.account.rounds += 1;
        Ok(())
    }

    /// Write-protects the pages of a range, and copies them when nobody writes any more. Returns what was
    /// mapped, and the new frames.
    fn copy_on_the_side(&mut self, range: GpaRange) -> Result<Vec<(Mapping, HostPfn)>, Stuck> {
        let pages: Vec<_> = {
            let pin = self.reader.pin();
            pin.mappings(range).expect("regions were populated").collect()
        };
        let (_, flush) = self.reader.pin().protect(range, FROZEN)?;
        self.account.shootdowns += self.site.serve(flush, &pages)?;
        self.copy(&pages)
    }

    /// Unmaps the pages of a range, and waits until nobody uses them any more.
    fn unmap(&mut self, range: GpaRange) -> Result<Vec<Mapping>, Stuck> {
        let mut unmapped = Vec::new();
        let (_, flush) = self.reader.pin().unmap_range(range, |page| unmapped.push(page))?;
        self.account.shootdowns += self.site.serve(flush, &unmapped)?;
        Ok(unmapped)
    }

    /// Copies pages to new frames, which it returns.
    fn copy(&mut self, pages: &[Mapping]) -> Result<Vec<(Mapping, HostPfn)>, Stuck> {
        let memory = &self.site.machine.memory;
        let copies = pages.iter().map(|page| {
            let pfn = memory.allocate(page.size).ok_or(Stuck::OutOfFrames { gpa: page.gpa })?;
            memory.frame(page.pfn).ok_or(Stuck::Stray(*page))?;
            memory.copy(page.pfn, pfn, page.size);
            Ok((*page, pfn))
        });
        copies.collect()
    }

    /// Maps a page to its new frame, and gives the old one back.
    fn settle(&mut self, old: Mapping, new: HostPfn) -> Result<(), Stuck> {
        let Machine { memory, attr, .. } = self.site.machine;
        let stay = memory.frame(old.pfn).and_then(Frame::stay);
        let stay = stay.ok_or(Stuck::Stray(old))?;
        self.account.moved.push((stay, old.into()));
        self.reader.pin().map(old.gpa, new, old.size, *attr)?;
        memory.free(old.pfn, old.size);
        Ok(())
    }
}

fn pages(leaves: &[Mapping]) -> u64 {
    leaves.iter().map(|leaf| leaf.size.pages()).sum()
}

#[cfg(test)]
mod tests;
