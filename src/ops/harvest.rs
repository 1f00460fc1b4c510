//! Harvest: which pages were accessed or dirtied, into a bitmap, and their bits cleared.
//!
//! A leaf table is read whole, and where the bit was seen it is taken by an atomic operation whose *old
//! value* decides: what the MMU sets is taken or stays, and of two harvests one gets it. Nothing is ever
//! put back, and nothing is set in an entry that is not present. What was taken from a table that a
//! vacate is just taking out is reported like any other.
//!
//! A large leaf has one bit for all its pages. It stands for each of them that is asked for, and is
//! cleared only if they all are: otherwise it stays, and those pages are reported again. It is changed by
//! compare-exchange, since its slot may become a table's under the harvest, which then goes on below.
//!
//! From a leaf whose writes are [watched](super::watch) the right to write goes with its dirty bit, in the
//! same exchange: what is cached of it is in the flush, like all that was cleared.
//!
//! A leaf that bears [`Entry::LATE`] counts as accessed and dirty, whichever bits it has: a collapse has
//! still to bring what the MMU may have set in the table that the leaf replaced. Harvests leave the mark,
//! and do not thwart a collapse: what they take from a table that was just replaced is reported, and lost
//! to nobody. A bit that is *set* there might come too late for the collapse to see, so setting does.

#[cfg(feature = "rayon")]
mod parallel;
mod rounds;

use alloc::vec::Vec;

use crate::{
    addr::GpaRange,
    arena::FrameSource,
    attr::Prot,
    bitmap::{Bitmap, NotCovered, WORD_PAGES, Window, low_bits, words_of},
    entry::Entry,
    format::{Format, Take},
    level::PageSize,
    observe::Covered,
    sync::full_fence,
    table::{Slot, Walker, hits, take_hits},
    walk::{Place, Update},
};

/// Which of the two bits that an MMU keeps in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The page was accessed.
    Accessed,
    /// The page was written.
    Dirty,
}

/// Why nothing was harvested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HarvestError {
    /// Some page of the range is not an input address of the table's format.
    #[error("{range} has pages that are not input addresses of the table's format")]
    OutOfRange {
        /// The range.
        range: GpaRange,
    },
    /// The bitmap has no bits for some pages of the range.
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
}

/// What becomes of the bits that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Cleared,
    Kept,
}

/// What the caller asks for.
#[derive(Clone, Copy, Debug)]
struct Wanted<'b> {
    range: GpaRange,
    /// Only these pages of the range, which is the bitmap's.
    selection: Option<&'b Bitmap>,
    take: Take,
    fate: Fate,
}

/// What was found in a part of the range.
#[derive(Debug)]
struct Crop<'b> {
    found: Window<'b>,
    /// How many pages were reported.
    pages: u64,
    /// What was cleared.
    covered: Covered,
    /// The pages, as far as they are wanted, of large leaves of which some are in another part. Nothing
    /// was done about them.
    cut: Vec<GpaRange>,
}

/// What a slot above the leaf tables turned out to be.
#[derive(Debug)]
enum Large {
    /// A leaf, or nothing; it is done.
    Done,
    /// A table by now, whose pages are still to be visited.
    Table,
}

impl Mark {
    fn take<F: Format>(self, format: &F) -> Take {
        match self {
            Self::Accessed => Take::accessed(format),
            Self::Dirty => Take::dirty(format),
        }
    }
}

impl Wanted<'static> {
    /// Checks what a caller asks for.
    fn check<F: Format>(
        format: &F,
        range: GpaRange,
        mark: Mark,
        fate: Fate,
        found: &Bitmap,
    ) -> Result<Self, HarvestError> {
        if !format.admits_range(range) {
            return Err(HarvestError::OutOfRange { range });
        }
        found.check(range)?;
        Ok(Self { range, selection: None, take: mark.take(format), fate })
    }
}

