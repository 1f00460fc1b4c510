//! Input spaces and widths, at every edge.

use super::*;

/// The first address that a four-level and a five-level tree do not translate.
const END: [(Levels, u64); 2] = [(Levels::Four, 1 << 48), (Levels::Five, 1 << 57)];

/// Addresses around each power of two, and the same from the top of the space.
fn edges() -> Vec<u64> {
    let low = (0..64).flat_map(|bit| {
        let power = 1_u64 << bit;
        [power - 1, power, power + 1, power + 4096, power.wrapping_sub(4096)]
    });
    let low: Vec<u64> = low.collect();
    low.iter().copied().chain(low.iter().map(|address| !address)).collect()
}

#[test]
fn nested_formats_admit_what_their_levels_index() {
    for (levels, end) in END {
        let ept = Ept::new(levels, width(46), EptCaps::USUAL);
        let npt = Npt::new(levels, width(46));
        for address in edges() {
            let gpa = Gpa::new(address);
            assert_eq!(ept.admits(gpa), address < end, "{gpa}");
            assert_eq!(npt.admits(gpa), address < end, "{gpa}");
        }
    }
}

#[test]
fn long_mode_admits_canonical_addresses_of_both_halves() {
    for (levels, end) in END {
        let long = LongMode::new(levels, width(46));
        let half = end / 2;
        for address in edges() {
            let canonical = address < half || address >= half.wrapping_neg();
            assert_eq!(long.admits(Gpa::new(address)), canonical, "{address:#x}");
        }
    }
    let four = LongMode::new(Levels::Four, width(46));
    let five = LongMode::new(Levels::Five, width(46));
    for (address, in_four, in_five) in [
        (0x0000_7fff_ffff_ffff, true, true),
        (0x0000_8000_0000_0000, false, true),
        (0xffff_7fff_ffff_ffff, false, true),
        (0xffff_8000_0000_0000, true, true),
        (0x00ff_ffff_ffff_ffff, false, true),
        (0x0100_0000_0000_0000, false, false),
        (0xfeff_ffff_ffff_ffff, false, false),
        (0xff00_0000_0000_0000, false, true),
        (u64::MAX, true, true),
    ] {
        let gpa = Gpa::new(address);
        assert_eq!((four.admits(gpa), five.admits(gpa)), (in_four, in_five), "{gpa}");
    }
}

/// A range is admitted if every page of it is: decided here from the spans that are.
fn is_within(range: GpaRange, spans: &[(u64, u64)]) -> bool {
    let (start, last) = (range.start().get(), range.last().get());
    spans.iter().any(|&(first, end)| first <= start && last <= end)
}

#[test]
fn ranges_are_admitted_whole_or_not_at_all() {
    for (levels, end) in END {
        let nested = [(0, end - 1)];
        let halves = [(0, end / 2 - 1), ((end / 2).wrapping_neg(), u64::MAX)];
        let ept = Ept::new(levels, width(46), EptCaps::USUAL);
        let npt = Npt::new(levels, width(46));
        let long = LongMode::new(levels, width(46));
        for start in edges() {
            let start = Gpa::new(start).page_base();
            for last in edges() {
                let pages = (last >> 12).wrapping_sub(start.page()).wrapping_add(1);
                let Ok(range) = GpaRange::from_pages(start, pages) else { continue };
                assert_eq!(ept.admits_range(range), is_within(range, &nested), "{range}");
                assert_eq!(npt.admits_range(range), is_within(range, &nested), "{range}");
                assert_eq!(long.admits_range(range), is_within(range, &halves), "{range}");
            }
        }
        // The last page of the space, and all of it.
        let last_page = GpaRange::from_pages(Gpa::new(end - 4096), 1).unwrap();
        let whole = GpaRange::from_pages(Gpa::new(0), end / 4096).unwrap();
        assert!(ept.admits_range(last_page) && npt.admits_range(whole));
        assert!(!long.admits_range(whole));
    }
}

#[test]
fn an_input_space_ends_after_its_last_page() {
    for (levels, end) in END {
        let ept = Ept::new(levels, width(46), EptCaps::USUAL);
        let npt = Npt::new(levels, width(46));
        let long = LongMode::new(levels, width(46));
        for gpa in edges().into_iter().map(Gpa::new) {
            assert_eq!((ept.input_end(gpa), npt.input_end(gpa)), (end / 4096, end / 4096));
            let wanted = if gpa.get() < 1 << 63 { end / 8192 } else { 1 << 52 };
            assert_eq!(long.input_end(gpa), wanted);
        }
    }
}

#[test]
fn widths_hold_frames_below_their_limit() {
    for bits in 0..=u8::MAX {
        match PhysWidth::new(bits) {
            Err(error) => {
                assert_eq!(error, BadPhysWidth(bits));
                assert!(!(32..=52).contains(&bits));
            }
            Ok(width) => {
                assert!((32..=52).contains(&bits) && width.bits() == bits);
                let limit = 1_u64 << (bits - 12);
                assert_eq!(width.frame_mask(), limit * 4096 - 4096);
                for pfn in frames_around(u32::from(bits)) {
                    assert_eq!(width.fits(HostPfn::new(pfn)), pfn < limit, "{bits} {pfn:#x}");
                }
            }
        }
    }
    assert_eq!(PhysWidth::MAX, width(52));
    assert_eq!(PhysWidth::MAX.frame_mask(), 0x000f_ffff_ffff_f000);
}

#[test]
fn a_table_in_a_frame_that_does_not_fit_sets_no_foreign_bit() {
    for format in examples() {
        for pfn in [1 << 34, 1 << 40, 1 << 52, u64::MAX].map(HostPfn::new) {
            assert_eq!(format.table(pfn).raw() & !format.table_bits(), 0);
            assert!(format.fits(format.table_frame(format.table(pfn))));
        }
    }
}

#[test]
fn a_root_in_a_frame_that_does_not_fit_sets_no_foreign_bit() {
    for format in examples() {
        let foreign = !(format.phys_width().frame_mask()
            | format.root_pointer(HostPfn::new(0), Tracking::On));
        for pfn in [1 << 34, 1 << 40, 1 << 52, u64::MAX].map(HostPfn::new) {
            assert_eq!(format.root_pointer(pfn, Tracking::On) & foreign, 0);
        }
    }
}
