//! The reference: every populated page in an ordered map, and what each operation must answer.

use std::collections::{BTreeMap, BTreeSet};

use slat::{
    Attr, EncodeError, Format, Gpa, GpaRange, HostPfn, HostRun, MapError, MapRangeError, Mapped,
    MappedRange, Mapping, PageSize, PopulateError, Prot, ProtectError, TranslateError, UnmapError,
    UnmapRangeError, VacateError,
};

use crate::common::{PAGE, SMALL, Space, at, pfn};

/// A change's count, and the hull of the pages whose cached translations must go.
pub(crate) type Changed = (u64, Option<GpaRange>);

/// What a table is, with everything about it left out but its meaning.
#[derive(Debug)]
pub(crate) struct Reference<F> {
    format: F,
    space: Space,
    /// The populated pages by number, and what is mapped there.
    pub(crate) pages: BTreeMap<u64, Option<Mapping>>,
    /// The pages, mapped and writable, whose writes are watched.
    pub(crate) watched: BTreeSet<u64>,
}

pub(crate) fn page_of(gpa: Gpa) -> u64 {
    gpa.get() / PAGE
}

pub(crate) fn numbers(range: GpaRange) -> std::ops::Range<u64> {
    page_of(range.start())..page_of(range.start()) + range.pages()
}

pub(crate) fn one_page(page: u64) -> GpaRange {
    GpaRange::from_pages(at(page * PAGE), 1).unwrap()
}

pub(crate) fn join(hull: &mut Option<GpaRange>, range: GpaRange) {
    *hull = Some(hull.map_or(range, |hull| hull.hull(range)));
}

