//! Writes that are watched: the dirty bits of processors that keep none, and first writes on the others.

use core::ops::ControlFlow;

use slat::{Fixed, Mark, PageSize, mmu::Cause};

use super::{
    super::claims::{Claims, claim},
    area::Area,
};
use crate::{
    guest::{Deed, Job},
    virt::{Exit, Virt},
    world::Processor,
};

/// The first write since a page was cleaned faults, and is noted.
pub(super) fn run<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    area.clear(world);
    let watched = world.table.pin().watch(area.range).expect("it is an area of the table");
    claim!(
        claims,
        watched.0 == area.range.pages(),
        "{size:?}: all pages are watched: {}",
        watched.0
    );
    world.serve(watched.1);
    for time in 1..=2 {
        let mut fixed = 0;
        for &page in &area.written {
            area.touch(processor, Deed::Read, &[page]);
            claim!(
                claims,
                write(processor, page) == Ok(1),
                "{size:?}: the first write faults, and is fixed, time {time}"
            );
            claim!(
                claims,
                write(processor, page) == Ok(0),
                "{size:?}: the next one does not, time {time}"
            );
            fixed += 1;
        }
        let found = area.take(world, Mark::Dirty);
        claim!(
            claims,
            found == area.leaves(&area.written),
            "{size:?}: just what was written is dirty, of {fixed}, time {time}"
        );
    }
    if size != PageSize::Size4K {
        split(processor, area, claims);
    }
    let unwatched = world.table.pin().unwatch(area.range).expect("it is an area of the table");
    claim!(
        claims,
        unwatched == area.range.pages(),
        "{size:?}: all were watched up to the end: {unwatched}"
    );
    claim!(claims, write(processor, area.written[0]) == Ok(0), "{size:?}: nobody watches any more");
}

/// Small leaves are watched, and dirty, as the large one was that is split; and so is the one that is made of them.
fn split<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size, page) = (processor.world, area.size, area.written[0]);
    claim!(claims, write(processor, page) == Ok(1), "{size:?}: a write before the split is fixed");
    let split = world.table.split(area.gpa(page), PageSize::Size4K, world);
    claim!(claims, split == Ok(()), "{size:?}: a watched leaf is split: {split:?}");
    claim!(
        claims,
        write(processor, page + 1) == Ok(0),
        "{size:?}: its small leaves are dirty as well"
    );
    let found = area.take(world, Mark::Dirty);
    claim!(claims, found == area.leaves(&[page]), "{size:?}: and all of them are found");
    claim!(claims, write(processor, page) == Ok(1), "{size:?}: each is watched");
    claim!(claims, write(processor, page + 1) == Ok(1), "{size:?}: by itself");
    claim!(
        claims,
        area.found(world, Mark::Dirty) == area.pages(&[page, page + 1]),
        "{size:?}: just what was written is dirty"
    );
    for size in PageSize::ALL.into_iter().skip(1).filter(|&size| size <= area.size) {
        let collapsed = world.table.collapse(area.gpa(page), size, world);
        claim!(
            claims,
            collapsed == Ok(()),
            "{size:?}: watched leaves are collapsed: {collapsed:?}"
        );
    }
    let found = area.take(world, Mark::Dirty);
    claim!(
        claims,
        found == area.leaves(&[page]),
        "{size:?}: a leaf of which a part was written is dirty"
    );
    claim!(claims, write(processor, page + 2) == Ok(1), "{size:?}: it is watched");
}

/// Has the guest write a page; returns how often that faulted and was fixed.
fn write<V: Virt>(processor: &mut Processor<'_, V>, page: u64) -> Result<u64, Exit> {
    let before = processor.faults;
    processor.work(Job::new(Deed::Write, page, 1), |pin, fault| {
        if fault.cause() == Cause::Rights && pin.fix_write(fault.gpa()) == Ok(Fixed::Dirtied) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(processor.faults - before)
}