impl Wanted<'_> {
    /// Returns which of the `count` pages from `page` on, at most 64, are wanted.
    #[inline]
    fn mask(&self, page: u64, count: u64) -> u64 {
        self.selection.map_or(low_bits(count), |selection| selection.mask(page, count))
    }

    /// Tells whether the bit of a large leaf is to be cleared: it speaks of all its pages.
    fn clears(&self, leaf: GpaRange) -> bool {
        self.fate == Fate::Cleared
            && self.range.covers(leaf)
            && self.selection.is_none_or(|selection| selection.contains_all(leaf))
    }
}

impl<'b> Crop<'b> {
    fn new(found: Window<'b>) -> Self {
        Self { found, pages: 0, covered: Covered::default(), cut: Vec::new() }
    }

    /// Reports the pages from `page` on that are set in `mask`.
    #[inline]
    fn report(&mut self, page: u64, mask: u64) {
        self.found.set_mask(page, mask);
        self.pages += u64::from(mask.count_ones());
    }
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Reports the pages of `range` that have the mark, and clears it.
    pub(crate) fn harvest(
        self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
        covered: &mut Covered,
    ) -> Result<u64, HarvestError> {
        let wanted = Wanted::check(self.format(), range, mark, Fate::Cleared, found)?;
        Ok(self.gather_all(&wanted, found, covered))
    }

    /// Reports the pages of `selection` that have the mark, and clears it.
    pub(crate) fn harvest_selected(
        self,
        selection: &Bitmap,
        mark: Mark,
        found: &mut Bitmap,
        covered: &mut Covered,
    ) -> Result<u64, HarvestError> {
        let format = self.format();
        let wanted = Wanted::check(format, selection.range(), mark, Fate::Cleared, found)?;
        let wanted = Wanted { selection: Some(selection), ..wanted };
        Ok(self.gather_all(&wanted, found, covered))
    }

    /// Reports the pages of `range` that have the mark.
    pub(crate) fn query(
        self,
        range: GpaRange,
        mark: Mark,
        found: &mut Bitmap,
    ) -> Result<u64, HarvestError> {
        let wanted = Wanted::check(self.format(), range, mark, Fate::Kept, found)?;
        Ok(self.gather_all(&wanted, found, &mut Covered::default()))
    }

    /// Makes the pages of `selection` dirty that are mapped and can be written; returns how many were
    /// not.
    pub(crate) fn set_dirty(self, selection: &Bitmap) -> Result<u64, HarvestError> {
        let format = self.format();
        let range = selection.range();
        if !format.admits_range(range) {
            return Err(HarvestError::OutOfRange { range });
        }
        // Between what the caller wrote to the pages and a look that finds them dirty already. A harvest
        // takes the bit, and fences, before the pages are read: so it is seen clear here, or what was
        // written is seen there [pair: write-harvest].
        full_fence();
        let dirty = format.dirty_bit();
        let mut pages = 0;
        for part in selection.runs() {
            let mut runs = self.runs(part);
            while let Some(run) = runs.next() {
                for (place, page) in run.places() {
                    let clean = |size, leaf: Entry| {
                        let writable = format.attr(size, leaf).prot().contains(Prot::W);
                        (writable && !leaf.has(dirty)).then_some(leaf)
                    };
                    match self.dirty_at(place, page, clean) {
                        // It counted as dirty, but the mark will go.
                        Update::Done(_, leaf) if leaf.has(Entry::LATE) => {}
                        Update::Done(size, _) => pages += size.pages(),
                        Update::Declined => {}
                        Update::Below(_) => {
                            runs.enter(place, page);
                            continue;
                        }
                    }
                    // Also where it was set already: who did may not have come so far.
                    self.mark_above(page);
                }
            }
        }
        Ok(pages)
    }

    fn gather_all(self, wanted: &Wanted<'_>, found: &mut Bitmap, covered: &mut Covered) -> u64 {
        let mut crop = Crop::new(found.window());
        self.gather(wanted, wanted.range, &mut crop);
        covered.join(crop.covered);
        crop.pages
    }

