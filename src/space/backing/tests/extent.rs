use super::{super::extent::*, *};

/// Against a search for the leaf.
#[test]
fn a_backing_has_a_leaf_where_an_aligned_run_of_its_pages_holds_the_page_or_follows_it() {
    let size = PageSize::Size2M;
    let step = size.pages() / 4;
    for pages in (0..=12).map(|i| i * step) {
        for page in (0..=12).map(|i| i * step) {
            for gpa in (100..108).map(|i| Gpa::of_page(i * step)) {
                // Where the backing's pages lie, from the address of `page` on.
                let at = |other: u64| gpa.page() + other - page;
                let whole = |&first: &u64| {
                    at(first).is_multiple_of(size.pages()) && first + size.pages() <= pages
                };
                let expected =
                    page < pages && (0..pages).filter(whole).any(|f| f + size.pages() > page);
                let found = has_leaf(pages, page, gpa, size);
                assert_eq!(found, expected, "{pages} {page} {gpa}");
            }
        }
    }
}

#[test]
fn frames_have_numbers() {
    let last = HostPfn::new(u64::MAX);
    assert_eq!(Frames::new(last, 0).unwrap_err(), FramesError::Empty { first: last });
    assert_eq!(Frames::new(last, 2).unwrap_err(), FramesError::Wraps { first: last, pages: 2 });
    let all = HostPfn::new(0);
    assert_eq!(Frames::new(all, u64::MAX).unwrap().at(u64::MAX - 1), Some(frame(u64::MAX - 1)));
    let frames = Frames::new(last, 1).unwrap();
    assert_eq!((frames.pages(), frames.at(0), frames.at(1)), (1, Some(last), None));
}

#[test]
fn a_page_beyond_the_end_fails_and_a_leaf_that_goes_on_past_it_is_too_large() {
    let end = BeyondEnd::check(4, 4).unwrap_err();
    for size in PageSize::ALL {
        let error: BeyondEnd = failed(check(&Want::new(4, size, Prot::R), 4).unwrap_err());
        assert_eq!(error, end);
        assert_eq!(check(&Want::new(3, size, Prot::R), 4).is_ok(), size == SMALL);
    }
    let whole = Want::new(0, PageSize::Size2M, Prot::R);
    assert!(check(&whole, 512).is_ok());
    smaller(&check(&whole, 511).unwrap_err());
    smaller(&check(&Want::new(1, PageSize::Size2M, Prot::R), 512).unwrap_err());
    smaller(&check_small(&whole, 512).unwrap_err());
}
