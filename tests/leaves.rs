//! Leaves of 4 KiB: what map, unmap, protect and a kept slot do and refuse.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    Checked, GIB, MIB, PAGE, RWX, SMALL, Space, at, dump, every_format, frame_at, pfn, range,
};
use slat::{
    Attr, AttrError, BadMemType, EncodeError, Ept, EptCaps, Format, Fresh, LeafFlags, Levels,
    LongMode, MapError, Mapped, Mapping, MemType, Npt, PageSize, PageTable, PhysWidth, Prot,
    SoftBits, UnmapError,
};

every_format! {
    /// L1.
    fn map_on_a_page_without_memory_is_refused(format: impl Format) {
        let table = Checked::new(format, 8);
        let space = Space::of(&format);
        let refused = |gpa| table.pin().map(at(gpa), pfn(1), SMALL, RWX);
        let none = |gpa| Err(MapError::NotPopulated { gpa: at(gpa) });
        for gpa in [0, 0xfff, GIB, space.last_page()] {
            assert_eq!(refused(gpa), none(gpa), "nothing is populated");
        }
        table.populate_pages(PAGE, PAGE);
        for gpa in [0, 2 * PAGE, 2 * MIB, GIB, 512 * GIB, space.last_page()] {
            assert_eq!(refused(gpa), none(gpa), "a neighbour is populated");
        }
        assert_eq!(refused(PAGE + 0xabc), Ok(Mapped::New));
        assert_eq!(frame_at(&table.pin(), PAGE), Some(1));
    }

    /// L2.
    fn map_over_a_mapping_tells_what_is_there(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 2 * PAGE);
        let pin = table.pin();
        let attr = RWX.with_soft(SoftBits::S0);
        assert_eq!(pin.map(at(0), pfn(9), SMALL, attr), Ok(Mapped::New));
        assert_eq!(pin.map(at(0), pfn(9), SMALL, attr), Ok(Mapped::Same));
        // Accessed and dirty are not compared.
        let slot = pin.slot(at(0)).unwrap();
        slot.set_accessed();
        slot.set_dirty();
        assert_eq!(pin.map(at(7), pfn(9), SMALL, attr), Ok(Mapped::Same));
        let old = Mapping {
            gpa: at(0), pfn: pfn(9), size: SMALL, attr, accessed: true, dirty: true,
        };
        let before = dump(&table);
        let others = [
            (8, attr),
            (9, attr.with_prot(Prot::R)),
            (9, attr.with_prot(Prot::RX)),
            (9, attr.with_soft(SoftBits::S1)),
            (9, attr.with_soft(SoftBits::empty())),
            (9, attr.with_mem_type(MemType::UC)),
        ];
        for (frame, attr) in others {
            let occupied = Err(MapError::Occupied(old));
            assert_eq!(pin.map(at(0), pfn(frame), SMALL, attr), occupied);
            assert_eq!(slot.map(pfn(frame), SMALL, attr), occupied);
        }
        // The walk ends at a leaf of 4 KiB, so that is what is in the way of a large one.
        let large = pin.map(at(0), pfn(512), PageSize::Size2M, attr);
        assert_eq!(large, Err(MapError::Occupied(old)));
        assert_eq!(dump(&table), before);
    }

    fn a_leaf_of_another_size_than_was_populated_for_is_refused(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 2 * MIB);
        let before = dump(&table);
        for size in [PageSize::Size2M, PageSize::Size1G] {
            let wrong = MapError::WrongSize { gpa: at(PAGE), granule: SMALL };
            let pin = table.pin();
            assert_eq!(pin.map(at(PAGE), pfn(1 << 18), size, RWX), Err(wrong));
            let misaligned = EncodeError::Misaligned { pfn: pfn(1), size };
            assert_eq!(pin.map(at(PAGE), pfn(1), size, RWX), Err(misaligned.into()));
        }
        assert_eq!(dump(&table), before);
    }

    /// L6.
    fn accessed_and_dirty_of_what_is_not_mapped_stay_clear(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(PAGE, PAGE);
        let before = dump(&table);
        // Empty, unpopulated in a leaf table, unpopulated at each level above.
        for gpa in [PAGE, 0, 2 * MIB, GIB, 512 * GIB] {
            let pin = table.pin();
            let slot = pin.slot(at(gpa)).unwrap();
            assert!(!slot.set_accessed() && !slot.set_dirty());
            assert!(!slot.accessed() && !slot.dirty());
            assert!(!slot.clear_accessed() && !slot.clear_dirty());
            assert_eq!(slot.mapping(), None);
        }
        assert_eq!(dump(&table), before);
        table.map(PAGE, 3);
        let mapping = table.pin().lookup(at(PAGE)).unwrap();
        assert!(!mapping.accessed && !mapping.dirty);
    }

    /// L7.
    fn accessed_and_dirty_change_apart_and_report_the_old_bit(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        table.map(0, 3);
        let pin = table.pin();
        let slot = pin.slot(at(0x123)).unwrap();
        assert_eq!(slot.gpa(), at(0x123));
        let bits = || (slot.accessed(), slot.dirty());
        assert_eq!(bits(), (false, false));
        assert!(!slot.set_dirty());
        assert_eq!(bits(), (false, true));
        assert!(slot.set_dirty() && !slot.clear_accessed());
        assert_eq!(bits(), (false, true));
        assert!(!slot.set_accessed());
        assert_eq!(bits(), (true, true));
        assert!(slot.set_accessed() && slot.clear_accessed() && !slot.clear_accessed());
        assert_eq!(bits(), (false, true));
        slot.set_accessed();
        assert!(slot.clear_dirty() && !slot.clear_dirty());
        assert_eq!(bits(), (true, false));
        let (unmapped, _) = pin.unmap(at(0)).unwrap();
        assert!(unmapped.accessed && !unmapped.dirty);
    }

    /// L8.
    fn a_slot_kept_while_tables_grow_above_it_follows_them(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(8 * PAGE, PAGE);
        let reader = table.reader();
        let pin = reader.pin();
        // The walk ends in the root, in an L3, in an L2, and in an L1 table.
        let pages = [512 * GIB + PAGE, GIB, 2 * MIB, 0];
        let slots = pages.map(|gpa| pin.slot(at(gpa)).unwrap());
        for (slot, gpa) in slots.iter().zip(pages) {
            let refused = slot.map(pfn(1), SMALL, RWX);
            assert_eq!(refused, Err(MapError::NotPopulated { gpa: at(gpa) }));
            table.populate_pages(gpa, PAGE);
            assert_eq!(slot.mapping(), None);
            assert_eq!(slot.map(pfn(gpa >> 20 | 1), SMALL, RWX), Ok(Mapped::New));
            assert_eq!(slot.mapping(), pin.lookup(at(gpa)));
            assert!(!slot.set_dirty() && slot.dirty());
            assert_eq!(pin.slot(at(gpa)).unwrap().mapping(), slot.mapping());
        }
        let reached = |gpa: u64| frame_at(&pin, gpa);
        assert_eq!(pages.map(reached), pages.map(|gpa| Some(gpa >> 20 | 1)));
        assert_eq!(reached(PAGE), None, "no page appeared elsewhere");
        let _ = pin.unmap(at(GIB)).unwrap();
        assert!(!slots[1].clear_dirty());
        assert_eq!(slots[1].map(pfn(77), SMALL, RWX), Ok(Mapped::New));
        assert_eq!(reached(GIB), Some(77));
    }

    /// L10.
    fn what_cannot_be_encoded_is_a_typed_error_and_changes_nothing(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 4 * PAGE);
        table.map(PAGE, 1);
        let before = dump(&table);
        let width = table.format().phys_width().bits();
        let beyond = 1 << (width - 12);
        let mut cases: Vec<(u64, Attr, EncodeError)> = bad_attrs(&format)
            .into_iter()
            .map(|(attr, error)| (2, attr, EncodeError::BadAttr(error)))
            .collect();
        for frame in [beyond, beyond | 2, beyond << 1, 1 << 52, u64::MAX] {
            cases.push((frame, RWX, EncodeError::BadFrame { pfn: pfn(frame), width }));
        }
        let pin = table.pin();
        for (frame, attr, error) in cases {
            let unencodable = Err(MapError::Unencodable(error));
            for gpa in [0, PAGE, GIB] {
                assert_eq!(pin.map(at(gpa), pfn(frame), SMALL, attr), unencodable);
                assert_eq!(pin.slot(at(gpa)).unwrap().map(pfn(frame), SMALL, attr), unencodable);
                pin.map_many([(at(gpa), pfn(frame))], attr, |_, got| assert_eq!(got, unencodable));
            }
            let pages = pin.map_range(range(0, PAGE), pfn(frame), attr).unwrap_err();
            let source = MapError::Unencodable(error);
            assert_eq!(pages, slat::MapRangeError::Page { done: Default::default(), source });
            let populated = table.populate_mapped(range(GIB, PAGE), SMALL, pfn(frame), attr);
            assert_eq!(populated, Err(slat::PopulateError::Unencodable(error)));
            if let EncodeError::BadAttr(error @ (AttrError::NoAccess
                | AttrError::Unreadable(_)
                | AttrError::ExecuteOnly(_)
                | AttrError::UserExecute(_))) = error
            {
                let refused = pin.protect(range(0, 4 * PAGE), attr.prot()).unwrap_err();
                assert_eq!(refused, slat::ProtectError::BadProt(error));
            }
        }
        assert_eq!(dump(&table), before);
        assert_eq!(pin.map(at(0), pfn(beyond - 1), SMALL, RWX), Ok(Mapped::New));
        assert_eq!(frame_at(&pin, 0), Some(beyond - 1));
    }

    /// L11.
    fn a_fresh_leaf_is_neither_accessed_nor_dirty_by_default(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 3 * PAGE);
        let pin = table.pin();
        pin.map(at(0), pfn(1), SMALL, RWX).unwrap();
        pin.map_range(range(PAGE, PAGE), pfn(2), RWX).unwrap();
        pin.map_many([(at(2 * PAGE), pfn(3))], RWX, |_, mapped| assert!(mapped.is_ok()));
        table.populate_mapped(range(3 * PAGE, 2 * MIB), SMALL, pfn(4), RWX).unwrap();
        let all = range(0, 2 * MIB + 3 * PAGE);
        assert_eq!(pin.mapped(all).unwrap(), 515);
        assert!(pin.mappings(all).unwrap().all(|mapping| !mapping.accessed && !mapping.dirty));
        for (_, _, _, _, entry) in dump(&table) {
            assert!(!format.is_present(entry) || !entry.has(format.accessed_bit()));
        }
    }

    /// L12.
    fn protect_changes_rights_and_nothing_else(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 4 * MIB);
        let attr = Attr::new(Prot::RW).with_mem_type(MemType::UC).with_soft(SoftBits::S1);
        let pin = table.pin();
        for page in [1, 2, 511, 512] {
            pin.map(at(page * PAGE), pfn(page), SMALL, attr).unwrap();
        }
        pin.slot(at(PAGE)).unwrap().set_dirty();
        pin.slot(at(512 * PAGE)).unwrap().set_accessed();
        let before: Vec<_> = pin.mappings(range(0, 4 * MIB)).unwrap().collect();
        let protect = |first: u64, pages: u64, prot| {
            let (count, flush) = pin.protect(range(first * PAGE, pages * PAGE), prot).unwrap();
            (count, flush.range())
        };
        assert_eq!(protect(2, 1022, Prot::R), (3, Some(range(2 * PAGE, 511 * PAGE))));
        assert_eq!(protect(2, 1022, Prot::R), (0, None), "again, it changes nothing");
        // More rights: nothing to flush.
        assert_eq!(protect(0, 1024, Prot::RW), (3, None));
        assert!(pin.mappings(range(0, 4 * MIB)).unwrap().eq(before.iter().copied()));
        // Other rights, neither more nor less.
        assert_eq!(protect(511, 1, Prot::RX), (1, Some(range(511 * PAGE, PAGE))));
        let changed = pin.lookup(at(511 * PAGE)).unwrap();
        assert_eq!(changed, Mapping { attr: attr.with_prot(Prot::RX), ..before[2] });
        assert_eq!(protect(600, 100, Prot::R), (0, None), "nothing is mapped");
        assert_eq!(protect(1 << 30, 1 << 20, Prot::R), (0, None), "nothing is populated");
    }

    fn unmap_returns_what_was_there_once(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, 2 * PAGE);
        table.map(PAGE, 5);
        let pin = table.pin();
        for gpa in [0, GIB, 2 * PAGE] {
            let none = UnmapError::NotMapped { gpa: at(gpa) };
            assert_eq!(pin.unmap(at(gpa)).unwrap_err(), none);
        }
        let there = pin.lookup(at(PAGE)).unwrap();
        let (mapping, flush) = pin.unmap(at(PAGE + 5)).unwrap();
        assert_eq!((mapping, flush.range()), (there, Some(range(PAGE, PAGE))));
        assert_eq!(pin.unmap(at(PAGE)).unwrap_err(), UnmapError::NotMapped { gpa: at(PAGE) });
        table.map(PAGE, 6);
    }
}

