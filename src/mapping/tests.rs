use super::*;
use crate::attr::Prot;

#[test]
fn the_range_of_a_mapping_that_was_made_up_is_one() {
    for size in PageSize::ALL {
        let (gpa, pfn) = (Gpa::new(u64::MAX), HostPfn::new(u64::MAX));
        let attr = Attr::new(Prot::R);
        let mapping = Mapping { gpa, pfn, size, attr, accessed: false, dirty: false };
        assert_eq!(mapping.range().last(), gpa);
        assert_eq!(mapping.range().pages(), size.pages());
        assert_eq!(mapping.frame_of(gpa).is_some(), size == PageSize::Size4K);
    }
}
