//! Accessed and dirty bits, by leaves of each size: what the processor sets as its guest reads and writes, what the
//! library reports of it and clears, and what becomes of it when leaves change their size.

mod area;
mod resize;
mod watch;

use slat::{Mark, PageSize, Prot, mmu::Cause};

use self::area::Area;
use super::{
    Outcome,
    claims::{Claims, claim},
};
use crate::{
    guest::Deed,
    machine::emulator::Emulator,
    virt::{Exit, Virt},
    world::{Machine, Processor, World},
};

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let mut claims = Claims::new("bits");
    for area in Area::all(machine) {
        let world = World::new(machine);
        let mut processor = Processor::new(&world);
        area.map(&world);
        if machine.virt.keeps_bits() {
            reads(&mut processor, &area, &mut claims);
            writes(&mut processor, &area, &mut claims);
            dues(&mut processor, &area, &mut claims);
            faults(&mut processor, &area, &mut claims);
            rounds(&mut processor, &area, &mut claims);
            resets(&mut processor, &area, &mut claims);
            resize::run(&mut processor, &area, &mut claims);
        } else {
            nothing(&mut processor, &area, &mut claims);
        }
        watch::run(&mut processor, &area, &mut claims);
    }
    let said = if machine.virt.keeps_bits() {
        "the processor keeps bits"
    } else {
        "the processor keeps no bits"
    };
    claims.outcome(said)
}

/// What is read is accessed, at all levels, and nothing else is.
fn reads<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    claim!(
        claims,
        area.found(world, Mark::Accessed).is_empty(),
        "{size:?}: a fresh leaf is not accessed"
    );
    area.touch(processor, Deed::Read, &area.read);
    for &page in &area.read {
        let entries = area.entries(world, page);
        claim!(
            claims,
            entries.iter().all(|entry| entry & V::ACCESSED != 0),
            "{size:?}: all entries of a read are accessed: {entries:x?}"
        );
        claim!(
            claims,
            entries.iter().all(|entry| entry & V::DIRTY == 0),
            "{size:?}: no entry of a read is dirty: {entries:x?}"
        );
    }
    claim!(
        claims,
        area.found(world, Mark::Accessed) == area.leaves(&area.read),
        "{size:?}: just what was read is accessed"
    );
    claim!(
        claims,
        area.take(world, Mark::Dirty).is_empty(),
        "{size:?}: what was read is not dirty"
    );
    claim!(
        claims,
        area.take(world, Mark::Accessed) == area.leaves(&area.read),
        "{size:?}: a harvest finds just what was read"
    );
    claim!(claims, area.found(world, Mark::Accessed).is_empty(), "{size:?}: and clears it");
}

/// What is written is dirty, in the leaf alone, as often as it is written.
fn writes<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    for time in 1..=2 {
        area.touch(processor, Deed::Write, &area.written);
        for &page in &area.written {
            let entries = area.entries(world, page);
            let (leaf, above) = entries.split_last().expect("the root's is there");
            claim!(
                claims,
                leaf & V::DIRTY != 0,
                "{size:?}: the leaf of a write is dirty: {entries:x?}"
            );
            claim!(
                claims,
                above.iter().all(|entry| entry & V::DIRTY == 0),
                "{size:?}: no table's entry is: {entries:x?}"
            );
            claim!(
                claims,
                entries.iter().all(|entry| entry & V::ACCESSED != 0),
                "{size:?}: all entries of a write are accessed: {entries:x?}"
            );
        }
        claim!(
            claims,
            area.take(world, Mark::Dirty) == area.leaves(&area.written),
            "{size:?}: harvest {time} finds just what was written"
        );
        claim!(
            claims,
            area.take(world, Mark::Accessed) == area.leaves(&area.written),
            "{size:?}: which is accessed as well"
        );
    }
}