/// Attributes that a format cannot encode, and why.
fn bad_attrs(format: &impl Format) -> Vec<(Attr, AttrError)> {
    let prot = |prot| Attr::new(prot);
    let mut bad = vec![
        (prot(Prot::empty()), AttrError::NoAccess),
        (prot(Prot::W), AttrError::Unreadable(Prot::W)),
        (prot(Prot::W | Prot::X), AttrError::Unreadable(Prot::W | Prot::X)),
    ];
    let user = Prot::R | Prot::XU;
    if format.name() == "ept" {
        bad.push((RWX.with_flags(LeafFlags::USER), AttrError::Flags(LeafFlags::USER)));
        bad.push((
            RWX.with_flags(LeafFlags::GLOBAL | LeafFlags::IGNORE_PAT),
            AttrError::Flags(LeafFlags::GLOBAL),
        ));
        if format.levels() == Levels::Four {
            bad.push((prot(user), AttrError::UserExecute(user)));
        }
    } else {
        bad.push((prot(user), AttrError::UserExecute(user)));
        bad.push((prot(Prot::X), AttrError::Unreadable(Prot::X)));
        for mem_type in [MemType::WC, MemType::WP] {
            bad.push((RWX.with_mem_type(mem_type), AttrError::MemType(mem_type)));
        }
        let flag = LeafFlags::IGNORE_PAT;
        bad.push((RWX.with_flags(flag), AttrError::Flags(flag)));
    }
    if format.name() == "npt" {
        bad.push((RWX.with_flags(LeafFlags::USER), AttrError::Flags(LeafFlags::USER)));
    }
    bad
}

