//! Observers: guests that enter, and shoot-downs, beside what changes the table that they walk.
//!
//! Pages that a guest reaches are read, and those that nobody reaches any more are written: where nothing
//! orders the two the model fails.

use std::mem;

use loom_tests::{
    Arc, Cpu, Guest, RWX, World, explore, frame, gpa, leaf::clear_dirty, no_kick, pages, pair,
    race_unpinned, sizes::TABLE,
};
use slat::{
    Flush, PageSize, Prot,
    mmu::{Access, Cause},
};

/// Page 1, mapped, and a guest that has accessed it.
fn warm(access: Access) -> (Arc<World>, Guest) {
    let world = World::mapped(1);
    let mut guest = Guest::new(&world);
    guest.enter().access(1, access).unwrap();
    (Arc::new(world), guest)
}

fn serve(flush: Flush<'_>) {
    flush.shootdown().wait(&no_kick).unwrap();
}

#[test]
fn a_guest_that_enters_beside_a_map_reaches_the_page_with_its_contents_or_faults() {
    pair(3, |play| {
        let world = World::mapped(2);
        let mut guest = Guest::warm(&world, 2);
        let world = Arc::new(world);
        let map = |cpu: &Cpu| {
            cpu.page(1).write(42);
            cpu.map(1, 7)
        };
        let read = move |cpu: &Cpu| {
            let mut stay = guest.enter();
            stay.access(1, Access::READ).map(|_| cpu.page(1).read())
        };
        (play.race(&world, map, read), world.end())
    })
    .as_in_turn();
}

/// The guest is inside all the time, and knows the tables on the way.
#[test]
fn a_guest_that_is_inside_reaches_what_is_populated_with_its_contents_or_faults() {
    pair(3, |play| {
        let world = World::new(2);
        world.table.populate_mapped(pages(0, 1), PageSize::Size4K, frame(0), RWX).unwrap();
        let mut guest = Guest::warm(&world, 0);
        let world = Arc::new(world);
        let populate = |cpu: &Cpu| {
            cpu.page(1).write(42);
            let next = pages(TABLE, TABLE + 1);
            cpu.table().populate_mapped(next, PageSize::Size4K, frame(9), RWX)
        };
        let read = move |cpu: &Cpu| {
            let mut stay = guest.enter();
            stay.access(0, Access::READ).unwrap();
            stay.access(TABLE, Access::READ).map(|_| cpu.page(1).read())
        };
        (play.race(&world, populate, read), world.end())
    })
    .as_in_turn();
}

#[test]
fn a_guest_that_is_inside_finds_room_that_was_refined_and_what_is_mapped_there() {
    pair(2, |play| {
        let world = World::new(1);
        world.table.populate(pages(0, TABLE), PageSize::Size2M).unwrap();
        let mut guest = Guest::new(&world);
        let world = Arc::new(world);
        let read = move |_: &Cpu| guest.enter().access(1, Access::READ);
        let refine = |cpu: &Cpu, step| match step {
            0 => cpu.table().refine(pages(1, 2), PageSize::Size4K).is_ok(),
            _ => cpu.map(1, 1).is_ok(),
        };
        (play.race_steps(&world, read, 2, refine), world.end())
    })
    .as_in_turn();
}

#[test]
fn behind_the_shootdown_of_a_right_no_guest_writes() {
    explore(2, || {
        let (world, mut guest) = warm(Access::WRITE);
        let (copied, written) = race_unpinned(
            &world,
            |cpu| {
                serve(cpu.pin().protect(pages(1, 2), Prot::R).unwrap().1);
                cpu.page(1).read()
            },
            move |cpu| {
                let mut stay = guest.enter();
                let written = stay.access(1, Access::WRITE);
                if written.is_ok() {
                    cpu.page(1).write(7);
                }
                written
            },
        );
        assert_eq!(copied, if written.is_ok() { 7 } else { 1 });
        written
    })
    .are(&[Ok(frame(1)), Err(Cause::Rights)]);
}

