//! Harvests beside the MMU, unmap, each other, software that sets bits, vacate and split: each mark is
//! reported once, or is still there.

use loom_tests::{Arc, Cpu, RWX, World, explore, frame, gpa, no_kick, pages, race, sizes::TABLE};
use slat::{Bitmap, Entry, GpaRange, Mark, PageSize, mmu::Access};

/// Harvests `range`.
fn harvest_of(cpu: &Cpu, range: GpaRange, mark: Mark) -> Bitmap {
    let mut found = Bitmap::new(range);
    let (count, flush) = cpu.pin().harvest(range, mark, &mut found).unwrap();
    assert_eq!(count, found.count());
    assert_eq!(flush.is_empty(), count == 0);
    found
}

/// Harvests page 1 and its neighbours; tells whether page 1, and no other, is reported.
fn harvest(cpu: &Cpu, mark: Mark) -> bool {
    let found = harvest_of(cpu, pages(0, TABLE), mark);
    assert!(found.runs().all(|run| run == pages(1, 2)));
    found.contains(gpa(1))
}

fn set_dirty(cpu: &Cpu, range: GpaRange, page: u64) -> u64 {
    let mut selection = Bitmap::new(range);
    assert_eq!(selection.set(gpa(page)), Ok(false));
    cpu.pin().set_dirty(&selection).unwrap()
}

/// Page 1, mapped, accessed and dirty.
fn marked() -> World {
    let world = World::mapped(1);
    let pin = world.table.pin();
    let slot = pin.slot(gpa(1)).unwrap();
    assert!(!slot.set_accessed() && !slot.set_dirty());
    drop(pin);
    world
}

#[test]
fn what_the_mmu_writes_is_in_the_bitmap_or_in_the_entry() {
    explore(4, || {
        let world = Arc::new(World::mapped(1));
        let (found, written) =
            race(&world, |cpu| harvest(cpu, Mark::Dirty), |cpu| cpu.access(1, Access::WRITE));
        assert_eq!(written, Ok(frame(1)));
        assert_ne!(found, world.lookup(1).unwrap().dirty);
        found
    })
    .are(&[true, false]);
}

#[test]
fn a_page_that_is_written_beside_a_harvest_of_it_is_reported_and_perhaps_dirty_again() {
    explore(4, || {
        let world = Arc::new(marked());
        let (found, written) =
            race(&world, |cpu| harvest(cpu, Mark::Dirty), |cpu| cpu.access(1, Access::WRITE));
        assert!(found && written == Ok(frame(1)));
        world.lookup(1).unwrap().dirty
    })
    .are(&[true, false]);
}

#[test]
fn a_harvest_of_one_mark_never_takes_the_other() {
    explore(4, || {
        let world = World::mapped(1);
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_accessed());
        let world = Arc::new(world);
        let (found, written) =
            race(&world, |cpu| harvest(cpu, Mark::Accessed), |cpu| cpu.access(1, Access::WRITE));
        assert!(found && written == Ok(frame(1)));
        let mapping = world.lookup(1).unwrap();
        assert!(mapping.dirty);
        mapping.accessed
    })
    .are(&[true, false]);
}

#[test]
fn of_two_harvests_one_reports_the_page() {
    for mark in [Mark::Accessed, Mark::Dirty] {
        explore(4, move || {
            let world = Arc::new(marked());
            let (one, two) =
                race(&world, move |cpu| harvest(cpu, mark), move |cpu| harvest(cpu, mark));
            assert!(one != two);
            let mapping = world.lookup(1).unwrap();
            assert_eq!(mapping.accessed, mark == Mark::Dirty);
            assert_eq!(mapping.dirty, mark == Mark::Accessed);
            one
        })
        .are(&[true, false]);
    }
}

#[test]
fn a_harvest_or_the_unmap_gets_the_mark() {
    for mark in [Mark::Accessed, Mark::Dirty] {
        explore(4, move || {
            let world = Arc::new(marked());
            let (found, old) =
                race(&world, move |cpu| harvest(cpu, mark), |cpu| cpu.unmap(1).unwrap());
            let told = if mark == Mark::Dirty { old.dirty } else { old.accessed };
            assert_ne!(found, told);
            assert_eq!(world.entry(1), Entry::EMPTY);
            found
        })
        .are(&[true, false]);
    }
}

#[test]
fn a_mark_that_is_harvested_is_of_the_mapping_that_is_there_then() {
    explore(3, || {
        let world = Arc::new(marked());
        let (found, old) = race(
            &world,
            |cpu| harvest(cpu, Mark::Dirty),
            |cpu| {
                let old = cpu.unmap(1).unwrap();
                cpu.map(1, 7).unwrap();
                old
            },
        );
        let new = world.lookup(1).unwrap();
        assert_ne!(found, old.dirty);
        assert!(new.pfn == frame(7) && !new.dirty && !new.accessed);
        found
    })
    .are(&[true, false]);
}

