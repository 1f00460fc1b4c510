//! Faults beside each other and beside changes of their region.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, explore,
    space::{Pool, Processor, Site, Stopped, beside, resolved},
};
use slat::{OnDemand, PageSize, Prot, mmu::Access};

/// Makes the region of one page, on demand from a pool.
fn on_demand() -> (Arc<Site>, StdArc<Pool>) {
    let site = Site::new();
    let pool = site.pool(0, 2);
    let backing = OnDemand::new(StdArc::clone(&pool) as StdArc<_>, 1, PageSize::Size4K);
    site.map(StdArc::new(backing));
    (Arc::new(site), pool)
}

#[test]
fn of_two_faults_on_a_page_both_are_resolved_and_one_frame_comes_back() {
    explore(2, || {
        let (site, pool) = on_demand();
        let (mut here, mut there) = (site.processor(), site.processor());
        let touch = |processor: &mut Processor| {
            resolved(processor.fault(Prot::W)).unwrap();
            processor.access(Access::READ).unwrap()
        };
        let (one, (two, _there)) = beside(|| touch(&mut here), move || (touch(&mut there), there));
        assert_eq!(one, two);
        assert_eq!((site.space.resident(), pool.taken()), (1, 1));
        site.space.stats().lost
    })
    .are(&[0, 1]);
}

#[test]
fn a_fault_beside_an_unmap_of_its_region_leaves_nothing_behind() {
    explore(2, || {
        let (site, pool) = on_demand();
        let mut here = site.processor();
        let there = Arc::clone(&site);
        let (reached, ()) = beside(|| here.touch(Access::READ), move || there.unmap());
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
        reached.map(drop)
    })
    .are(&[Ok(()), Err(Stopped::NoRegion), Err(Stopped::Gone)]);
}