    /// Visits `part` of what is wanted.
    fn gather(self, wanted: &Wanted<'_>, part: GpaRange, crop: &mut Crop<'_>) {
        let mut runs = self.runs(part);
        while let Some(run) = runs.next() {
            if let Some(slots) = run.leaf_slots() {
                gather_leaves(wanted, slots, run.page(), crop);
                continue;
            }
            for (place, page) in run.places() {
                if let Large::Table = self.gather_large(wanted, part, place, page, crop) {
                    runs.enter(place, page);
                }
            }
        }
    }

    /// Does the same for the slot at `place`, in a table above the leaf tables.
    fn gather_large(
        self,
        wanted: &Wanted<'_>,
        part: GpaRange,
        place: Place<'p>,
        page: u64,
        crop: &mut Crop<'_>,
    ) -> Large {
        let here = |size: PageSize| size.leaf_range(page).overlap(wanted.range);
        let is_cut = |size| here(size).is_some_and(|here| !part.covers(here));
        let mut kept = None;
        let update = self.update_at(place, page, |size, leaf| {
            let whole = wanted.clears(size.leaf_range(page)) && !is_cut(size);
            if whole && leaf.has(wanted.take.bit()) {
                return Some(wanted.take.from(leaf));
            }
            kept = Some((size, leaf));
            None
        });
        let found = match update {
            Update::Below(_) => return Large::Table,
            Update::Declined => kept,
            Update::Done(size, leaf) => {
                crop.covered.add(size.leaf_range(page), leaf);
                Some((size, leaf))
            }
        };
        let marked = found.filter(|(_, leaf)| leaf.has(wanted.take.bit() | Entry::LATE));
        let Some((size, here)) = marked.and_then(|(size, _)| Some((size, here(size)?))) else {
            return Large::Done;
        };
        if is_cut(size) {
            crop.cut.push(here);
            return Large::Done;
        }
        for (page, count) in words_of(here) {
            let mask = wanted.mask(page, count);
            crop.report(page, mask);
        }
        Large::Done
    }
}

/// Visits `slots` of a leaf table, of which the first is that of `page`.
fn gather_leaves(wanted: &Wanted<'_>, slots: &[Slot], page: u64, crop: &mut Crop<'_>) {
    let mut marked = hits(slots, wanted.take.bit());
    let end = page + slots.len() as u64;
    let groups = || (page..end).step_by(WORD_PAGES as usize);
    if wanted.selection.is_some() {
        for (marked, page) in marked.iter_mut().zip(groups()) {
            *marked &= wanted.mask(page, WORD_PAGES.min(end - page));
        }
    }
    // Here, and nowhere below: which groups have a hit is anybody's guess, and the processor's would be
    // wrong too often.
    if marked.iter().fold(0, |all, marked| all | marked) == 0 {
        return;
    }
    crop.pages += match wanted.fate {
        Fate::Cleared => take_hits(slots, &mut marked, wanted.take),
        Fate::Kept => marked.iter().map(|marked| u64::from(marked.count_ones())).sum(),
    };
    for (&marked, page) in marked.iter().zip(groups()) {
        crop.found.set_mask(page, marked);
    }
    if wanted.fate == Fate::Cleared
        && let Some(cleared) = hull(&marked, page)
    {
        // There are no late leaves in leaf tables.
        crop.covered.add(cleared, Entry::EMPTY);
    }
}

/// Returns the range from the first to the last page that is set in `marked`, which begins at `page`.
fn hull(marked: &[u64], page: u64) -> Option<GpaRange> {
    let groups = marked
        .iter()
        .zip(0..)
        .fold(0_u64, |groups, (&marked, group)| groups | u64::from(marked != 0) << group);
    let (first, last) = (groups.trailing_zeros(), groups.checked_ilog2()?);
    let bit = |group: u32, within: u32| page + u64::from(group) * WORD_PAGES + u64::from(within);
    let first = bit(first, marked[first as usize].trailing_zeros());
    let last = bit(last, marked[last as usize].ilog2());
    Some(GpaRange::between(first, last + 1))
}