#[test]
fn a_harvest_and_who_sets_marks_keep_account() {
    explore(4, || {
        let world = Arc::new(marked());
        let all = pages(0, TABLE);
        let (found, newly) =
            race(&world, |cpu| harvest(cpu, Mark::Dirty), move |cpu| set_dirty(cpu, all, 1));
        assert!(found);
        // Set after it was harvested, and there still; or found set.
        assert_eq!(world.lookup(1).unwrap().dirty, newly == 1);
        newly
    })
    .are(&[0, 1]);
}

#[test]
fn a_mark_is_never_set_in_a_page_that_is_not_mapped() {
    explore(4, || {
        let world = Arc::new(World::mapped(1));
        let all = pages(0, TABLE);
        let (old, newly) =
            race(&world, |cpu| cpu.unmap(1).unwrap(), move |cpu| set_dirty(cpu, all, 1));
        assert_eq!((old.dirty, world.entry(1)), (newly == 1, Entry::EMPTY));
        newly
    })
    .are(&[0, 1]);
}

/// That page 0 is not accessed any more stands for what a device writes to page 1: it is the one change
/// of a slot that takes no fence along. Who finds the mark set does
/// nothing more: then the harvest that takes it has to see what was written.
#[test]
fn what_was_written_before_a_mark_that_was_found_set_is_seen_by_its_harvest() {
    explore(3, || {
        let world = marked();
        world.table.pin().map(gpa(0), frame(0), PageSize::Size4K, RWX).unwrap();
        assert!(!world.table.pin().slot(gpa(0)).unwrap().set_accessed());
        let world = Arc::new(world);
        let (seen, newly) = race(
            &world,
            |cpu| {
                assert!(harvest(cpu, Mark::Dirty));
                !cpu.lookup(0).unwrap().accessed
            },
            |cpu| {
                assert!(cpu.pin().slot(gpa(0)).unwrap().clear_accessed());
                set_dirty(cpu, pages(1, 2), 1)
            },
        );
        assert!(seen || newly == 1);
        (seen, newly)
    })
    .are(&[(true, 0), (true, 1), (false, 1)]);
}

#[test]
fn a_harvest_breaks_no_claim_of_a_page() {
    for mark in [Mark::Accessed, Mark::Dirty] {
        explore(2, move || {
            let world = Arc::new(marked());
            let (vacated, found) =
                race(&world, |cpu| cpu.table().vacate(pages(2, 3)), move |cpu| harvest(cpu, mark));
            assert!(vacated.is_ok() && found);
            assert_eq!([0, 2].map(|page| world.entry(page)), [Entry::EMPTY, Entry::UNPOPULATED]);
        })
        .are(&[()]);
    }
}

#[test]
fn a_harvest_breaks_no_claim_of_a_table() {
    explore(2, || {
        let world = World::new(2);
        world.table.populate(pages(0, 2 * TABLE), PageSize::Size4K).unwrap();
        world.table.pin().map(gpa(TABLE), frame(9), PageSize::Size4K, RWX).unwrap();
        assert!(!world.table.pin().slot(gpa(TABLE)).unwrap().set_dirty());
        let world = Arc::new(world);
        let (vacated, found) = race(
            &world,
            |cpu| cpu.table().vacate(pages(0, TABLE)),
            |cpu| harvest_of(cpu, pages(1, TABLE + 1), Mark::Dirty),
        );
        assert!(vacated.is_ok());
        assert_eq!(found.runs().collect::<Vec<_>>(), [pages(TABLE, TABLE + 1)]);
        assert_eq!(world.entry(0), Entry::UNPOPULATED);
    })
    .are(&[()]);
}

#[test]
fn a_harvest_beside_a_split_reports_each_page_once() {
    explore(2, || {
        let world = World::new(1);
        let all = pages(0, TABLE);
        world.table.populate_mapped(all, PageSize::Size2M, frame(0), RWX).unwrap();
        assert!(!world.table.pin().slot(gpa(0)).unwrap().set_dirty());
        let world = Arc::new(world);
        let (split, found) = race(
            &world,
            |cpu| cpu.table().split(gpa(0), PageSize::Size4K, &no_kick),
            move |cpu| harvest_of(cpu, all, Mark::Dirty).count(),
        );
        assert_eq!((split, found), (Ok(()), TABLE));
        assert!((0..TABLE).all(|page| !world.lookup(page).unwrap().dirty));
    })
    .are(&[()]);
}
