//! Large leaves, planted by hand: every walk stops at them and says their size, nothing cuts them,
//! and nobody follows the guest's data as a table.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "plants leaves, and reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    BASE, Checked, GIB, MIB, PAGE, RWX, SMALL, at, census, dump, every_format, pfn, range,
    table_frame,
};
use slat::{
    Content, Entry, Format, FrameRun, FrameSource, Gpa, HeapFrames, Hint, HostPfn, Level, MapError,
    Mapping, PageSize, PopulateError, Prot, ProtectError, SLOTS, UnmapRangeError, VacateError,
};

/// A table with a large leaf in it, whose frame holds guest data that looks like tables.
struct Planted<F: Format> {
    size: PageSize,
    /// The first address that the leaf maps.
    gpa: u64,
    table: Checked<F>,
    guest: FrameRun,
    data: Vec<Entry>,
}

impl<F: Format> Planted<F> {
    fn new(format: F, size: PageSize) -> Self {
        Self::with(Checked::new(format, 64), size)
    }

    /// Plants the leaf in a table in which nothing is populated yet.
    fn with(table: Checked<F>, size: PageSize) -> Self {
        let format = *table.format();
        // The first frame of the source is the guest's, so that it is aligned to any leaf.
        let guest = FrameRun { first: BASE, count: 8 };
        let mut runs = Vec::new();
        let frames = table.source();
        frames.allocate(8, Hint::new(at(0)), &mut runs).unwrap();
        let (guest, gpa) = match size {
            PageSize::Size2M => (FrameRun { first: runs[0].first, ..guest }, 4 * MIB),
            _ => (FrameRun { first: runs[0].first, ..guest }, 4 * GIB),
        };
        // Neighbours on both sides bring the tables above the leaf.
        table.populate_pages(gpa - 2 * PAGE, 2 * PAGE);
        table.populate_pages(gpa + size.bytes(), 2 * PAGE);
        table.map(gpa - PAGE, 0x11);
        table.map(gpa + size.bytes(), 0x22);
        let data = (0..SLOTS)
            .map(|index| match index % 4 {
                0 => format.table(guest.first),
                1 => format.leaf(SMALL, pfn(0x99), RWX).unwrap(),
                2 => Entry::EMPTY,
                _ => Entry::from_raw(0x0123_4567_89ab_cdef),
            })
            .collect::<Vec<_>>();
        let planted = Self { size, gpa, table, guest, data };
        planted.write_guest();
        planted.plant();
        planted
    }

    /// The frame that the leaf maps: aligned, and such that some page of it is the guest's.
    fn frame(&self) -> HostPfn {
        pfn(self.guest.first.get() & !(self.size.pages() - 1))
    }

    fn write_guest(&self) {
        for (index, &entry) in self.data.iter().enumerate() {
            // SAFETY: the frame was allocated in `new` and is no table's.
            let memory = unsafe { self.table.source().table(self.guest.first) };
            // SAFETY: no table owns it; nobody walks it.
            unsafe { memory.plant(index, entry) };
        }
    }

    fn plant(&self) {
        let level = self.size.level();
        let parent = table_frame(&self.table, at(self.gpa), level);
        let index = (self.gpa / self.size.bytes()) as usize % SLOTS;
        let leaf = self.table.format().leaf(self.size, self.frame(), RWX).unwrap();
        // SAFETY: read from the live tree, which stays.
        let parent = unsafe { self.table.source().table(parent) };
        assert_eq!(parent.entry(index), Some(Entry::UNPOPULATED));
        // SAFETY: nobody else uses the tree, and the entry is no table's.
        unsafe { parent.plant(index, leaf) };
    }

    fn mapping(&self) -> Mapping {
        Mapping {
            gpa: at(self.gpa),
            pfn: self.frame(),
            size: self.size,
            attr: RWX,
            accessed: false,
            dirty: false,
        }
    }

    /// Unmaps the leaf, so that room for one of its size is left, and its neighbours.
    fn unmap_all(&self) {
        let all = range(self.gpa - 2 * PAGE, self.size.bytes() + 4 * PAGE);
        assert_eq!(self.table.pin().unmap_range(all, drop).unwrap().0, self.size.pages() + 2);
    }

    fn end(&self) -> u64 {
        self.gpa + self.size.bytes()
    }

