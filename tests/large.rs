//! Large leaves whose memory looks like tables: every walk stops at them and says their size, nothing cuts
//! them, and nobody follows the guest's data as a table.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "writes guest memory, and reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    BASE, Checked, GIB, MIB, PAGE, RWX, SMALL, at, census, dump, every_format, long_mode, npt, pfn,
    range,
};
use slat::{
    Content, Entry, Format, FrameRun, FrameSource, Gpa, Hint, HostPfn, Level, Levels, MapError,
    Mapping, MemType, PageSize, Pat, PopulateError, Prot, ProtectError, SLOTS, UnmapRangeError,
    VacateError,
};

/// A table with a large leaf in it, whose frame holds guest data that looks like tables.
struct Guest<F: Format> {
    size: PageSize,
    /// The first address that the leaf maps.
    gpa: u64,
    table: Checked<F>,
    memory: FrameRun,
    data: Vec<Entry>,
}

impl<F: Format> Guest<F> {
    fn new(format: F, size: PageSize) -> Self {
        Self::with(Checked::new(format, 64), size)
    }

    /// Maps the leaf in a table in which nothing is populated yet.
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
        let guest = Self { size, gpa, table, memory: guest, data };
        guest.write_guest();
        guest.map();
        guest
    }

    /// The frame that the leaf maps: aligned, and such that some page of it is the guest's.
    fn frame(&self) -> HostPfn {
        pfn(self.memory.first.get() & !(self.size.pages() - 1))
    }

    fn write_guest(&self) {
        for (index, &entry) in self.data.iter().enumerate() {
            // SAFETY: the frame was allocated in `new` and is no table's.
            let memory = unsafe { self.table.source().table(self.memory.first) };
            // SAFETY: no table owns it; nobody walks it.
            unsafe { memory.plant(index, entry) };
        }
    }

    fn map(&self) {
        self.table.populate(range(self.gpa, self.size.bytes()), self.size).unwrap();
        let mapped = self.table.pin().map(at(self.gpa), self.frame(), self.size, RWX);
        assert_eq!(mapped, Ok(slat::Mapped::New));
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
        let memory = unsafe { self.table.source().table(self.memory.first) };
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

impl<F: Format> Drop for Guest<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.guest_memory(), self.data, "the guest's data is as it was");
        // SAFETY: allocated in `new`; nobody reads it any more.
        unsafe { self.table.source().free(self.memory, Content::Unknown) };
    }
}