/// What the guest has cached says that the page is dirty already.
#[test]
fn behind_the_shootdown_of_a_reset_no_write_goes_unnoticed() {
    explore(2, || {
        let (world, mut guest) = warm(Access::WRITE);
        let (copied, unnoticed) = race_unpinned(
            &world,
            |cpu| {
                assert!(clear_dirty(cpu));
                serve(cpu.table().flush_all());
                cpu.page(1).read()
            },
            move |cpu| {
                let mut stay = guest.enter();
                assert_eq!(stay.access(1, Access::WRITE), Ok(frame(1)));
                let unnoticed = !cpu.lookup(1).unwrap().dirty;
                // Otherwise it may be written at any time: it will be copied again.
                if unnoticed {
                    cpu.page(1).write(7);
                }
                unnoticed
            },
        );
        assert_eq!(copied, if unnoticed { 7 } else { 1 });
        unnoticed
    })
    .are(&[true, false]);
}

/// Page 2 is mapped to the frame that page 1 had, which is written in between.
#[test]
fn a_frame_that_was_shot_down_is_reached_by_its_new_page_alone() {
    explore(3, || {
        let (world, mut guest) = warm(Access::READ);
        let (_, reached) = race_unpinned(
            &world,
            |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                serve(flush);
                cpu.page(1).write(99);
                cpu.map(2, 1).unwrap();
            },
            move |cpu| {
                let mut stay = guest.enter();
                [1, 2].map(|page| {
                    let reached = stay.access(page, Access::READ).ok()?;
                    assert_eq!(reached, frame(1));
                    Some(cpu.page(1).read())
                })
            },
        );
        assert_eq!(world.lookup(2).unwrap().pfn, frame(1));
        reached
    })
    .are(&[[Some(1), None], [None, None], [None, Some(99)]]);
}

/// A page that is shot down, and a table that is unlinked: each of the two begins a generation.
#[test]
fn what_two_make_stale_at_a_time_is_due_to_who_enters_later() {
    explore(2, || {
        let world = World::new(2);
        world.table.populate(pages(0, 2 * TABLE), PageSize::Size4K).unwrap();
        for page in [1, TABLE] {
            world.table.pin().map(gpa(page), frame(page), PageSize::Size4K, RWX).unwrap();
        }
        let mut guest = Guest::warm(&world, 1);
        guest.enter().access(TABLE, Access::READ).unwrap();
        mem::forget(world.table.pin().unmap(gpa(TABLE)).unwrap());
        let world = Arc::new(world);
        race_unpinned(
            &world,
            |cpu| serve(cpu.pin().unmap(gpa(1)).unwrap().1),
            |cpu| cpu.table().vacate(pages(TABLE, 2 * TABLE)).unwrap(),
        );
        let mut stay = guest.enter();
        [1, TABLE].map(|page| stay.access(page, Access::READ))
    })
    .are(&[[Err(Cause::NotPresent); 2]]);
}

/// The guest knows the way to the table.
#[test]
fn a_reclaim_frees_no_table_that_a_guest_may_be_in() {
    explore(2, || {
        let (world, mut guest) = warm(Access::READ);
        mem::forget(world.table.pin().unmap(gpa(1)).unwrap());
        let ((freed, populated), reached) = race_unpinned(
            &world,
            |cpu| {
                cpu.table().vacate(pages(0, TABLE)).unwrap();
                let freed = cpu.table().reclaim(&no_kick).waiting == 0;
                let next = pages(TABLE, 2 * TABLE);
                let populated = cpu.table().populate_mapped(next, PageSize::Size4K, frame(0), RWX);
                (freed, populated.is_ok())
            },
            move |_| guest.enter().access(2, Access::READ),
        );
        assert!(populated || !freed);
        // By what the table's frame would be by now it would be reached.
        assert_eq!(reached, Err(Cause::NotPresent));
        freed
    })
    .are(&[true, false]);
}

#[test]
fn of_two_guests_that_enter_at_a_time_each_sees_what_came_before() {
    explore(3, || {
        let (world, mut guest) = warm(Access::READ);
        let mut other = Guest::warm(&world, 1);
        serve(world.table.pin().unmap(gpa(1)).unwrap().1);
        race_unpinned(
            &world,
            |_| guest.enter().access(1, Access::READ),
            move |_| other.enter().access(1, Access::WRITE),
        )
    })
    .are(&[(Err(Cause::NotPresent), Err(Cause::NotPresent))]);
}
