//! Bits of leaves that change their size.

use slat::{Mark, PageSize};

use super::{
    super::claims::{Claims, claim},
    area::Area,
};
use crate::{
    guest::Deed,
    virt::Virt,
    world::{Processor, World},
};

const SMALL: PageSize = PageSize::Size4K;

/// Small leaves inherit the bits of the large one that was split, and the large one has those of all small ones that
/// it is made of.
pub(super) fn run<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    if area.size == SMALL {
        return;
    }
    let (world, size) = (processor.world, area.size);
    let (one, other) = (area.written[0], area.written[0] + 1);
    for (deed, dirty) in [(Deed::Read, &[][..]), (Deed::Write, &[one][..])] {
        area.clear(world);
        area.touch(processor, deed, &[one]);
        let split = world.table.split(area.gpa(one), SMALL, world);
        claim!(claims, split.is_ok(), "{size:?}: it is split: {split:?}");
        let accessed = area.found(world, Mark::Accessed);
        claim!(
            claims,
            accessed == area.leaves(&[one]),
            "{size:?}: all that is split of an accessed leaf is accessed"
        );
        let found = area.found(world, Mark::Dirty);
        claim!(
            claims,
            found == area.leaves(dirty),
            "{size:?}: and dirty if it was, after a {deed:?}"
        );
        area.clear(world);
        area.touch(processor, Deed::Read, &[one]);
        area.touch(processor, deed, &[other]);
        let both = area.pages(&[one, other]);
        claim!(
            claims,
            area.found(world, Mark::Accessed) == both,
            "{size:?}: just the small leaves that are touched are accessed"
        );
        let found = area.found(world, Mark::Dirty);
        let dirty = if deed == Deed::Write { &[other][..] } else { &[] };
        claim!(
            claims,
            found == area.pages(dirty),
            "{size:?}: and just those dirty that are written, by a {deed:?}"
        );
        collapse(world, area, one, claims);
        claim!(
            claims,
            area.found(world, Mark::Accessed) == area.leaves(&[one]),
            "{size:?}: it is accessed, as some were"
        );
        claim!(
            claims,
            area.found(world, Mark::Dirty) == area.leaves(dirty),
            "{size:?}: it is dirty if any was, after a {deed:?}"
        );
    }
    area.clear(world);
    area.touch(processor, Deed::Write, &[one]);
    claim!(
        claims,
        area.take(world, Mark::Dirty) == area.leaves(&[one]),
        "{size:?}: what was collapsed is marked as before"
    );
}

/// Makes the leaf of a page what it was, size by size.
fn collapse<V: Virt>(world: &World<'_, V>, area: &Area, page: u64, claims: &mut Claims) {
    for size in PageSize::ALL.into_iter().filter(|&size| SMALL < size && size <= area.size) {
        let collapsed = world.table.collapse(area.gpa(page), size, world);
        claim!(claims, collapsed.is_ok(), "{size:?}: it is collapsed: {collapsed:?}");
        let mapped = world.table.pin().lookup(area.gpa(page)).map(|mapping| mapping.size);
        claim!(claims, mapped == Some(size), "{size:?}: it is a leaf of that size: {mapped:?}");
    }
}
