//! nPT and long mode: AMD APM vol. 2, 5.3, 5.4, 7.8 and 15.25, in numbers.

use super::*;

/// PAT registers, and where each has UC, WC, WT, WP and WB.
const PATS: [(u64, [Option<u8>; 5]); 4] = [
    // After reset: WB WT UC- UC, twice.
    (0x0007_0406_0007_0406, [Some(3), None, Some(1), None, Some(0)]),
    // Linux: WB WC UC- UC WB WP UC- WT.
    (0x0407_0506_0007_0106, [Some(3), Some(1), Some(7), Some(5), Some(0)]),
    // Only uncacheable types: UC, UC- elsewhere.
    (0x0007_0707_0707_0707, [Some(7), None, None, None, None]),
    // All types from index 2 on, WB at 6.
    (0x0706_0504_0100_0707, [Some(2), Some(3), Some(4), Some(5), Some(6)]),
];

#[derive(Clone, Copy, Debug)]
struct Setup {
    user_pages: bool,
    pat: usize,
    encryption: u64,
    pages_1g: bool,
    fresh: Fresh,
    width: u32,
}

fn setups() -> impl Iterator<Item = Setup> {
    (0..64).map(|bits: usize| Setup {
        user_pages: bits & 1 != 0,
        pat: bits >> 1 & 3,
        encryption: if bits & 8 != 0 { 1 << 47 } else { 0 },
        pages_1g: bits & 16 != 0,
        fresh: if bits & 32 != 0 { Fresh::Accessed } else { Fresh::NotAccessed },
        width: 43,
    })
}

/// The format value that a setup describes.
fn format(setup: Setup) -> AnyFormat {
    let pat = Pat::from_msr(PATS[setup.pat].0).unwrap();
    let bit = setup.encryption.trailing_zeros() as u8;
    macro_rules! describe {
        ($format:ident) => {{
            let format = $format::new(Levels::Four, width(setup.width as u8));
            let format = format.with_pat(pat).with_fresh(setup.fresh);
            let format = if setup.pages_1g { format } else { format.without_1g_pages() };
            if bit < 64 { format.with_encryption_bit(bit).unwrap().into() } else { format.into() }
        }};
    }
    if setup.user_pages { describe!(LongMode) } else { describe!(Npt) }
}

fn expected(setup: Setup, size: PageSize, pfn: u64, attr: Attr) -> Result<u64, EncodeError> {
    let (pages, large, pat_bit) = match size {
        PageSize::Size4K => (1, 0, 0x80),
        PageSize::Size2M => (512, 0x80, 0x1000),
        PageSize::Size1G => (512 * 512, 0x80, 0x1000),
    };
    if size == PageSize::Size1G && !setup.pages_1g {
        return Err(EncodeError::BadSize(size));
    }
    let frame = HostPfn::new(pfn);
    if pfn >= 1 << (setup.width - 12) {
        return Err(EncodeError::BadFrame { pfn: frame, width: setup.width as u8 });
    }
    if !pfn.is_multiple_of(pages) {
        return Err(EncodeError::Misaligned { pfn: frame, size });
    }
    let flags = attr.flags().bits();
    let foreign = if setup.user_pages { flags & 4 } else { flags };
    if foreign != 0 {
        return Err(AttrError::Flags(LeafFlags::from_bits_truncate(foreign)).into());
    }
    let place = MemType::ALL.into_iter().position(|t| t == attr.mem_type()).unwrap();
    let index = PATS[setup.pat].1[place].ok_or(AttrError::MemType(attr.mem_type()))?;
    let prot = attr.prot();
    let rights: u64 = match prot.bits() {
        0 => return Err(AttrError::NoAccess.into()),
        1 => 0x8000_0000_0000_0001,
        3 => 0x8000_0000_0000_0003,
        5 => 0x1,
        7 => 0x3,
        8.. => return Err(AttrError::UserExecute(prot).into()),
        _ => return Err(AttrError::Unreadable(prot).into()),
    };
    let user = if setup.user_pages { u64::from(flags & 1) * 4 } else { 4 };
    let global = u64::from(flags & 2 != 0) * 0x100;
    let cache = u64::from(index & 3) * 8 + u64::from(index >> 2) * pat_bit;
    let accessed = if setup.fresh == Fresh::Accessed { 0x20 } else { 0 };
    let soft = u64::from(attr.soft().bits()) * 0x0040_0000_0000_0000;
    let low = user + global + cache + accessed + large;
    Ok(pfn * 4096 + rights + low + soft + setup.encryption)
}

#[test]
fn leaves_are_encoded_bit_for_bit_or_refused() {
    for setup in setups() {
        let format = format(setup);
        for size in PageSize::ALL {
            for attr in all_attrs() {
                let encoded = format.leaf(size, HostPfn::new(FRAME), attr);
                let wanted = expected(setup, size, FRAME, attr);
                assert_eq!(encoded.map(Entry::raw), wanted, "{setup:?} {size:?} {attr:?}");
            }
        }
    }
}

