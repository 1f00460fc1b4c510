//! The MMU, which takes no part in any protocol: it walks, and sets accessed and dirty bits.

use loom_tests::{
    Arc, Cpu, RWX, World, explore, frame, gpa, leaf::clear_dirty, pages, race, race3,
};
use slat::{
    Entry, HostPfn, Level, Mapped, PageSize, Prot, SLOTS,
    mmu::{Access, Cause},
};

fn write(cpu: &Cpu) -> Result<HostPfn, Cause> {
    cpu.access(1, Access::WRITE)
}

fn read(cpu: &Cpu) -> Result<HostPfn, Cause> {
    cpu.access(1, Access::READ)
}

#[test]
fn an_unmap_returns_the_dirty_bit_or_the_mmu_faults() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (old, written) = race(&world, |cpu| cpu.unmap(1).unwrap(), write);
        assert_eq!((old.accessed, old.dirty), (written.is_ok(), written.is_ok()));
        assert_eq!(world.entry(1), Entry::EMPTY);
        written
    })
    .are(&[Ok(frame(1)), Err(Cause::NotPresent)]);
}

#[test]
fn a_range_unmap_returns_the_dirty_bit_or_the_mmu_faults() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (dirty, written) = race(
            &world,
            |cpu| {
                let mut dirty = None;
                let all = pages(0, SLOTS as u64);
                let (count, _flush) =
                    cpu.pin().unmap_range(all, |old| dirty = Some(old.dirty)).unwrap();
                assert_eq!(count, 1);
                dirty.unwrap()
            },
            write,
        );
        assert_eq!(dirty, written.is_ok());
        assert_eq!(world.entry(1), Entry::EMPTY);
        dirty
    })
    .are(&[true, false]);
}

#[test]
fn the_dirty_bit_belongs_to_the_frame_that_was_written() {
    explore(4, || {
        let world = Arc::new(World::mapped(1));
        let (old, written) = race(
            &world,
            |cpu| {
                let old = cpu.unmap(1).unwrap();
                assert_eq!(cpu.map(1, 9), Ok(Mapped::New));
                old
            },
            write,
        );
        let new = world.lookup(1).unwrap();
        assert_eq!(old.dirty, written == Ok(frame(1)));
        assert_eq!(new.dirty, written == Ok(frame(9)));
        written
    })
    .are(&[Ok(frame(1)), Ok(frame(9)), Err(Cause::NotPresent)]);
}

#[test]
fn taking_rights_away_keeps_the_dirty_bit_or_the_mmu_faults() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (changed, written) =
            race(&world, |cpu| cpu.pin().protect(pages(1, 2), Prot::R).unwrap().0, write);
        let mapping = world.lookup(1).unwrap();
        assert_eq!((changed, mapping.attr.prot()), (1, Prot::R));
        assert_eq!(mapping.dirty, written.is_ok());
        written
    })
    .are(&[Ok(frame(1)), Err(Cause::Rights)]);
}

#[test]
fn giving_rights_keeps_the_accessed_and_the_dirty_bit() {
    explore(4, || {
        let world = World::mapped(1);
        drop(world.table.pin().protect(pages(1, 2), Prot::R).unwrap());
        let world = Arc::new(world);
        let (changed, results) = race(
            &world,
            |cpu| cpu.pin().protect(pages(1, 2), Prot::RWX).unwrap().0,
            |cpu| (read(cpu).is_ok(), write(cpu).is_ok()),
        );
        let mapping = world.lookup(1).unwrap();
        assert_eq!((changed, mapping.attr), (1, RWX));
        assert_eq!((mapping.accessed, mapping.dirty), results);
        results
    })
    .are(&[(true, true), (true, false)]);
}

#[test]
fn a_write_is_seen_by_the_reset_or_stays_dirty() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (cleared, written) = race(&world, clear_dirty, write);
        let mapping = world.lookup(1).unwrap();
        assert_eq!(written, Ok(frame(1)));
        assert!(mapping.accessed);
        assert!(cleared != mapping.dirty);
        cleared
    })
    .are(&[true, false]);
}