    fn guest_memory(&self) -> Vec<Entry> {
        // SAFETY: allocated in `new`, given back in `drop`.
        let memory = unsafe { self.table.source().table(self.guest.first) };
        (0..SLOTS).map(|index| memory.entry(index).unwrap()).collect()
    }

    /// Addresses in the leaf: its first and last bytes, and where a walk that went on would look at
    /// each kind of guest data.
    fn inside(&self) -> impl Iterator<Item = Gpa> {
        let (gpa, pages) = (self.gpa, self.size.pages());
        let steps = [0, 1, 2, 3, pages / 2, pages - 512, pages - 2, pages - 1];
        steps.into_iter().map(move |page| at(gpa + page * PAGE + 0x123))
    }
}

impl<F: Format> Drop for Planted<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.guest_memory(), self.data, "the guest's data is as it was");
        // SAFETY: allocated in `new`; nobody reads it any more.
        unsafe { self.table.source().free(self.guest, Content::Unknown) };
    }
}

every_format! {
    /// L9.
    fn every_look_stops_at_a_large_leaf_and_says_its_size(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size);
            let before = dump(&planted.table);
            let pin = planted.table.pin();
            for gpa in planted.inside() {
                let mapping = pin.lookup(gpa).unwrap();
                assert_eq!(mapping, planted.mapping());
                let page = (gpa.get() - planted.gpa) / PAGE;
                assert_eq!(mapping.frame_of(gpa), mapping.pfn.checked_add(page));
                let walk = pin.walk(gpa, Level::L1);
                assert_eq!(walk.last().unwrap().level, size.level());
                let slot = pin.slot(gpa).unwrap();
                assert_eq!(slot.mapping(), Some(mapping));
                pin.lookup_many([gpa], |_, found| assert_eq!(found, Some(mapping)));
                let rest = planted.end() - gpa.get();
                let run = pin.translate(gpa, rest, Prot::RW).unwrap();
                assert_eq!((run.pfn, run.offset), (mapping.frame_of(gpa).unwrap(), 0x123));
                assert_eq!(run.len, rest);
                assert_eq!(pin.translate(gpa, 100, Prot::R).unwrap().len, 100);
            }
            let leaf = planted.mapping().range();
            let all = range(planted.gpa - 2 * PAGE, size.bytes() + 4 * PAGE);
            assert_eq!(pin.mapped(leaf).unwrap(), size.pages());
            assert_eq!(pin.mapped(all).unwrap(), size.pages() + 2);
            assert_eq!(pin.mapped(range(planted.gpa + PAGE, 7 * PAGE)).unwrap(), 7);
            assert_eq!(pin.mapped(range(planted.end() - PAGE, 2 * PAGE)).unwrap(), 2);
            assert_eq!(pin.mappings(range(planted.gpa + PAGE, PAGE)).unwrap().collect::<Vec<_>>(), [
                planted.mapping()
            ]);
            let sizes: Vec<_> = pin.mappings(all).unwrap().map(|mapping| mapping.size).collect();
            assert_eq!(sizes, [SMALL, size, SMALL]);
            assert_eq!(dump(&planted.table), before);
        }
    }

    /// L9.
    fn what_would_cut_a_large_leaf_is_refused_before_anything_changes(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size);
            let (gpa, end) = (planted.gpa, planted.end());
            let before = dump(&planted.table);
            let pin = planted.table.pin();
            let cutting = [
                range(gpa, PAGE),
                range(gpa + PAGE, size.bytes() - PAGE),
                range(gpa, size.bytes() - PAGE),
                range(gpa + 5 * PAGE, PAGE),
                range(gpa - 2 * PAGE, 3 * PAGE),
                range(end - PAGE, 3 * PAGE),
                range(gpa - 2 * PAGE, size.bytes()),
            ];
            for range in cutting {
                let mut seen = 0;
                let refused = pin.unmap_range(range, |_| seen += 1).unwrap_err();
                assert_eq!(refused, UnmapRangeError::CutsLarge { gpa: at(gpa) });
                let refused = pin.protect(range, Prot::R).unwrap_err();
                assert_eq!(refused, ProtectError::CutsLarge { gpa: at(gpa) });
                assert_eq!((seen, &dump(&planted.table)), (0, &before));
            }
            let occupied = MapError::Occupied(planted.mapping());
            for gpa in planted.inside() {
                assert_eq!(pin.map(gpa, pfn(1), SMALL, RWX), Err(occupied));
                assert_eq!(pin.slot(gpa).unwrap().map(pfn(1), SMALL, RWX), Err(occupied));
                let page = range(gpa.page_base().get(), PAGE);
                let refused = pin.map_range(page, pfn(1), RWX).unwrap_err();
                let done = slat::MappedRange::default();
                assert_eq!(refused, slat::MapRangeError::Page { done, source: occupied });
                let overlap = Err(PopulateError::Overlap { gpa: gpa.page_base() });
                assert_eq!(planted.table.populate(page, SMALL), overlap);
                assert_eq!(planted.table.populate_mapped(page, SMALL, pfn(1), RWX), overlap);
            }
            let same = pin.map(at(gpa), planted.frame(), size, RWX);
            assert_eq!(same, Ok(slat::Mapped::Same));
            assert_eq!(dump(&planted.table), before);
        }
    }

    /// L9.
    fn a_large_leaf_is_protected_and_unmapped_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size);
            let pin = planted.table.pin();
            let leaf = planted.mapping().range();
            let (pages, flush) = pin.protect(leaf, Prot::R).unwrap();
            assert_eq!((pages, flush.range()), (size.pages(), Some(leaf)));
            let attr = RWX.with_prot(Prot::R);
            assert_eq!(pin.lookup(at(planted.gpa)), Some(Mapping { attr, ..planted.mapping() }));
            let slot = pin.slot(at(planted.gpa + 3 * PAGE)).unwrap();
            assert!(!slot.set_dirty() && !slot.set_accessed());
            let whole = Mapping { attr, accessed: true, dirty: true, ..planted.mapping() };
            for gpa in planted.inside() {
                let (mapping, flush) = pin.unmap(gpa).unwrap();
                assert_eq!((mapping, flush.range()), (whole, Some(leaf)));
                for gone in planted.inside() {
                    assert_eq!(pin.lookup(gone), None);
                }
                // What it leaves is EMPTY of its own size: a leaf of that size fits there again.
                let wrong = MapError::WrongSize { gpa, granule: size };
                assert_eq!(pin.map(gpa, pfn(1), SMALL, RWX), Err(wrong));
                let mapped = pin.map(gpa, planted.frame(), size, attr);
                assert_eq!(mapped, Ok(slat::Mapped::New));
                assert!(!slot.set_accessed() && !slot.set_dirty());
            }
            let all = range(planted.gpa - 2 * PAGE, size.bytes() + 4 * PAGE);
            let mut seen = Vec::new();
            let (pages, flush) = pin.unmap_range(all, |mapping| seen.push(mapping)).unwrap();
            assert_eq!(pages, size.pages() + 2);
            assert_eq!(flush.range(), Some(range(planted.gpa - PAGE, size.bytes() + 2 * PAGE)));
            assert_eq!(seen.iter().map(|mapping| mapping.size).collect::<Vec<_>>(), [
                SMALL, size, SMALL
            ]);
            assert_eq!(seen[1], whole);
            assert_eq!(pin.mapped(all).unwrap(), 0);
        }
    }

    /// S6, L9.
    fn vacate_stops_at_a_large_leaf_and_names_its_first_page_in_the_range(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size);
            let Planted { gpa, ref table, .. } = planted;
            let _ = table.pin().unmap(at(gpa - PAGE)).unwrap();
            // All of it, its first and last pages, with neighbours, and over both its ends.
            for (start, end, named) in [
                (gpa, planted.end(), gpa),
                (gpa, gpa + PAGE, gpa),
                (planted.end() - PAGE, planted.end(), planted.end() - PAGE),
                (gpa + PAGE, planted.end() + 2 * PAGE, gpa + PAGE),
                (gpa - 2 * PAGE, gpa + PAGE, gpa),
                (gpa - PAGE, planted.end() + PAGE, gpa),
            ] {
                let why = VacateError::StillMapped { gpa: at(named) };
                table.refuses_to_vacate(range(start, end - start), why);
            }
            assert_eq!(table.pin().lookup(at(gpa)), Some(planted.mapping()));
        }
    }

    fn vacate_does_not_cut_the_room_for_a_large_leaf(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let planted = Planted::new(format, size);
            planted.unmap_all();
            let Planted { gpa, ref table, .. } = planted;
            let why = VacateError::CutsLarge { gpa: at(gpa), granule: size };
            for (start, end) in [
                (gpa, gpa + PAGE),
                (gpa + PAGE, planted.end()),
                (gpa - 2 * PAGE, planted.end() - PAGE),
                (gpa + 7 * PAGE, planted.end() + 2 * PAGE),
                (gpa + PAGE, gpa + 2 * PAGE),
            ] {
                table.refuses_to_vacate(range(start, end - start), why);
            }
            // It is still there for a leaf of that size.
            let mapped = table.pin().map(at(gpa), planted.frame(), size, RWX);
            assert_eq!(mapped, Ok(slat::Mapped::New));
        }
    }

    fn vacate_gives_up_the_room_for_a_large_leaf_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            // With the small pages on both sides in one call, and alone.
            for beside in [0, 2 * PAGE] {
                let planted = Planted::new(format, size);
                planted.unmap_all();
                let Planted { gpa, ref table, .. } = planted;
                table.vacate_pages(gpa - beside, size.bytes() + 2 * beside);
                let none = MapError::NotPopulated { gpa: at(gpa) };
                assert_eq!(table.pin().map(at(gpa), planted.frame(), size, RWX), Err(none));
                assert_eq!(census(table).empty, if beside == 0 { 4 } else { 0 });
                // Small pages fit there now.
                table.populate_pages(gpa + PAGE, PAGE);
                table.map(gpa + PAGE, 6);
            }
        }
    }

    fn room_for_a_large_leaf_goes_with_the_table_that_it_is_in(format: impl Format) {
        let planted = Planted::with(Checked::new(format, 600), PageSize::Size2M);
        let Planted { gpa, ref table, .. } = planted;
        table.populate_pages(0, gpa - 2 * PAGE);
        table.populate_pages(planted.end() + 2 * PAGE, GIB - planted.end() - 2 * PAGE);
        let why = |gpa| VacateError::StillMapped { gpa: at(gpa) };
        table.refuses_to_vacate(range(0, GIB), why(gpa - PAGE));
        let _ = table.pin().unmap(at(gpa - PAGE)).unwrap();
        table.refuses_to_vacate(range(0, GIB), why(gpa));
        let _ = table.pin().unmap(at(gpa + 5 * PAGE)).unwrap();
        table.refuses_to_vacate(range(0, GIB), why(planted.end()));
        let _ = table.pin().unmap(at(planted.end())).unwrap();
        table.vacate_pages(0, GIB);
        assert_eq!(census(table).tables, 1);
    }

    /// L9.
    fn batches_take_a_large_leaf_once(format: impl Format) {
        let planted = Planted::new(format, PageSize::Size2M);
        let pin = planted.table.pin();
        let mut results = Vec::new();
        let flush = pin.unmap_many(planted.inside(), |_, result| results.push(result));
        assert_eq!(results[0], Ok(planted.mapping()));
        assert!(results[1..].iter().all(Result::is_err));
        assert_eq!(flush.range(), Some(planted.mapping().range()));
    }
}