#[test]
fn leaves_read_back_as_they_were_written() {
    for setup in setups().filter(|setup| setup.pages_1g && setup.fresh == Fresh::NotAccessed) {
        let format = format(setup);
        for size in PageSize::ALL {
            for attr in all_attrs() {
                if let Ok(leaf) = format.leaf(size, HostPfn::new(FRAME), attr) {
                    check_decoding(&format, size, FRAME, attr, leaf);
                    check_with_prot(&format, size, HostPfn::new(FRAME), attr, leaf);
                }
            }
        }
    }
}

#[test]
fn frames_fit_the_reduced_width_and_are_aligned_or_are_refused() {
    let attr = Attr::new(Prot::RWX);
    for width in [32, 36, 39, 43, 47] {
        for setup in setups().filter(|setup| setup.pat == 0 && setup.pages_1g) {
            let setup = Setup { width, ..setup };
            let format = format(setup);
            for size in PageSize::ALL {
                for pfn in frames_around(width) {
                    let encoded = format.leaf(size, HostPfn::new(pfn), attr);
                    let wanted = expected(setup, size, pfn, attr);
                    assert_eq!(encoded.map(Entry::raw), wanted, "{setup:?} {pfn:#x}");
                    if let Ok(leaf) = encoded {
                        check_decoding(&format, size, pfn, attr, leaf);
                    }
                }
            }
        }
    }
}

#[test]
fn tables_and_roots_carry_the_frame_and_the_encryption_bit() {
    for setup in setups() {
        let format = format(setup);
        for pfn in [0, 1, FRAME, (1 << 31) - 1] {
            let frame = HostPfn::new(pfn);
            for tracking in [Tracking::On, Tracking::Off] {
                assert_eq!(format.root_pointer(frame, tracking), pfn * 4096 + setup.encryption);
            }
            let table = format.table(frame);
            assert_eq!(table.raw(), pfn * 4096 + setup.encryption + 7);
            assert_eq!(table.raw() & !format.table_bits(), 0);
            let marked = table.with(0x20 | 0x3 << 54);
            for level in [Level::L2, Level::L3, Level::L4, Level::L5] {
                assert_eq!(format.kind(level, marked), Kind::Table(frame));
                assert!(format.is_well_formed(level, marked));
            }
        }
        let frame = ((1 << 43) - 4096) | setup.encryption;
        let global = if setup.user_pages { 0x100 } else { 0 };
        let leaf = 0x8000_0000_0000_007f | global | setup.encryption | 0xf << 53;
        assert_eq!(format.table_bits(), 0x27 | frame | 0x7 << 53);
        assert_eq!(format.leaf_bits(PageSize::Size4K), leaf | 0x80 | frame);
        assert_eq!(format.leaf_bits(PageSize::Size2M), leaf | 0x1080 | frame & !0x1f_ffff);
        assert_eq!(format.leaf_bits(PageSize::Size1G), leaf | 0x1080 | frame & !0x3fff_ffff);
        assert_eq!((format.accessed_bit(), format.dirty_bit()), (0x20, 0x40));
        assert_eq!((format.write_bit(), format.rights_bits()), (0x2, 0x8000_0000_0000_0002));
    }
}

#[test]
fn an_encryption_bit_lies_between_the_width_and_bit_51() {
    for bits in [32, 43, 51, 52] {
        for bit in 0..=u8::MAX {
            let npt = Npt::new(Levels::Four, width(bits)).with_encryption_bit(bit);
            let long = LongMode::new(Levels::Four, width(bits)).with_encryption_bit(bit);
            let fits = bit >= bits && bit <= 51;
            assert_eq!((npt.is_ok(), long.is_ok()), (fits, fits), "width {bits}, bit {bit}");
            if !fits {
                assert_eq!(npt, Err(BadEncryptionBit { bit, width: bits }));
                assert_eq!(long, Err(BadEncryptionBit { bit, width: bits }));
            }
        }
    }
}

#[test]
fn what_is_present_has_the_present_bit() {
    for format in [format(setups().next().unwrap()), LongMode::new(Levels::Five, width(43)).into()]
    {
        for bit in 0..64 {
            assert_eq!(format.is_present(Entry::from_raw(1 << bit)), bit == 0);
        }
        assert!(!format.is_present(Entry::from_raw(!1)));
    }
}

#[test]
fn a_planted_leaf_with_an_odd_memory_type_reads_as_uncacheable() {
    let npt = Npt::new(Levels::Four, width(43));
    // PCD alone: index 2, UC-.
    let entry = Entry::from_raw(0x17);
    assert_eq!(npt.attr(PageSize::Size4K, entry).mem_type(), MemType::UC);
    assert!(!npt.is_well_formed(Level::L1, entry));
}
