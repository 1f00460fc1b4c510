use std::time::Duration;

use slat::{Bitmap, Mark};

use super::*;
use crate::{
    audit::tests::{PAGES, WRITTEN, audit, audit_of, expect},
    layout::Layout,
    manager::Flushing,
    precopy::Precopy,
    workload::Touch,
    writers::Writers,
};

fn precopy(granule: PageSize, flushing: Flushing) -> Writers {
    let link = Duration::from_millis(20);
    let precopy = Precopy { most_rounds: 4, few: 4, link, flushing };
    let pages = 4 * PAGES.max(granule.pages() * 2);
    Writers::new(pages * 4096, granule, 1, precopy).unwrap()
}

/// Pages that are written, and one that is only read, in large leaves of their own.
fn large_touch(granule: PageSize) -> Touch {
    let pages = [0, 0x1000, 0x2000, 0x20_0000].map(Gpa::new).to_vec();
    let layout = Layout::around(pages).unwrap();
    Touch { layout: layout.with_granule(granule).unwrap(), seed: 1 }
}

#[test]
fn sound_machines_pass_whatever_the_leaves() {
    for granule in [PageSize::Size4K, PageSize::Size2M] {
        expect(&audit(&precopy(granule, Flushing::Served), |_, _| ()), &[]);
        expect(&audit(&large_touch(granule), |_, _| ()), &[]);
    }
}

/// Leaves of 2 MiB speak for all of their pages: of these one is written, and most are not used at all.
#[test]
fn the_bits_of_a_large_leaf_are_those_of_all_its_pages() {
    let Audit { resident, accessed, dirty, .. } =
        audit_of(&large_touch(PageSize::Size2M), |_, _| ());
    assert_eq!((resident.entries, accessed.entries), (2 * 512, 2 * 512));
    assert_eq!((dirty.entries, dirty.workload), (512, 512));
    let wrong = audit(&large_touch(PageSize::Size2M), |machine, _| {
        machine.table().reader().pin().slot(Gpa::new(0)).unwrap().clear_dirty();
    });
    expect(&wrong, &["0x0 is not dirty and should be"]);
}

#[test]
fn a_copy_that_is_wrong_is_noticed() {
    let wrong = audit(&precopy(PageSize::Size4K, Flushing::Served), |_, run| {
        run.copied.as_mut().unwrap().wrong.push((WRITTEN, 3));
    });
    expect(&wrong, &["3 bytes of the copy of 0x8000 are not what was written"]);
    let audit = audit_of(&precopy(PageSize::Size4K, Flushing::Skipped), |_, _| ());
    let precopy = audit.precopy.unwrap();
    assert!(precopy.wrong_bytes >= precopy.wrong_pages && precopy.wrong_pages > 0, "{precopy:?}");
}

#[test]
fn a_dirty_bit_that_no_harvest_reported_is_noticed() {
    let wrong = audit(&precopy(PageSize::Size4K, Flushing::Served), |machine, run| {
        run.copied.as_mut().unwrap().ever_dirty.clear();
        let mut dirty = Bitmap::new(machine.layout.regions()[0]);
        let reader = machine.table().reader();
        let harvested = reader.pin().harvest(dirty.range(), Mark::Dirty, &mut dirty);
        assert!(harvested.is_ok());
    });
    assert!(
        wrong.iter().any(|text| text.contains("0x8000 is not dirty and should be")),
        "{wrong:?}"
    );
}

#[test]
fn a_large_leaf_that_was_not_made_again_is_noticed() {
    let wrong = audit(&precopy(PageSize::Size2M, Flushing::Served), |_, run| {
        run.copied.as_mut().unwrap().collapsed.leaves -= 1;
    });
    expect(&wrong, &["tables that were to become leaves again: 7, expected 8"]);
}