#[test]
fn of_two_writes_none_is_lost_to_a_reset() {
    explore(4, || {
        let world = Arc::new(World::mapped(1));
        let (cleared, ()) = race(
            &world,
            |cpu| [clear_dirty(cpu), clear_dirty(cpu)],
            |cpu| {
                write(cpu).unwrap();
                write(cpu).unwrap();
            },
        );
        let dirty = world.lookup(1).unwrap().dirty;
        // Every write is in one of the answers, or still in the entry.
        assert!(dirty || cleared != [false, false]);
        (cleared, dirty)
    })
    .are(&[
        ([false, false], true),
        ([false, true], false),
        ([false, true], true),
        ([true, false], false),
        ([true, false], true),
        ([true, true], false),
    ]);
}

#[test]
fn clearing_the_accessed_bit_never_takes_the_dirty_bit() {
    explore(5, || {
        let world = World::mapped(1);
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_accessed());
        let world = Arc::new(world);
        let (cleared, written) =
            race(&world, |cpu| cpu.pin().slot(gpa(1)).unwrap().clear_accessed(), write);
        let mapping = world.lookup(1).unwrap();
        assert_eq!((cleared, written), (true, Ok(frame(1))));
        assert!(mapping.dirty);
        mapping.accessed
    })
    .are(&[true, false]);
}

#[test]
fn an_accessed_bit_is_never_set_in_a_page_that_is_not_mapped() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (old, result) = race(&world, |cpu| cpu.unmap(1).unwrap(), read);
        assert_eq!((old.accessed, old.dirty), (result.is_ok(), false));
        assert_eq!(world.entry(1), Entry::EMPTY);
        result.is_ok()
    })
    .are(&[true, false]);
}

/// A write of the guest, a reset and an unmap: one of the two answers has the dirty bit.
#[test]
fn a_reset_or_the_unmap_reports_what_the_guest_wrote() {
    explore(3, || {
        let world = Arc::new(World::mapped(1));
        let (old, cleared, written) =
            race3(&world, |cpu| cpu.unmap(1).unwrap(), clear_dirty, write);
        assert_eq!(u32::from(old.dirty) + u32::from(cleared), u32::from(written.is_ok()));
        assert_eq!(world.entry(1), Entry::EMPTY);
        (old.dirty, cleared)
    })
    .are(&[(false, false), (true, false), (false, true)]);
}

#[test]
fn two_mmus_set_both_bits_in_one_entry() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let results = race(&world, read, write);
        assert_eq!(results, (Ok(frame(1)), Ok(frame(1))));
        let mapping = world.lookup(1).unwrap();
        assert!(mapping.accessed && mapping.dirty);
    })
    .are(&[()]);
}

#[test]
fn a_page_that_the_mmu_reaches_has_its_contents() {
    explore(5, || {
        let world = Arc::new(World::populated());
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                cpu.map(1, 7).unwrap();
            },
            |cpu| read(cpu).map(|_| cpu.page(1).read()),
        );
        found
    })
    .are(&[Ok(42), Err(Cause::NotPresent)]);
}

/// The MMU's accessed bit goes into an entry beside the one that is being linked, and into the new
/// one too.
#[test]
fn the_mmu_walks_into_a_new_table_only_when_it_is_initialised() {
    explore(4, || {
        let world = World::new(2);
        let table = SLOTS as u64;
        world.table.populate_mapped(pages(0, 1), PageSize::Size4K, frame(0), RWX).unwrap();
        let world = Arc::new(world);
        let ((), found) = race(
            &world,
            |cpu| {
                cpu.page(1).write(42);
                let range = pages(table + 1, table + 3);
                cpu.table().populate_mapped(range, PageSize::Size4K, frame(7), RWX).unwrap();
            },
            move |cpu| {
                assert_eq!(cpu.access(0, Access::READ), Ok(frame(0)));
                assert_eq!(cpu.access(table, Access::READ), Err(Cause::NotPresent));
                cpu.access(table + 1, Access::READ).ok().map(|pfn| {
                    assert_eq!(pfn, frame(7));
                    cpu.page(1).read()
                })
            },
        );
        let pin = world.table.pin();
        let upper = pin.walk(gpa(0), Level::L2).last().unwrap().entry;
        assert!(upper.has(slat::Format::accessed_bit(world.table.format())));
        found
    })
    .are(&[None, Some(42)]);
}

/// A fault that another processor resolved meanwhile: the bits are not compared.
#[test]
fn a_map_of_what_the_mmu_uses_already_is_the_same() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (mapped, written) = race(&world, |cpu| cpu.map(1, 1), write);
        assert_eq!((mapped, written), (Ok(Mapped::Same), Ok(frame(1))));
        assert!(world.lookup(1).unwrap().dirty);
    })
    .are(&[()]);
}
