use super::*;

fn needed(layout: &Layout, levels: Levels) -> u64 {
    let regions = layout.regions().iter().map(|&region| (region, layout.granule()));
    tables(regions.collect(), levels)
}

fn around(addresses: &[u64]) -> Layout {
    Layout::around(addresses.iter().copied().map(Gpa::new).collect()).unwrap()
}

#[test]
fn linear_memory_is_one_region() {
    let layout = Layout::linear(3 << 20).unwrap();
    assert_eq!(layout.len(), 768);
    assert_eq!(layout.regions().len(), 1);
    assert_eq!(layout.gpa(700), Gpa::new(700 * PAGE_BYTES));
}

#[test]
fn memory_splits_into_regions_that_adjoin() {
    for (pages, count, regions) in [(1, 16, 1), (5, 3, 3), (1000, 16, 16), (512, 1, 1)] {
        let layout = Layout::split(pages * PAGE_BYTES, count).unwrap();
        assert_eq!(layout.regions().len(), regions);
        let mut next = 0;
        for region in 0..regions {
            let own = layout.pages_of(region);
            assert_eq!(own.start, next);
            assert_eq!(layout.regions()[region].pages(), own.len() as u64);
            assert!(own.clone().all(|page| layout.region_of(page) == region));
            next = own.end;
        }
        assert_eq!(next as u64, pages);
        assert_eq!(
            needed(&layout, Levels::Four),
            needed(&Layout::linear(pages * PAGE_BYTES).unwrap(), Levels::Four)
        );
    }
}

#[test]
fn a_decoy_takes_a_table_of_each_level_below_the_root() {
    let large = Layout::linear(4 << 20).unwrap().with_granule(PageSize::Size2M).unwrap();
    let layout = large.with_decoys(2).unwrap();
    assert_eq!([0, 1, 2].map(|region| layout.decoy(region)), [None, Some(0), Some(1)]);
    let sizes = [0, 1, 2].map(|region| layout.leaves_of(region));
    assert_eq!(sizes, [PageSize::Size2M, PageSize::Size4K, PageSize::Size4K]);
    assert_eq!([0, 1, 2].map(|region| layout.pages_of(region).len()), [1024, 512, 512]);
    let regions = layout.regions().iter().copied().zip(sizes);
    assert_eq!(tables(regions.collect(), Levels::Four), 3 + 2 * 3);
}

#[test]
fn pages_of_neighbouring_spans_share_a_region() {
    let layout = around(&[0x40_0000, 0x40_1000, 0x60_0000, 0x1ff_f000_0000]);
    let pages: Vec<_> = layout.regions().iter().map(|region| region.pages()).collect();
    assert_eq!(pages, [1024, 512]);
}

#[test]
fn the_ends_of_the_address_space_can_be_laid_out() {
    let layout = around(&[0, 0xffff_ffff_ffff_f000]);
    assert_eq!(layout.regions().len(), 2);
    assert_eq!(needed(&layout, Levels::Four), 1 + 2 * 3);
}

#[test]
fn tables_are_counted_once_however_many_regions_they_hold() {
    let (gib, tib) = (1 << 30, 1 << 40);
    for (addresses, four) in [
        (&[0][..], 4),
        (&[0, 2 << 20], 5),
        (&[0, 4 << 20], 5),
        (&[0, gib], 6),
        (&[0, gib, gib + (8 << 20)], 7),
        (&[0, tib], 7),
    ] {
        assert_eq!(needed(&around(addresses), Levels::Four), four, "{addresses:x?}");
        assert_eq!(needed(&around(addresses), Levels::Five), four + 1, "{addresses:x?}");
    }
    assert_eq!(needed(&Layout::linear(gib).unwrap(), Levels::Four), 512 + 3);
}

#[test]
fn room_for_large_leaves_is_whole_leaves() {
    let large = PageSize::Size2M;
    let layout = Layout::linear(5 << 20).unwrap().with_granule(large).unwrap();
    assert_eq!((layout.len(), layout.mapped()), (1280, 1536), "no more is used than was asked for");
    assert_eq!(layout.regions()[0].pages(), 1536);
    let last = GpaRange::new(Gpa::new(4 << 20), 2 << 20).unwrap();
    assert!(layout.uses(last));
    assert!(!layout.uses(GpaRange::new(Gpa::new(5 << 20), 1 << 20).unwrap()));
    assert_eq!(needed(&layout, Levels::Four), 3, "no table of the lowest level");

    // Of 16 regions of 1 MiB every other has nothing of its own left.
    let layout = Layout::split(16 << 20, 16).unwrap().with_granule(large).unwrap();
    assert_eq!(layout.regions().len(), 8);
    assert!(layout.regions().iter().all(|region| region.pages() == 512));
    assert!((0..layout.len()).all(|page| layout.pages_of(layout.region_of(page)).contains(&page)));
    assert_eq!((layout.largest(), layout.mapped()), (512, layout.len()));
}

#[test]
fn large_leaves_surround_the_pages_of_a_trace() {
    let huge = PageSize::Size1G;
    let layout = around(&[0, 0x20_0000, 0x4000_0000, 0xffff_ffff_ffff_f000]);
    let layout = layout.with_granule(huge).unwrap();
    let regions: Vec<_> = layout.regions().iter().map(|region| region.start().get()).collect();
    assert_eq!(regions, [0, 1 << 30, 0xffff_ffff_c000_0000]);
    assert_eq!(layout.mapped(), 3 << 18);
    assert_eq!(needed(&layout, Levels::Four), 1 + 2);
}