/// L10.
#[test]
fn execute_only_needs_a_processor_that_has_it() {
    let attr = Attr::new(Prot::X);
    for caps in [EptCaps::USUAL, EptCaps::USUAL - EptCaps::EXECUTE_ONLY] {
        let table = Checked::new(Ept::new(Levels::Four, PhysWidth::MAX, caps), 8);
        table.populate_pages(0, PAGE);
        let mapped = table.pin().map(at(0), pfn(1), SMALL, attr);
        if caps.contains(EptCaps::EXECUTE_ONLY) {
            assert_eq!(mapped, Ok(Mapped::New));
            assert_eq!(table.pin().lookup(at(0)).unwrap().attr.prot(), Prot::X);
        } else {
            let refused = EncodeError::BadAttr(AttrError::ExecuteOnly(Prot::X));
            assert_eq!(mapped, Err(refused.into()));
            assert_eq!(table.pin().lookup(at(0)), None);
        }
    }
}

/// L10.
#[test]
fn an_encoding_of_no_memory_type_is_none() {
    for raw in 0..=u8::MAX {
        let known = MemType::ALL.into_iter().find(|&mem_type| mem_type as u8 == raw);
        assert_eq!(MemType::try_from(raw), known.ok_or(BadMemType(raw)));
        assert!(known.is_none() || ![2, 3, 7].contains(&raw));
    }
}