/// A leaf of a page in the last gibibyte of the space: its end is the end of the space.
#[test]
fn a_large_leaf_at_the_very_end_of_the_space_is_counted_and_unmapped() {
    for levels in [slat::Levels::Four, slat::Levels::Five] {
        let format = common::long_mode(levels);
        let table = Checked::with(format, HeapFrames::with_base(BASE, 16).unwrap());
        let last = u64::MAX - (2 * MIB - 1);
        let neighbour = slat::GpaRange::from_pages(at(last - PAGE), 1).unwrap();
        table.populate(neighbour, SMALL).unwrap();
        let parent = table_frame(&table, at(last), Level::L2);
        let leaf = format.leaf(PageSize::Size2M, pfn(512), RWX).unwrap();
        // SAFETY: read from the live tree, which stays.
        let parent = unsafe { table.source().table(parent) };
        // SAFETY: nobody else uses the tree, and the entry is no table's.
        unsafe { parent.plant(511, leaf) };
        let pin = table.pin();
        let whole = slat::GpaRange::from_pages(at(last), 512).unwrap();
        assert_eq!(pin.mapped(whole).unwrap(), 512);
        let run = pin.translate(at(u64::MAX - 9), u64::MAX, Prot::R).unwrap();
        assert_eq!((run.pfn, run.offset, run.len), (pfn(1023), 4086, 10));
        let (mapping, flush) = pin.unmap(at(u64::MAX)).unwrap();
        assert_eq!((mapping.gpa, flush.range()), (at(last), Some(whole)));
    }
}
