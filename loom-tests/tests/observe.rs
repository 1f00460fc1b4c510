//! Observers: guests whose caches go stale, shoot-downs, and when a table that was unlinked is freed.
//!
//! A page that was shot down is written by its owner: a guest that still reaches it, and reads it, fails
//! the model. So does a walker in a table that was freed, since a source poisons what comes back.

use std::mem;

use loom_tests::{
    Arc, Cpu, Guest, RWX, World, explore, frame, gpa, no_kick, pages, race, race_unpinned, race3,
    sizes::TABLE,
};
use slat::{
    HostPfn, MapError, Mapped, PageSize, Progress,
    mmu::{Access, Cause},
};

/// Makes a table in which nothing is mapped, and a guest whose paging-structure cache knows its leaf
/// table.
fn stale() -> (Arc<World>, Guest) {
    let (world, guest) = warm(2);
    let (_, flush) = world.table.pin().unmap(gpa(2)).unwrap();
    mem::forget(flush);
    (world, guest)
}

/// Vacates the leaf table and populates another range, which has only its frame; tells whether that was
/// free already.
fn reuse_table(cpu: &Cpu) -> bool {
    cpu.table().vacate(pages(0, TABLE)).unwrap();
    let range = pages(TABLE, 2 * TABLE);
    cpu.table().populate_mapped(range, PageSize::Size4K, frame(0), RWX).is_ok()
}

/// Unmaps page 1 and shoots it down; when nobody reaches it any more, uses it for something else.
/// Returns whether that was at once.
fn recycle(cpu: &Cpu) -> bool {
    let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
    let mut shootdown = flush.shootdown();
    let at_once = shootdown.poll() == Progress::Complete;
    shootdown.wait(&no_kick).unwrap();
    cpu.page(1).write(99);
    at_once
}

/// Enters and reads page 1, as long as it is mapped.
fn visit(cpu: &Cpu, guest: &mut Guest) -> Result<HostPfn, Cause> {
    let mut stay = guest.enter();
    let reached = stay.access(1, Access::READ);
    if reached.is_ok() {
        assert_eq!(cpu.page(1).read(), 1);
    }
    reached
}

fn warm(page: u64) -> (Arc<World>, Guest) {
    let world = World::mapped(page);
    let guest = Guest::warm(&world, page);
    (Arc::new(world), guest)
}

/// Maps `page`, before a race.
fn maps(world: &World, page: u64) {
    world.set(page, page);
    world.table.pin().map(gpa(page), frame(page), PageSize::Size4K, RWX).unwrap();
}

#[test]
fn a_shootdown_waits_for_a_guest_that_enters_or_the_guest_comes_without_the_page() {
    explore(3, || {
        let (world, mut guest) = warm(1);
        race(&world, recycle, move |cpu| visit(cpu, &mut guest))
    })
    .are(&[
        (true, Ok(frame(1))),
        (false, Ok(frame(1))),
        (true, Err(Cause::NotPresent)),
        (false, Err(Cause::NotPresent)),
    ]);
}

/// Its first entry: an older table may have had the same root, so its caches are not to be trusted.
#[test]
fn an_observer_made_beside_a_shootdown_is_waited_for_or_knows() {
    explore(3, || {
        let world = Arc::new(World::mapped(1));
        race(&world, recycle, |cpu| visit(cpu, &mut Guest::new(cpu.world())))
    })
    .are(&[
        (true, Ok(frame(1))),
        (false, Ok(frame(1))),
        (true, Err(Cause::NotPresent)),
        (false, Err(Cause::NotPresent)),
    ]);
}

#[test]
fn an_observer_dropped_beside_a_shootdown_is_not_waited_for() {
    explore(3, || {
        let (world, mut guest) = warm(1);
        race(&world, recycle, move |cpu| {
            let reached = visit(cpu, &mut guest);
            drop(guest);
            reached
        })
    })
    .are(&[
        (true, Ok(frame(1))),
        (false, Ok(frame(1))),
        (true, Err(Cause::NotPresent)),
        (false, Err(Cause::NotPresent)),
    ]);
}

/// The guest never leaves; it catches up where it is.
#[test]
fn a_guest_that_acknowledges_does_not_reach_the_page_again() {
    explore(3, || {
        let (world, mut guest) = warm(1);
        let ((), reached) = race(
            &world,
            |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                let mut shootdown = flush.shootdown();
                if shootdown.poll() == Progress::Complete {
                    cpu.page(1).write(99);
                }
            },
            move |cpu| {
                let mut stay = guest.enter();
                let before = stay.access(1, Access::READ).map(|_| cpu.page(1).read()).is_ok();
                stay.acknowledge();
                let after = stay.access(1, Access::READ).map(|_| cpu.page(1).read()).is_ok();
                (before, after)
            },
        );
        reached
    })
    .are(&[(true, true), (true, false), (false, false)]);
}

#[test]
fn of_two_shootdowns_each_is_complete_only_when_the_guest_has_left() {
    explore(2, || {
        let world = World::mapped(1);
        maps(&world, 2);
        let mut guest = Guest::warm(&world, 1);
        guest.enter().access(2, Access::READ).unwrap();
        let world = Arc::new(world);
        let take = |cpu: &Cpu, page: u64| {
            let (_, flush) = cpu.pin().unmap(gpa(page)).unwrap();
            flush.shootdown().wait(&no_kick).unwrap();
            cpu.page(page).write(99);
        };
        let ((), (), reached) = race3(
            &world,
            move |cpu| take(cpu, 1),
            move |cpu| take(cpu, 2),
            move |cpu| {
                let mut stay = guest.enter();
                [1, 2].map(|page| {
                    let reached = stay.access(page, Access::READ).is_ok();
                    if reached {
                        assert_eq!(cpu.page(page).read(), page);
                    }
                    reached
                })
            },
        );
        reached
    })
    .are(&[[true, true], [true, false], [false, true], [false, false]]);
}