/// Joins ascending pages to runs of (first page number, count).
fn runs(pages: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

impl<F: Format> Reference<F> {
    pub(crate) fn new(format: F) -> Self {
        Self { format, space: Space::of(&format), pages: BTreeMap::new(), watched: BTreeSet::new() }
    }

    pub(crate) fn admits(&self, range: GpaRange) -> bool {
        let part = self.space.part / PAGE;
        let pages = numbers(range);
        let upper = self.space.upper / PAGE;
        pages.end <= part || (upper <= pages.start && pages.end <= upper + part)
    }

    fn encodes(&self, first: HostPfn, pages: u64, attr: Attr) -> Result<(), EncodeError> {
        let width = self.format.phys_width().bits();
        let bad = |pfn| Err(EncodeError::BadFrame { pfn, width });
        let Some(last) = first.checked_add(pages - 1) else { return bad(first) };
        if last.get() >> (width - 12) != 0 {
            return bad(last);
        }
        self.format.leaf(SMALL, first, attr).map(drop)
    }

    fn leaf(&self, page: u64, pfn: HostPfn, attr: Attr) -> Mapping {
        let gpa = at(page * PAGE);
        Mapping { gpa, pfn, size: SMALL, attr, accessed: false, dirty: false }
    }

    /// Returns the populated pages as ascending runs.
    pub(crate) fn runs(&self) -> Vec<(u64, u64)> {
        runs(self.pages.keys().copied())
    }

    /// Returns the populated pages as ascending runs, as the index bits number them.
    pub(crate) fn populated(&self) -> Vec<(u64, u64)> {
        let index_bits = self.format.levels().count() * 9;
        runs(self.pages.keys().map(|page| page & ((1 << index_bits) - 1)))
    }

    pub(crate) fn populate(
        &mut self,
        range: GpaRange,
        leaves: Option<(HostPfn, Attr)>,
    ) -> Result<(), PopulateError> {
        if !self.admits(range) {
            return Err(PopulateError::OutOfRange { range });
        }
        if let Some((first, attr)) = leaves {
            self.encodes(first, range.pages(), attr)?;
        }
        if let Some((&page, _)) = self.pages.range(numbers(range)).next() {
            return Err(PopulateError::Overlap { gpa: at(page * PAGE) });
        }
        for (offset, page) in (0..).zip(numbers(range)) {
            let leaf = leaves.map(|(first, attr)| self.leaf(page, pfn(first.get() + offset), attr));
            self.pages.insert(page, leaf);
        }
        Ok(())
    }

    pub(crate) fn vacate(&mut self, range: GpaRange) -> Result<(), VacateError> {
        if !self.admits(range) {
            return Err(VacateError::OutOfRange { range });
        }
        for page in numbers(range) {
            let gpa = at(page * PAGE);
            match self.pages.get(&page) {
                None => return Err(VacateError::NotPopulated { gpa }),
                Some(Some(_)) => return Err(VacateError::StillMapped { gpa }),
                Some(None) => {}
            }
        }
        for page in numbers(range) {
            self.pages.remove(&page);
        }
        Ok(())
    }

    /// Returns how many tables it takes to translate the populated pages.
    pub(crate) fn tables(&self) -> u64 {
        let below_root = self.format.levels().count() - 1;
        let of_level = |shift: u32| {
            let mut tables: Vec<_> = self.pages.keys().map(|page| page >> shift).collect();
            tables.dedup();
            tables.len() as u64
        };
        1 + (1..=below_root).map(|level| of_level(level * 9)).sum::<u64>()
    }

    /// Tells what mapping would do, once encoding and address are known to be good.
    fn mappable(&self, gpa: Gpa, pfn: HostPfn, attr: Attr) -> Result<Mapped, MapError> {
        match self.pages.get(&page_of(gpa)) {
            None => Err(MapError::NotPopulated { gpa }),
            Some(None) => Ok(Mapped::New),
            Some(Some(there)) if (there.pfn, there.attr) == (pfn, attr) => Ok(Mapped::Same),
            Some(Some(there)) => Err(MapError::Occupied(*there)),
        }
    }

    pub(crate) fn map(
        &mut self,
        gpa: Gpa,
        pfn: HostPfn,
        size: PageSize,
        attr: Attr,
    ) -> Result<Mapped, MapError> {
        self.format.leaf(size, pfn, attr)?;
        if !self.admits(one_page(page_of(gpa))) {
            return Err(MapError::OutOfRange { gpa });
        }
        if size != SMALL {
            return match self.pages.get(&page_of(gpa)) {
                None => Err(MapError::NotPopulated { gpa }),
                Some(None) => Err(MapError::WrongSize { gpa, granule: SMALL }),
                Some(Some(there)) => Err(MapError::Occupied(*there)),
            };
        }
        let mapped = self.mappable(gpa, pfn, attr)?;
        if mapped == Mapped::New {
            self.pages.insert(page_of(gpa), Some(self.leaf(page_of(gpa), pfn, attr)));
        }
        Ok(mapped)
    }

    pub(crate) fn map_range(
        &mut self,
        range: GpaRange,
        first: HostPfn,
        attr: Attr,
    ) -> Result<MappedRange, MapRangeError> {
        let mut done = MappedRange::default();
        let fail = |source| MapRangeError::Page { done: MappedRange::default(), source };
        if !self.admits(range) {
            return Err(MapRangeError::OutOfRange { range });
        }
        self.encodes(first, range.pages(), attr).map_err(|error| fail(error.into()))?;
        let frames = || (first.get()..).map(pfn);
        for (page, frame) in numbers(range).zip(frames()) {
            self.mappable(at(page * PAGE), frame, attr).map_err(fail)?;
        }
        for (page, frame) in numbers(range).zip(frames()) {
            match self.map(at(page * PAGE), frame, SMALL, attr) {
                Ok(Mapped::New) => done.new += 1,
                Ok(Mapped::Same) => done.same += 1,
                Err(error) => panic!("checked before: {error}"),
            }
        }
        Ok(done)
    }

    pub(crate) fn unmap(&mut self, gpa: Gpa) -> Result<Mapping, UnmapError> {
        if !self.admits(one_page(page_of(gpa))) {
            return Err(UnmapError::OutOfRange { gpa });
        }
        self.watched.remove(&page_of(gpa));
        let page = self.pages.get_mut(&page_of(gpa));
        page.and_then(Option::take).ok_or(UnmapError::NotMapped { gpa })
    }

    pub(crate) fn unmap_range(
        &mut self,
        range: GpaRange,
        mut sink: impl FnMut(Mapping),
    ) -> Result<Changed, UnmapRangeError> {
        if !self.admits(range) {
            return Err(UnmapRangeError::OutOfRange { range });
        }
        self.watched.retain(|page| !numbers(range).contains(page));
        let mut changed = (0, None);
        for mapping in self.pages.range_mut(numbers(range)).filter_map(|(_, page)| page.take()) {
            changed.0 += 1;
            join(&mut changed.1, mapping.range());
            sink(mapping);
        }
        Ok(changed)
    }

    pub(crate) fn protect(&mut self, range: GpaRange, prot: Prot) -> Result<Changed, ProtectError> {
        let encoded = self.format.leaf(SMALL, pfn(0), Attr::new(prot));
        if let Err(EncodeError::BadAttr(error)) = encoded {
            return Err(ProtectError::BadProt(error));
        }
        if !self.admits(range) {
            return Err(ProtectError::OutOfRange { range });
        }
        if !prot.contains(Prot::W) {
            self.watched.retain(|page| !numbers(range).contains(page));
        }
        let mut changed = (0, None);
        for mapping in self.pages.range_mut(numbers(range)).filter_map(|(_, page)| page.as_mut()) {
            let had = mapping.attr.prot();
            if had != prot {
                changed.0 += 1;
                mapping.attr = mapping.attr.with_prot(prot);
            }
            if !prot.contains(had) {
                join(&mut changed.1, mapping.range());
            }
        }
        Ok(changed)
    }

    /// Returns what is mapped at `gpa`, to change its bits.
    pub(crate) fn mapping(&mut self, gpa: Gpa) -> Option<&mut Mapping> {
        self.pages.get_mut(&page_of(gpa))?.as_mut()
    }

    pub(crate) fn mappings(&self, range: GpaRange) -> Option<Vec<Mapping>> {
        let all = || self.pages.range(numbers(range)).filter_map(|(_, page)| *page).collect();
        self.admits(range).then(all)
    }

    pub(crate) fn translate(
        &self,
        gpa: Gpa,
        len: u64,
        access: Prot,
    ) -> Result<HostRun, TranslateError> {
        if len == 0 {
            return Err(TranslateError::Empty { gpa });
        }
        if !self.admits(one_page(page_of(gpa))) {
            return Err(TranslateError::OutOfRange { gpa });
        }
        let look = |page: u64| self.pages.get(&page).copied().flatten();
        let first = look(page_of(gpa)).ok_or(TranslateError::NotMapped { gpa })?;
        let have = first.attr.prot();
        if !have.contains(access) {
            return Err(TranslateError::Denied { gpa, have });
        }
        let continues = |pages: u64| {
            look(page_of(gpa) + pages).is_some_and(|next| {
                next.pfn.get() == first.pfn.get() + pages && next.attr.prot().contains(access)
            })
        };
        let pages = (1..).find(|&pages| !continues(pages)).expect("runs end");
        let offset = gpa.page_offset();
        // The low half's last page is followed by the hole, so no run goes on over it.
        Ok(HostRun { pfn: first.pfn, offset, len: len.min(pages * PAGE - offset) })
    }
}
