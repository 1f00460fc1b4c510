use super::*;

const LAST_PAGE: u64 = 0xffff_ffff_ffff_f000;

#[test]
fn a_range_is_not_empty_not_unaligned_and_does_not_wrap() {
    let at = Gpa::new;
    assert_eq!(GpaRange::new(at(0), 0), Err(RangeError::Empty { start: at(0) }));
    assert!(matches!(GpaRange::new(at(1), 4096), Err(RangeError::Unaligned { .. })));
    assert!(matches!(GpaRange::new(at(0), 4095), Err(RangeError::Unaligned { .. })));
    assert!(matches!(GpaRange::new(at(LAST_PAGE), 8192), Err(RangeError::Wraps { .. })));
    assert!(matches!(GpaRange::from_pages(at(0), u64::MAX), Err(RangeError::Wraps { .. })));
    assert!(matches!(GpaRange::from_pages(at(1), u64::MAX), Err(RangeError::Unaligned { .. })));
}

#[test]
fn the_last_page_of_the_space_is_a_range() {
    let range = GpaRange::new(Gpa::new(LAST_PAGE), 4096).unwrap();
    assert_eq!(range.last(), Gpa::new(u64::MAX));
    assert_eq!(range.pages(), 1);
    assert!(range.contains(Gpa::new(u64::MAX)));
    let whole = GpaRange::from_pages(Gpa::new(0), 1 << 52).unwrap();
    assert!(whole.overlaps(range) && whole.contains(Gpa::new(LAST_PAGE)));
}

#[test]
fn overlap_and_hull_are_exact_at_the_edges() {
    let a = GpaRange::new(Gpa::new(0x1000), 0x2000).unwrap();
    let b = GpaRange::new(Gpa::new(0x3000), 0x1000).unwrap();
    let c = GpaRange::new(Gpa::new(0x2000), 0x1000).unwrap();
    assert!(!a.overlaps(b) && !b.overlaps(a));
    assert!(a.overlaps(c) && c.overlaps(a));
    assert_eq!(a.hull(b), GpaRange::new(Gpa::new(0x1000), 0x3000).unwrap());
}

#[test]
fn a_frame_number_too_large_for_an_address_has_none() {
    assert_eq!(HostPfn::new(1).address(), Some(4096));
    assert_eq!(HostPfn::new(1 << 52).address(), None);
    assert_eq!(HostPfn::new(u64::MAX).checked_add(1), None);
}
