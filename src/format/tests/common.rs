//! What all formats have in common, and what a choice at run time forwards.

use super::*;

#[test]
fn a_fresh_leaf_is_not_accessed_by_default_in_any_format() {
    let (levels, width) = (Levels::Four, width(40));
    let defaults: [(AnyFormat, u64); 3] = [
        (Ept::new(levels, width, EptCaps::all()).into(), 0x300),
        (Npt::new(levels, width).into(), 0x60),
        (LongMode::new(levels, width).into(), 0x60),
    ];
    for (format, accessed_and_dirty) in defaults {
        for size in PageSize::ALL {
            let leaf = format.leaf(size, HostPfn::new(FRAME), Attr::new(Prot::RWX)).unwrap();
            assert_eq!(leaf.raw() & accessed_and_dirty, 0, "{format:?} {size:?}");
        }
    }
    assert_eq!(Fresh::default(), Fresh::NotAccessed);
}

#[test]
fn accessed_from_the_start_is_a_choice_and_dirty_is_not() {
    let (levels, width) = (Levels::Five, width(40));
    let formats: [AnyFormat; 3] = [
        Ept::new(levels, width, EptCaps::all()).with_fresh(Fresh::Accessed).into(),
        Npt::new(levels, width).with_fresh(Fresh::Accessed).into(),
        LongMode::new(levels, width).with_fresh(Fresh::Accessed).into(),
    ];
    for format in formats {
        for size in PageSize::ALL {
            let leaf = format.leaf(size, HostPfn::new(FRAME), Attr::new(Prot::RW)).unwrap();
            let mapping = format.mapping(Gpa::new(0), size, leaf);
            assert_eq!((mapping.accessed, mapping.dirty), (true, false), "{format:?}");
        }
        assert!(!format.table(HostPfn::new(FRAME)).has(format.accessed_bit()));
    }
}

#[test]
fn names_and_modes_are_what_was_asked_for() {
    for (levels, count) in [(Levels::Four, 4), (Levels::Five, 5)] {
        let width = width(40);
        let ept = Ept::new(levels, width, EptCaps::USUAL);
        let npt = Npt::new(levels, width);
        let long = LongMode::new(levels, width);
        assert_eq!((ept.name(), npt.name(), long.name()), ("ept", "npt", "long-mode"));
        for format in [AnyFormat::from(ept), npt.into(), long.into()] {
            assert_eq!(format.levels().count(), count);
            assert_eq!(format.phys_width(), width);
            assert!(PageSize::ALL.into_iter().all(|size| format.supports(size)));
        }
        assert!(!npt.without_1g_pages().supports(PageSize::Size1G));
        assert!(npt.without_1g_pages().supports(PageSize::Size2M));
        assert!(!long.without_1g_pages().supports(PageSize::Size1G));
        let small = Ept::new(levels, width, EptCaps::empty());
        assert_eq!(PageSize::ALL.map(|size| small.supports(size)), [true, false, false]);
    }
}

#[test]
fn what_is_not_present_is_empty_unpopulated_claimed_broken_or_stray() {
    for format in examples() {
        for level in Level::ALL {
            assert_eq!(format.kind(level, Entry::EMPTY), Kind::Empty);
            assert_eq!(format.kind(level, Entry::UNPOPULATED), Kind::Unpopulated);
            assert!(format.is_well_formed(level, Entry::EMPTY));
            assert!(format.is_well_formed(level, Entry::UNPOPULATED));
            for number in [0, 1, 77, (1 << 40) - 1, 1 << 40] {
                let claimed = Entry::claimed(number);
                assert_eq!(format.kind(level, claimed), Kind::Claimed);
                assert!(format.is_well_formed(level, claimed));
                assert_eq!(claimed.raw(), (1 << 53) | (number % (1 << 40)) << 12);
            }
            for bit in (0..64).filter(|&bit| bit != 52 && bit != 53) {
                for entry in [Entry::from_raw(1 << bit), Entry::UNPOPULATED.with(1 << bit)] {
                    // What makes an entry present stands aside in bits 57 to 60: readable, of frame 0.
                    let may_be_broken = entry.has(1 << 52) && (57..=60).contains(&bit);
                    if !format.is_present(entry) && !may_be_broken {
                        assert_eq!(format.kind(level, entry), Kind::Stray, "bit {bit}");
                        assert!(!format.is_well_formed(level, entry));
                    }
                }
            }
        }
    }
}

