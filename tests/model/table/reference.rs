//! The reference: the room for every leaf in an ordered map, and what each operation must answer.

use std::collections::BTreeMap;

use slat::{
    Attr, EncodeError, Format, Gpa, GpaRange, HostPfn, HostRun, MapError, MapRangeError, Mapped,
    MappedRange, Mapping, PageSize, PopulateError, Prot, ProtectError, TranslateError, UnmapError,
    UnmapRangeError, VacateError,
};

use crate::common::{PAGE, SMALL, Space, at, pfn};

/// A change's count, and the hull of the pages whose cached translations must go.
pub(crate) type Changed = (u64, Option<GpaRange>);

/// Room for one leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) size: PageSize,
    pub(crate) leaf: Option<Mapping>,
    /// Writes to the leaf are watched.
    pub(crate) watched: bool,
}

impl Room {
    pub(crate) fn new(size: PageSize, leaf: Option<Mapping>) -> Self {
        Self { size, leaf, watched: false }
    }

    fn take(&mut self) -> Option<Mapping> {
        self.watched = false;
        self.leaf.take()
    }
}

/// What a table is, with everything about it left out but its meaning.
#[derive(Debug)]
pub(crate) struct Reference<F> {
    pub(crate) format: F,
    space: Space,
    /// By the number of the first page.
    pub(crate) rooms: BTreeMap<u64, Room>,
}

pub(crate) fn page_of(gpa: Gpa) -> u64 {
    gpa.get() / PAGE
}

pub(crate) fn numbers(range: GpaRange) -> std::ops::Range<u64> {
    page_of(range.start())..page_of(range.start()) + range.pages()
}

fn one_page(page: u64) -> GpaRange {
    GpaRange::from_pages(at(page * PAGE), 1).unwrap()
}

pub(crate) fn join(hull: &mut Option<GpaRange>, range: GpaRange) {
    *hull = Some(hull.map_or(range, |hull| hull.hull(range)));
}

/// Joins ascending rooms, by first page number and count, to runs.
fn runs(rooms: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (page, pages) in rooms {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += pages,
            _ => runs.push((page, pages)),
        }
    }
    runs
}

impl<F: Format> Reference<F> {
    pub(crate) fn new(format: F) -> Self {
        Self { format, space: Space::of(&format), rooms: BTreeMap::new() }
    }

    pub(crate) fn admits(&self, range: GpaRange) -> bool {
        let part = self.space.part / PAGE;
        let pages = numbers(range);
        let upper = self.space.upper / PAGE;
        pages.end <= part || (upper <= pages.start && pages.end <= upper + part)
    }

    pub(crate) fn admits_page(&self, gpa: Gpa) -> bool {
        self.admits(one_page(page_of(gpa)))
    }

    /// Returns the room that a page lies in, and its first page.
    pub(crate) fn room(&self, page: u64) -> Option<(u64, Room)> {
        let (&first, &room) = self.rooms.range(..=page).next_back()?;
        (page < first + room.size.pages()).then_some((first, room))
    }

    /// Returns the first pages of all rooms that a range has a page of.
    pub(crate) fn rooms_in(&self, range: GpaRange) -> Vec<u64> {
        let pages = numbers(range);
        let first = self.room(pages.start).map_or(pages.start, |(first, _)| first);
        self.rooms.range(first..pages.end).map(|(&first, _)| first).collect()
    }

    fn encodes(
        &self,
        size: PageSize,
        first: HostPfn,
        pages: u64,
        attr: Attr,
    ) -> Result<(), EncodeError> {
        let width = self.format.phys_width().bits();
        let bad = |pfn| Err(EncodeError::BadFrame { pfn, width });
        let Some(last) = first.checked_add(pages - 1) else { return bad(first) };
        if last.get() >> (width - 12) != 0 {
            return bad(last);
        }
        self.format.leaf(size, first, attr).map(drop)
    }

    fn leaf(page: u64, size: PageSize, pfn: HostPfn, attr: Attr) -> Mapping {
        Mapping { gpa: at(page * PAGE), pfn, size, attr, accessed: false, dirty: false }
    }

    fn pages(&self) -> impl Iterator<Item = (u64, u64)> {
        self.rooms.iter().map(|(&page, room)| (page, room.size.pages()))
    }

    /// Returns the populated pages as ascending runs.
    pub(crate) fn runs(&self) -> Vec<(u64, u64)> {
        runs(self.pages())
    }

