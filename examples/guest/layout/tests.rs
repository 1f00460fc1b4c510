use super::*;

fn needed(layout: &Layout, levels: Levels) -> u64 {
    tables(layout.regions().to_vec(), levels)
}

fn around(addresses: &[u64]) -> Layout {
    Layout::around(addresses.iter().copied().map(Gpa::new).collect()).unwrap()
}

#[test]
fn linear_memory_is_one_region() {
    let layout = Layout::linear(3 << 20).unwrap();
    assert_eq!(layout.len(), 768);
    assert_eq!(layout.regions().len(), 1);
    assert_eq!(layout.page_at(layout.gpa(700)), Some(700));
    assert_eq!(layout.page_at(Gpa::new(3 << 20)), None);
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