/// Compares a format with itself chosen at run time, in everything.
fn forwards<F: Format>(format: F, same: impl Fn(AnyFormat) -> Option<F>) {
    let any: AnyFormat = format.into();
    assert_eq!(same(any), Some(format));
    assert_eq!(any.name(), format.name());
    assert_eq!(any.levels(), format.levels());
    assert_eq!(any.phys_width(), format.phys_width());
    assert_eq!(any.accessed_bit(), format.accessed_bit());
    assert_eq!(any.dirty_bit(), format.dirty_bit());
    assert_eq!(any.rights_bits(), format.rights_bits());
    assert_eq!(any.table_bits(), format.table_bits());
    let addresses = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, !(1 << bit)]);
    for gpa in addresses.map(Gpa::new) {
        assert_eq!(any.admits(gpa), format.admits(gpa));
        assert_eq!(any.input_end(gpa), format.input_end(gpa));
        let range = GpaRange::from_pages(gpa.page_base(), 1).unwrap();
        assert_eq!(any.admits_range(range), format.admits_range(range));
    }
    for pfn in [0, 1, FRAME].map(HostPfn::new) {
        assert_eq!(any.fits(pfn), format.fits(pfn));
        assert_eq!(any.root_pointer(pfn, Tracking::On), format.root_pointer(pfn, Tracking::On));
        assert_eq!(any.table(pfn), format.table(pfn));
    }
    assert_eq!(any.fits(HostPfn::new(1 << 40)), format.fits(HostPfn::new(1 << 40)));
    for size in PageSize::ALL {
        assert_eq!(any.supports(size), format.supports(size));
        assert_eq!(any.leaf_bits(size), format.leaf_bits(size));
        for attr in all_attrs() {
            for pfn in [FRAME, FRAME + 1, 1 << 40].map(HostPfn::new) {
                assert_eq!(any.leaf(size, pfn, attr), format.leaf(size, pfn, attr));
            }
        }
    }
    let table = format.table(HostPfn::new(FRAME));
    let leaf = format.leaf(PageSize::Size4K, HostPfn::new(FRAME), Attr::new(Prot::RX)).unwrap();
    let marked = (0..64).flat_map(|bit| [table, leaf, Entry::EMPTY].map(|e| e.with(1 << bit)));
    for entry in marked {
        assert_eq!(any.is_present(entry), format.is_present(entry));
        assert_eq!(any.is_table(entry), format.is_table(entry));
        assert_eq!(any.table_frame(entry), format.table_frame(entry));
        assert_eq!(any.with_prot(entry, Prot::RW), format.with_prot(entry, Prot::RW));
        for level in Level::ALL {
            assert_eq!(any.kind(level, entry), format.kind(level, entry));
            assert_eq!(any.is_well_formed(level, entry), format.is_well_formed(level, entry));
        }
        for size in PageSize::ALL {
            assert_eq!(any.leaf_frame(size, entry), format.leaf_frame(size, entry));
            assert_eq!(any.attr(size, entry), format.attr(size, entry));
            let gpa = Gpa::new(0x1234_5678_9000);
            assert_eq!(any.mapping(gpa, size, entry), format.mapping(gpa, size, entry));
        }
    }
}

#[test]
fn a_format_chosen_at_run_time_is_that_format() {
    for any in examples() {
        forwards(any, Some);
        match any {
            AnyFormat::Ept(ept) => forwards(ept, |any| match any {
                AnyFormat::Ept(ept) => Some(ept),
                _ => None,
            }),
            AnyFormat::Npt(npt) => forwards(npt, |any| match any {
                AnyFormat::Npt(npt) => Some(npt),
                _ => None,
            }),
            AnyFormat::LongMode(long) => forwards(long, |any| match any {
                AnyFormat::LongMode(long) => Some(long),
                _ => None,
            }),
        }
    }
}

#[test]
fn bits_that_no_flag_has_are_refused_and_not_written() {
    let (levels, width) = (Levels::Four, width(40));
    let formats: [AnyFormat; 3] = [
        Ept::new(levels, width, EptCaps::all()).into(),
        Npt::new(levels, width).into(),
        LongMode::new(levels, width).into(),
    ];
    let leaf = |format: AnyFormat, attr| format.leaf(PageSize::Size4K, HostPfn::new(1), attr);
    let good = Attr::new(Prot::RW);
    for format in formats {
        let entry = leaf(format, good).unwrap();
        for bit in (0..8).map(|shift| 1 << shift) {
            if Prot::from_bits(bit).is_none() {
                for prot in
                    [Prot::empty(), Prot::RW].map(|p| Prot::from_bits_retain(p.bits() | bit))
                {
                    let refused = Err(AttrError::UnknownRights(prot));
                    assert_eq!(leaf(format, good.with_prot(prot)), refused.map_err(Into::into));
                    assert_eq!(format.with_prot(entry, prot), refused);
                }
            }
            if SoftBits::from_bits(bit).is_none() {
                let soft = SoftBits::from_bits_retain(bit);
                let refused = Err(AttrError::UnknownSoft(soft).into());
                assert_eq!(leaf(format, good.with_soft(soft)), refused);
            }
            if LeafFlags::from_bits(bit).is_none() {
                let flags = LeafFlags::from_bits_retain(bit);
                let refused = Err(AttrError::Flags(flags).into());
                assert_eq!(leaf(format, good.with_flags(flags)), refused);
            }
        }
    }
}