/// A shoot-down that began after the change serves it, whoever ran it.
#[test]
fn a_flush_is_served_by_another_ones_shootdown_only_if_that_began_later() {
    explore(3, || {
        let (world, mut guest) = warm(1);
        let ((), (served, reached)) = race(
            &world,
            |cpu| cpu.table().flush_all().shootdown().wait(&no_kick).unwrap(),
            move |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                let served = flush.is_served();
                // Its own guest was out all the time; what it knows depends on when it entered.
                let reached = guest.enter().access(1, Access::READ).is_ok();
                mem::forget(flush);
                (served, reached)
            },
        );
        assert!(!(served && reached), "the guest reached a page whose flush was served");
        (served, reached)
    })
    .are(&[(false, true), (false, false), (true, false)]);
}

/// The guest comes behind the shoot-down, and before the page goes: nobody has told it of that.
#[test]
fn a_page_of_a_range_is_used_again_only_if_a_shootdown_began_behind_its_unmap() {
    explore(2, || {
        let (world, mut guest) = warm(1);
        let (reached, used) = race(
            &world,
            move |cpu| {
                cpu.table().flush_all().shootdown().wait(&no_kick).unwrap();
                visit(cpu, &mut guest).is_ok()
            },
            |cpu| {
                let (_, flush) = cpu.pin().unmap_range(pages(1, 2), |_| ()).unwrap();
                let used = flush.is_served();
                if used {
                    cpu.page(1).write(99);
                }
                mem::forget(flush);
                used
            },
        );
        (reached, used)
    })
    .are(&[(true, false), (false, false), (false, true)]);
}

/// The guest was told of one page, and not of the other.
#[test]
fn a_shootdown_of_another_page_does_not_serve_a_flush() {
    explore(2, || {
        let world = World::mapped(1);
        maps(&world, 2);
        let mut guest = Guest::warm(&world, 1);
        let world = Arc::new(world);
        let ((), (served, reached)) = race(
            &world,
            |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(2)).unwrap();
                flush.shootdown().wait(&no_kick).unwrap();
            },
            move |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                let served = flush.is_served();
                let reached = guest.enter().access(1, Access::READ).is_ok();
                mem::forget(flush);
                (served, reached)
            },
        );
        assert!(!served, "nobody told the guest of the page");
        reached
    })
    // It may also have come so early that it only knew that something was stale.
    .are(&[true, false]);
}

/// A flush that nobody serves: the guest that enters after it was dropped comes with nothing.
#[test]
fn a_dropped_flush_is_due_at_the_next_entry() {
    explore(3, || {
        let (world, mut guest) = warm(1);
        let ((), (after, reached)) = race(
            &world,
            |cpu| {
                let (_, flush) = cpu.pin().unmap(gpa(1)).unwrap();
                drop(flush);
                // Tells the other.
                cpu.map(2, 7).unwrap();
            },
            move |cpu| {
                let after = cpu.lookup(2).is_some();
                (after, guest.enter().access(1, Access::READ).is_ok())
            },
        );
        assert!(
            !(after && reached),
            "a page that was unmapped, and its flush dropped, was reached"
        );
        (after, reached)
    })
    .are(&[(false, true), (false, false), (true, false)]);
}

/// The walker is in the table when it is unlinked, and later when it would be used again.
#[test]
fn a_table_is_not_used_again_while_a_pin_may_be_in_it() {
    explore(3, || {
        let world = Arc::new(World::populated());
        let (used, found) = race_unpinned(&world, reuse_table, |cpu| cpu.lookup(1));
        // What it would find is what the second region has in its place.
        assert_eq!(found, None);
        used
    })
    .are(&[true, false]);
}

/// The same for an MMU, which has the table in its paging-structure cache.
#[test]
fn a_table_is_not_used_again_while_a_guest_may_be_in_it() {
    explore(3, || {
        let (world, mut guest) = stale();
        let (used, reached) =
            race_unpinned(&world, reuse_table, move |_| guest.enter().access(1, Access::READ));
        assert_eq!(reached, Err(Cause::NotPresent));
        used
    })
    .are(&[true, false]);
}

/// A mapper that was too late, and a guest that comes to its leaf by a stale paging-structure cache:
/// what the guest wrote is in the mapper's answer. That the guest comes there at just that moment takes
/// more switches than are tried here: `ops::map::model` in the library begins with it.
#[test]
fn a_write_through_a_stale_walk_is_reported_by_the_map_that_came_too_late() {
    explore(2, || {
        let (world, mut guest) = stale();
        let (mapped, written, vacated) = race3(
            &world,
            |cpu| cpu.map(1, 7),
            move |_| guest.enter().access(1, Access::WRITE).is_ok(),
            |cpu| cpu.table().vacate(pages(0, TABLE)).is_ok(),
        );
        match mapped {
            Ok(Mapped::New) => {
                assert!(!vacated);
                assert_eq!(world.lookup(1).unwrap().dirty, written);
            }
            Err(MapError::Vacated { dirty, .. }) => {
                assert!(vacated);
                assert_eq!(dirty, written);
            }
            Err(MapError::NotPopulated { .. }) => assert!(vacated && !written),
            other => panic!("{other:?}"),
        }
        (vacated, mapped.is_err())
    })
    .are(&[(false, false), (true, true)]);
}