/// What a harvest takes has to be invalidated, once. Some emulators forget everything whenever a guest is entered, so
/// that nothing else would show it.
fn dues<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    let due_for_a_read = |processor: &mut Processor<'_, V>| {
        let before = processor.invalidations;
        area.touch(processor, Deed::Read, &[area.written[0]]);
        processor.invalidations - before
    };
    for (mark, deed) in [(Mark::Accessed, Deed::Read), (Mark::Dirty, Deed::Write)] {
        area.clear(world);
        area.touch(processor, deed, &area.written);
        let none = due_for_a_read(processor);
        claim!(claims, none == 0, "{size:?}: {mark:?}: nothing is due before: {none}");
        area.take(world, mark);
        let one = due_for_a_read(processor);
        claim!(claims, one == 1, "{size:?}: {mark:?}: what was taken is due once: {one}");
    }
}

/// An access that faults leaves no mark in the leaf.
fn faults<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    area.protect(world, Prot::R | Prot::X);
    area.clear(world);
    let exit = area.stopped(processor, Deed::Write, area.written[0]);
    let is_refused = matches!(exit, Some(Exit::Fault(fault)) if fault.cause() == Cause::Rights);
    claim!(claims, is_refused, "{size:?}: a write to what is read-only faults: {exit:x?}");
    let entries = area.entries(world, area.written[0]);
    let marks = entries.last().map_or(0, |leaf| leaf & (V::ACCESSED | V::DIRTY));
    let is_qemu = world.machine.emulator == Emulator::Qemu;
    if is_qemu && size == PageSize::Size1G && marks == V::ACCESSED {
        claims.known("a leaf of 1 GiB is made accessed before it is checked");
    } else {
        claim!(claims, marks == 0, "{size:?}: what faults marks no leaf: {entries:x?}");
    }
    area.protect(world, Prot::RWX);
}

/// Two rounds, one after the other, report just what was touched before.
fn rounds<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    for (mark, deed, pages) in
        [(Mark::Accessed, Deed::Read, &area.read), (Mark::Dirty, Deed::Write, &area.written)]
    {
        // All that was before is over.
        for _ in 0..3 {
            area.round(world, mark);
        }
        claim!(
            claims,
            area.round(world, mark).is_empty(),
            "{size:?}: {mark:?}: nothing touched, nothing reported"
        );
        for time in 1..=2 {
            area.touch(processor, deed, pages);
            let mut found = area.round(world, mark);
            found.merge(&area.round(world, mark)).expect("both are of the area");
            claim!(
                claims,
                found == area.leaves(pages),
                "{size:?}: {mark:?}: rounds report just what was touched, time {time}"
            );
        }
    }
}

/// What was reset by hand is set again.
fn resets<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size, page) = (processor.world, area.size, area.written[0]);
    let reset = || {
        let pin = world.table.pin();
        let slot = pin.slot(area.gpa(page)).expect("it is an address");
        let old = (slot.clear_accessed(), slot.clear_dirty());
        drop(pin);
        world.serve(world.table.flush_all());
        old
    };
    let now = || {
        let mapping = world.table.pin().lookup(area.gpa(page)).expect("it is mapped");
        (mapping.accessed, mapping.dirty)
    };
    area.touch(processor, Deed::Write, &[page]);
    claim!(claims, reset() == (true, true), "{size:?}: a reset returns what was set");
    claim!(claims, now() == (false, false), "{size:?}: a reset clears it");
    area.touch(processor, Deed::Read, &[page]);
    claim!(claims, now() == (true, false), "{size:?}: a read after it is seen");
    area.touch(processor, Deed::Write, &[page]);
    claim!(claims, now() == (true, true), "{size:?}: a write after it is seen");
}

/// A processor that keeps no bits sets none.
fn nothing<V: Virt>(processor: &mut Processor<'_, V>, area: &Area, claims: &mut Claims) {
    let (world, size) = (processor.world, area.size);
    area.touch(processor, Deed::Read, &area.read);
    area.touch(processor, Deed::Write, &area.written);
    for &page in area.read.iter().chain(&area.written) {
        let entries = area.entries(world, page);
        let unmarked = entries.iter().all(|entry| entry & (V::ACCESSED | V::DIRTY) == 0);
        claim!(claims, unmarked, "{size:?}: nothing is marked: {entries:x?}");
    }
    claim!(claims, area.found(world, Mark::Accessed).is_empty(), "{size:?}: nothing is accessed");
    claim!(claims, area.found(world, Mark::Dirty).is_empty(), "{size:?}: nothing is dirty");
}