/// L10.
#[test]
fn a_size_that_the_processor_lacks_is_refused() {
    fn refused(format: impl Format, size: PageSize) {
        let table = PageTable::new(format, slat::HeapFrames::new(8)).unwrap();
        let bad = EncodeError::BadSize(size);
        assert_eq!(table.pin().map(at(0), pfn(0), size, RWX), Err(bad.into()));
    }
    let width = PhysWidth::MAX;
    let small_only = Ept::new(Levels::Four, width, EptCaps::ACCESSED_DIRTY);
    refused(small_only, PageSize::Size2M);
    refused(small_only, PageSize::Size1G);
    refused(Npt::new(Levels::Four, width).without_1g_pages(), PageSize::Size1G);
    refused(LongMode::new(Levels::Four, width).without_1g_pages(), PageSize::Size1G);
}

/// L11.
#[test]
fn a_fresh_leaf_is_accessed_where_the_format_value_says_so() {
    fn accessed(format: impl Format) {
        let table = Checked::new(format, 8);
        table.populate_pages(0, PAGE);
        table.populate_mapped(range(PAGE, PAGE), SMALL, pfn(2), RWX).unwrap();
        table.map(0, 1);
        for mapping in table.pin().mappings(range(0, 2 * PAGE)).unwrap() {
            assert!(mapping.accessed && !mapping.dirty);
        }
        let pin = table.pin();
        pin.slot(at(0)).unwrap().clear_accessed();
        assert_eq!(pin.map(at(0), pfn(1), SMALL, RWX), Ok(Mapped::Same));
        assert!(!pin.lookup(at(0)).unwrap().accessed, "Same changes nothing");
    }
    for levels in [Levels::Four, Levels::Five] {
        accessed(common::ept(levels).with_fresh(Fresh::Accessed));
        accessed(common::npt(levels).with_fresh(Fresh::Accessed));
        accessed(common::long_mode(levels).with_fresh(Fresh::Accessed));
        accessed(common::any(common::npt(levels).with_fresh(Fresh::Accessed)));
    }
}