    /// Returns the populated pages as ascending runs, as the index bits number them.
    pub(crate) fn populated(&self) -> Vec<(u64, u64)> {
        let index_bits = self.format.levels().count() * 9;
        runs(self.pages().map(|(page, pages)| (page & ((1 << index_bits) - 1), pages)))
    }

    pub(crate) fn populate(
        &mut self,
        range: GpaRange,
        granule: PageSize,
        leaves: Option<(HostPfn, Attr)>,
    ) -> Result<(), PopulateError> {
        if !self.admits(range) {
            return Err(PopulateError::OutOfRange { range });
        }
        let pages = numbers(range);
        if [pages.start, pages.end].iter().any(|page| !page.is_multiple_of(granule.pages())) {
            return Err(PopulateError::Misaligned { range, granule });
        }
        if let Some((first, attr)) = leaves {
            self.encodes(granule, first, range.pages(), attr)?;
        }
        if let Some(&first) = self.rooms_in(range).first() {
            return Err(PopulateError::Overlap { gpa: at(first.max(pages.start) * PAGE) });
        }
        for page in pages.clone().step_by(granule.pages() as usize) {
            let frame = |first: HostPfn| pfn(first.get() + (page - pages.start));
            let leaf = leaves.map(|(first, attr)| Self::leaf(page, granule, frame(first), attr));
            self.rooms.insert(page, Room::new(granule, leaf));
        }
        Ok(())
    }

    pub(crate) fn vacate(&mut self, range: GpaRange) -> Result<(), VacateError> {
        if !self.admits(range) {
            return Err(VacateError::OutOfRange { range });
        }
        let pages = numbers(range);
        let mut page = pages.start;
        while page < pages.end {
            let gpa = at(page * PAGE);
            let Some((first, room)) = self.room(page) else {
                return Err(VacateError::NotPopulated { gpa });
            };
            if room.leaf.is_some() {
                return Err(VacateError::StillMapped { gpa });
            }
            let end = first + room.size.pages();
            if first < pages.start || end > pages.end {
                let gpa = at(first * PAGE);
                return Err(VacateError::CutsLarge { gpa, granule: room.size });
            }
            page = end;
        }
        self.rooms.retain(|page, _| !pages.contains(page));
        Ok(())
    }

    /// Returns how many tables it takes to translate the populated pages.
    pub(crate) fn tables(&self) -> u64 {
        let below_root = self.format.levels().count() - 1;
        let of_level = |level: u32| {
            let rooms = self.rooms.iter().filter(|(_, room)| room.size.level() as u32 <= level);
            let mut tables: Vec<_> = rooms.map(|(page, _)| page >> (level * 9)).collect();
            tables.dedup();
            tables.len() as u64
        };
        1 + (1..=below_root).map(of_level).sum::<u64>()
    }

