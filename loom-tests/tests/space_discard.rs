//! Spaces: pages that are given up while they are about to be copied.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, beside, explore, frame,
    space::{Site, Stopped, resolved},
};
use slat::{CopyOnWrite, OnDemand, PageSize, Prot, mmu::Access};

/// The pool spoils what is given back, and who copies it fails the model.
#[test]
fn a_page_that_is_given_up_before_it_is_fetched_is_not_copied() {
    explore(2, || {
        let site = Site::new();
        let (originals, copies) = (site.pool(0, 2), site.pool(2, 4));
        let base = OnDemand::new(originals, 1, PageSize::Size4K);
        site.map(StdArc::new(CopyOnWrite::new(StdArc::new(base), copies)));
        let here = site.warm(Access::READ);
        assert_eq!(site.mapped(), Some(frame(0)));
        let site = Arc::new(site);
        let there = Arc::clone(&site);
        beside(|| resolved(here.fault(Prot::W)), move || there.discard())
    })
    .are(&[
        (Ok(()), true),
        (Ok(()), false),
        (Err(Stopped::Retry), true),
        (Err(Stopped::Retry), false),
    ]);
}