every_format! {
    /// L9.
    fn every_look_stops_at_a_large_leaf_and_says_its_size(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let guest = Guest::new(format, size);
            let before = dump(&guest.table);
            let pin = guest.table.pin();
            for gpa in guest.inside() {
                let mapping = pin.lookup(gpa).unwrap();
                assert_eq!(mapping, guest.mapping());
                let page = (gpa.get() - guest.gpa) / PAGE;
                assert_eq!(mapping.frame_of(gpa), mapping.pfn.checked_add(page));
                let walk = pin.walk(gpa, Level::L1);
                assert_eq!(walk.last().unwrap().level, size.level());
                let slot = pin.slot(gpa).unwrap();
                assert_eq!(slot.mapping(), Some(mapping));
                pin.lookup_many([gpa], |_, found| assert_eq!(found, Some(mapping)));
                let rest = guest.end() - gpa.get();
                let run = pin.translate(gpa, rest, Prot::RW).unwrap();
                assert_eq!((run.pfn, run.offset), (mapping.frame_of(gpa).unwrap(), 0x123));
                assert_eq!(run.len, rest);
                assert_eq!(pin.translate(gpa, 100, Prot::R).unwrap().len, 100);
            }
            let leaf = guest.mapping().range();
            let all = range(guest.gpa - 2 * PAGE, size.bytes() + 4 * PAGE);
            assert_eq!(pin.mapped(leaf).unwrap(), size.pages());
            assert_eq!(pin.mapped(all).unwrap(), size.pages() + 2);
            assert_eq!(pin.mapped(range(guest.gpa + PAGE, 7 * PAGE)).unwrap(), 7);
            assert_eq!(pin.mapped(range(guest.end() - PAGE, 2 * PAGE)).unwrap(), 2);
            assert_eq!(pin.mappings(range(guest.gpa + PAGE, PAGE)).unwrap().collect::<Vec<_>>(), [
                guest.mapping()
            ]);
            let sizes: Vec<_> = pin.mappings(all).unwrap().map(|mapping| mapping.size).collect();
            assert_eq!(sizes, [SMALL, size, SMALL]);
            assert_eq!(dump(&guest.table), before);
        }
    }

    /// L9.
    fn what_would_cut_a_large_leaf_is_refused_before_anything_changes(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let guest = Guest::new(format, size);
            let (gpa, end) = (guest.gpa, guest.end());
            let before = dump(&guest.table);
            let pin = guest.table.pin();
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
                assert_eq!((seen, &dump(&guest.table)), (0, &before));
            }
            let occupied = MapError::Occupied(guest.mapping());
            for gpa in guest.inside() {
                assert_eq!(pin.map(gpa, pfn(1), SMALL, RWX), Err(occupied));
                assert_eq!(pin.slot(gpa).unwrap().map(pfn(1), SMALL, RWX), Err(occupied));
                let page = range(gpa.page_base().get(), PAGE);
                let refused = pin.map_range(page, pfn(1), RWX).unwrap_err();
                let done = slat::MappedRange::default();
                assert_eq!(refused, slat::MapRangeError::Page { done, source: occupied });
                let overlap = Err(PopulateError::Overlap { gpa: gpa.page_base() });
                assert_eq!(guest.table.populate(page, SMALL), overlap);
                assert_eq!(guest.table.populate_mapped(page, SMALL, pfn(1), RWX), overlap);
            }
            let same = pin.map(at(gpa), guest.frame(), size, RWX);
            assert_eq!(same, Ok(slat::Mapped::Same));
            assert_eq!(dump(&guest.table), before);
        }
    }

    /// L9.
    fn a_large_leaf_is_protected_and_unmapped_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let guest = Guest::new(format, size);
            let pin = guest.table.pin();
            let leaf = guest.mapping().range();
            let (pages, flush) = pin.protect(leaf, Prot::R).unwrap();
            assert_eq!((pages, flush.range()), (size.pages(), Some(leaf)));
            let attr = RWX.with_prot(Prot::R);
            assert_eq!(pin.lookup(at(guest.gpa)), Some(Mapping { attr, ..guest.mapping() }));
            let slot = pin.slot(at(guest.gpa + 3 * PAGE)).unwrap();
            assert!(!slot.set_dirty() && !slot.set_accessed());
            let whole = Mapping { attr, accessed: true, dirty: true, ..guest.mapping() };
            for gpa in guest.inside() {
                let (mapping, flush) = pin.unmap(gpa).unwrap();
                assert_eq!((mapping, flush.range()), (whole, Some(leaf)));
                for gone in guest.inside() {
                    assert_eq!(pin.lookup(gone), None);
                }
                // What it leaves is EMPTY of its own size: a leaf of that size fits there again.
                let wrong = MapError::WrongSize { gpa, granule: size };
                assert_eq!(pin.map(gpa, pfn(1), SMALL, RWX), Err(wrong));
                let mapped = pin.map(gpa, guest.frame(), size, attr);
                assert_eq!(mapped, Ok(slat::Mapped::New));
                assert!(!slot.set_accessed() && !slot.set_dirty());
            }
            let all = range(guest.gpa - 2 * PAGE, size.bytes() + 4 * PAGE);
            let mut seen = Vec::new();
            let (pages, flush) = pin.unmap_range(all, |mapping| seen.push(mapping)).unwrap();
            assert_eq!(pages, size.pages() + 2);
            assert_eq!(flush.range(), Some(range(guest.gpa - PAGE, size.bytes() + 2 * PAGE)));
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
            let guest = Guest::new(format, size);
            let Guest { gpa, ref table, .. } = guest;
            let _ = table.pin().unmap(at(gpa - PAGE)).unwrap();
            // All of it, its first and last pages, with neighbours, and over both its ends.
            for (start, end, named) in [
                (gpa, guest.end(), gpa),
                (gpa, gpa + PAGE, gpa),
                (guest.end() - PAGE, guest.end(), guest.end() - PAGE),
                (gpa + PAGE, guest.end() + 2 * PAGE, gpa + PAGE),
                (gpa - 2 * PAGE, gpa + PAGE, gpa),
                (gpa - PAGE, guest.end() + PAGE, gpa),
            ] {
                let why = VacateError::StillMapped { gpa: at(named) };
                table.refuses_to_vacate(range(start, end - start), why);
            }
            assert_eq!(table.pin().lookup(at(gpa)), Some(guest.mapping()));
        }
    }

    fn vacate_gives_up_the_room_for_a_large_leaf_whole(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            // With the small pages on both sides in one call, and alone.
            for beside in [0, 2 * PAGE] {
                let guest = Guest::new(format, size);
                guest.unmap_all();
                let Guest { gpa, ref table, .. } = guest;
                table.vacate_pages(gpa - beside, size.bytes() + 2 * beside);
                let none = MapError::NotPopulated { gpa: at(gpa) };
                assert_eq!(table.pin().map(at(gpa), guest.frame(), size, RWX), Err(none));
                assert_eq!(census(table).empty, if beside == 0 { 4 } else { 0 });
                // Small pages fit there now.
                table.populate_pages(gpa + PAGE, PAGE);
                table.map(gpa + PAGE, 6);
            }
        }
    }

    fn room_for_a_large_leaf_goes_with_the_table_that_it_is_in(format: impl Format) {
        let guest = Guest::with(Checked::new(format, 600), PageSize::Size2M);
        let Guest { gpa, ref table, .. } = guest;
        table.populate_pages(0, gpa - 2 * PAGE);
        table.populate_pages(guest.end() + 2 * PAGE, GIB - guest.end() - 2 * PAGE);
        let why = |gpa| VacateError::StillMapped { gpa: at(gpa) };
        table.refuses_to_vacate(range(0, GIB), why(gpa - PAGE));
        let _ = table.pin().unmap(at(gpa - PAGE)).unwrap();
        table.refuses_to_vacate(range(0, GIB), why(gpa));
        let _ = table.pin().unmap(at(gpa + 5 * PAGE)).unwrap();
        table.refuses_to_vacate(range(0, GIB), why(guest.end()));
        let _ = table.pin().unmap(at(guest.end())).unwrap();
        table.vacate_pages(0, GIB);
        assert_eq!(census(table).tables, 1);
    }
}

/// The PAT bit of a small leaf is where a large one says its size: so their entries may be equal.
#[test]
fn a_small_leaf_is_not_the_same_as_a_large_one_that_looks_like_it() {
    // Entry 4 is WC, and the bit says that it is one of the upper half.
    let pat = Pat::from_msr(0x0007_0401_0007_0406).unwrap();
    look_alikes(npt(Levels::Four).with_pat(pat));
    look_alikes(long_mode(Levels::Four).with_pat(pat));
}

fn look_alikes(format: impl Format) {
    let (gpa, frame) = (4 * MIB, pfn(3 * 512));
    let combining = RWX.with_mem_type(MemType::WC);
    assert_eq!(format.leaf(SMALL, frame, combining), format.leaf(PageSize::Size2M, frame, RWX));
    let table = Checked::new(format, 16);
    table.populate_mapped(range(gpa, 2 * MIB), PageSize::Size2M, frame, RWX).unwrap();
    let mapped = table.pin().map(at(gpa), frame, SMALL, combining);
    assert!(matches!(mapped, Err(MapError::Occupied(leaf)) if leaf.size == PageSize::Size2M));
}