    /// Tells what mapping would do, once encoding and address are known to be good.
    fn mappable(
        &self,
        gpa: Gpa,
        pfn: HostPfn,
        size: PageSize,
        attr: Attr,
    ) -> Result<Mapped, MapError> {
        match self.room(page_of(gpa)) {
            None => Err(MapError::NotPopulated { gpa }),
            Some((_, Room { leaf: Some(there), .. })) => {
                let same = (there.pfn, there.size, there.attr) == (pfn, size, attr);
                if same { Ok(Mapped::Same) } else { Err(MapError::Occupied(there)) }
            }
            Some((_, Room { size: granule, .. })) if granule != size => {
                Err(MapError::WrongSize { gpa, granule })
            }
            Some(_) => Ok(Mapped::New),
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
        if !self.admits_page(gpa) {
            return Err(MapError::OutOfRange { gpa });
        }
        let mapped = self.mappable(gpa, pfn, size, attr)?;
        if let (Mapped::New, Some((first, _))) = (mapped, self.room(page_of(gpa))) {
            let leaf = Some(Self::leaf(first, size, pfn, attr));
            self.rooms.insert(first, Room::new(size, leaf));
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
        self.encodes(SMALL, first, range.pages(), attr).map_err(|error| fail(error.into()))?;
        let pages = numbers(range);
        let mut leaves = Vec::new();
        let mut page = pages.start;
        while page < pages.end {
            let gpa = at(page * PAGE);
            let Some((base, Room { size, leaf, .. })) = self.room(page) else {
                return Err(fail(MapError::NotPopulated { gpa }));
            };
            let frame = pfn(first.get() + (page - pages.start));
            let end = base + size.pages();
            let fits = if base < pages.start || end > pages.end {
                Err(MapError::WrongSize { gpa, granule: size })
            } else {
                self.format.leaf(size, frame, attr).map(drop).map_err(MapError::from)
            };
            match (fits, leaf) {
                (Err(_), Some(there)) => return Err(fail(MapError::Occupied(there))),
                (Err(misfit), None) => return Err(fail(misfit)),
                (Ok(()), _) => drop(self.mappable(gpa, frame, size, attr).map_err(fail)?),
            }
            leaves.push((gpa, frame, size));
            page = end;
        }
        for (gpa, frame, size) in leaves {
            match self.map(gpa, frame, size, attr) {
                Ok(Mapped::New) => done.new += size.pages(),
                Ok(Mapped::Same) => done.same += size.pages(),
                Err(error) => panic!("checked before: {error}"),
            }
        }
        Ok(done)
    }

    pub(crate) fn unmap(&mut self, gpa: Gpa) -> Result<Mapping, UnmapError> {
        if !self.admits_page(gpa) {
            return Err(UnmapError::OutOfRange { gpa });
        }
        let room = self.room(page_of(gpa)).and_then(|(first, _)| self.rooms.get_mut(&first));
        room.and_then(Room::take).ok_or(UnmapError::NotMapped { gpa })
    }

    /// Returns the base of the leaf that a range cuts.
    pub(crate) fn cuts(&self, range: GpaRange) -> Option<Gpa> {
        let pages = numbers(range);
        [pages.start, pages.end - 1].into_iter().find_map(|page| {
            let (first, room) = self.room(page)?;
            let whole = pages.start <= first && first + room.size.pages() <= pages.end;
            room.leaf.filter(|_| !whole).map(|leaf| leaf.gpa)
        })
    }

    pub(crate) fn unmap_range(
        &mut self,
        range: GpaRange,
        mut sink: impl FnMut(Mapping),
    ) -> Result<Changed, UnmapRangeError> {
        if !self.admits(range) {
            return Err(UnmapRangeError::OutOfRange { range });
        }
        if let Some(gpa) = self.cuts(range) {
            return Err(UnmapRangeError::CutsLarge { gpa });
        }
        let mut changed = (0, None);
        for (_, room) in self.rooms.range_mut(numbers(range)) {
            let Some(mapping) = room.take() else { continue };
            changed.0 += mapping.size.pages();
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
        if let Some(gpa) = self.cuts(range) {
            return Err(ProtectError::CutsLarge { gpa });
        }
        let mut changed = (0, None);
        for (_, room) in self.rooms.range_mut(numbers(range)) {
            room.watched &= prot.contains(Prot::W);
            let Some(mapping) = &mut room.leaf else { continue };
            let had = mapping.attr.prot();
            if had != prot {
                changed.0 += mapping.size.pages();
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
        let (first, _) = self.room(page_of(gpa))?;
        self.rooms.get_mut(&first)?.leaf.as_mut()
    }

    pub(crate) fn mappings(&self, range: GpaRange) -> Option<Vec<Mapping>> {
        let rooms = || self.rooms_in(range).into_iter();
        self.admits(range).then(|| rooms().filter_map(|first| self.rooms[&first].leaf).collect())
    }

    /// Returns how many of a range's pages are mapped.
    pub(crate) fn mapped(&self, range: GpaRange) -> Option<u64> {
        let pages = numbers(range);
        let part = |leaf: Mapping| {
            let leaf = numbers(leaf.range());
            leaf.end.min(pages.end) - leaf.start.max(pages.start)
        };
        Some(self.mappings(range)?.into_iter().map(part).sum())
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
        if !self.admits_page(gpa) {
            return Err(TranslateError::OutOfRange { gpa });
        }
        let look = |page: u64| {
            let (first, room) = self.room(page)?;
            room.leaf.map(|leaf| (leaf.pfn.get() + (page - first), leaf.attr.prot()))
        };
        let (first, have) = look(page_of(gpa)).ok_or(TranslateError::NotMapped { gpa })?;
        if !have.contains(access) {
            return Err(TranslateError::Denied { gpa, have });
        }
        let continues = |pages: u64| {
            look(page_of(gpa) + pages)
                .is_some_and(|(frame, have)| frame == first + pages && have.contains(access))
        };
        let pages = (1..).find(|&pages| !continues(pages)).expect("runs end");
        let offset = gpa.page_offset();
        // The low half's last page is followed by the hole, so no run goes on over it.
        Ok(HostRun { pfn: pfn(first), offset, len: len.min(pages * PAGE - offset) })
    }
}
