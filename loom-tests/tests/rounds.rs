//! Rounds of harvests beside guests with caches, each other, software that sets bits, split and collapse:
//! what is written is reported by one of them, the last of which begins when all is over.

use loom_tests::{
    Arc, Cpu, Guest, RWX, Table, World, explore, frame, gpa, no_kick, pages, race, race_unpinned,
    race3_unpinned, sizes::TABLE,
};
use slat::{Bitmap, CollapseError, Mark, PageSize, mmu::Access};

/// Does a round over one leaf table; returns what it reports. Nobody waits for its flush.
fn round_of(table: &Table, mark: Mark) -> Bitmap {
    let mut found = Bitmap::new(pages(0, TABLE));
    let (count, _flush) = table.harvest_round(pages(0, TABLE), mark, &mut found).unwrap();
    assert_eq!(count, found.count());
    found
}

/// Does the same; tells whether page 1 is reported.
fn round(table: &Table, mark: Mark) -> bool {
    round_of(table, mark).contains(gpa(1))
}

fn rounds(cpu: &Cpu) -> [bool; 2] {
    [Mark::Dirty; 2].map(|mark| round(cpu.table(), mark))
}

/// Pages 1 and 2, mapped.
fn world() -> World {
    let world = World::mapped(1);
    world.set(2, 2);
    world.table.pin().map(gpa(2), frame(2), PageSize::Size4K, RWX).unwrap();
    world
}

/// The same, where a guest has been: the entry of the leaf table is accessed.
fn visited() -> World {
    let world = world();
    drop(Guest::warm(&world, 2));
    world
}

/// The same, and a guest whose caches know the way to the leaf table.
fn guested() -> (Arc<World>, Guest) {
    let world = world();
    let guest = Guest::warm(&world, 2);
    (Arc::new(world), guest)
}

/// Comes, and writes page 1: by what it has cached, if no round was over before.
fn write(guest: &mut Guest) {
    assert_eq!(guest.enter().access(1, Access::WRITE), Ok(frame(1)));
}

fn set_dirty(cpu: &Cpu) {
    assert!(!cpu.pin().slot(gpa(1)).unwrap().set_dirty());
}

/// Does the last round, and tells which of all has reported page 1: one.
fn which(world: &World, before: &[bool]) -> usize {
    let last = round(&world.table, Mark::Dirty);
    let mut reported = before.iter().chain([&last]);
    assert_eq!(reported.clone().filter(|&&it| it).count(), 1, "{before:?}, then {last}");
    reported.position(|&it| it).unwrap()
}

#[test]
fn what_a_guest_writes_by_its_caches_is_in_one_of_three_rounds() {
    explore(2, || {
        let (world, mut guest) = guested();
        let (found, ()) = race_unpinned(&world, rounds, move |_| write(&mut guest));
        which(&world, &found)
    })
    .are(&[0, 1, 2]);
}

/// The round for accessed pages leaves what the one for dirty pages has to follow.
#[test]
fn a_round_of_the_other_kind_leaves_it_to_the_next_one() {
    explore(2, || {
        let (world, mut guest) = guested();
        let (found, ()) = race_unpinned(
            &world,
            |cpu| [Mark::Accessed, Mark::Dirty].map(|mark| round(cpu.table(), mark)),
            move |_| write(&mut guest),
        );
        (found[0], which(&world, &found[1..]))
    })
    .are(&[(true, 0), (false, 0), (false, 1)]);
}

/// Another guest, which comes between the two rounds, has invalidated what it should.
#[test]
fn a_guest_that_came_later_does_not_speak_for_one_that_is_inside() {
    explore(2, || {
        let (world, mut guest) = guested();
        let mut later = Guest::new(&world);
        let (found, ()) = race_unpinned(
            &world,
            move |cpu| {
                let first = round(cpu.table(), Mark::Dirty);
                let _stay = later.enter();
                [first, round(cpu.table(), Mark::Dirty)]
            },
            move |_| write(&mut guest),
        );
        which(&world, &found)
    })
    .are(&[0, 1, 2]);
}

#[test]
fn of_two_rounds_at_a_time_one_reports_the_page() {
    explore(2, || {
        let world = visited();
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
        let world = Arc::new(world);
        let one = |cpu: &Cpu| round(cpu.table(), Mark::Dirty);
        let (one, two) = race_unpinned(&world, one, one);
        which(&world, &[one, two])
    })
    .are(&[0, 1]);
}

#[test]
fn what_a_guest_writes_beside_two_rounds_at_a_time_is_in_one_of_three() {
    explore(1, || {
        let (world, mut guest) = guested();
        let one = |cpu: &Cpu| round(cpu.table(), Mark::Dirty);
        let (one, two, ()) = race3_unpinned(&world, one, one, move |_| write(&mut guest));
        which(&world, &[one, two])
    })
    .are(&[0, 1, 2]);
}

#[test]
fn what_software_makes_dirty_is_in_one_of_three_rounds() {
    explore(2, || {
        let world = Arc::new(visited());
        let (found, ()) = race(&world, rounds, set_dirty);
        which(&world, &found)
    })
    .are(&[0, 1, 2]);
}

/// Where nothing is led to when it begins.
#[test]
fn what_software_makes_dirty_in_a_table_that_was_not_visited_is_in_one_of_three_rounds() {
    explore(3, || {
        let world = Arc::new(world());
        let (found, ()) = race(&world, rounds, set_dirty);
        which(&world, &found)
    })
    .are(&[0, 1, 2]);
}

/// Who finds the bit set has not to wait for who set it.
#[test]
fn what_two_make_dirty_is_in_the_round_after_either() {
    let ways: [fn(&Cpu); 2] = [
        |cpu| assert!(cpu.pin().note_dirty(gpa(1)).is_ok()),
        |cpu| assert!(cpu.pin().fix_write(gpa(1)).is_ok()),
    ];
    for make_dirty in ways {
        explore(2, move || {
            let world = world();
            drop(world.table.pin().watch(pages(1, 2)).unwrap());
            let world = Arc::new(world);
            let (found, ()) = race(
                &world,
                move |cpu| {
                    make_dirty(cpu);
                    round(cpu.table(), Mark::Dirty)
                },
                make_dirty,
            );
            assert!(found);
            // The other one may have set it again.
            round(&world.table, Mark::Dirty)
        })
        .are(&[true, false]);
    }
}

#[test]
fn a_round_beside_a_split_reports_each_page_once() {
    explore(3, || {
        let world = World::new(1);
        world.table.populate_mapped(pages(0, TABLE), PageSize::Size2M, frame(0), RWX).unwrap();
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
        let world = Arc::new(world);
        let (found, split) = race_unpinned(
            &world,
            |cpu| round_of(cpu.table(), Mark::Dirty).count(),
            |cpu| cpu.table().split(gpa(0), PageSize::Size4K, &no_kick),
        );
        assert_eq!((found, split), (TABLE, Ok(())));
        assert!(round_of(&world.table, Mark::Dirty).is_empty());
    })
    .are(&[()]);
}

/// The guest writes by the table that is collapsed, or by the leaf that stands there.
#[test]
fn what_a_guest_writes_beside_a_collapse_is_in_a_round_during_it_or_after_it() {
    explore(1, || {
        let world = World::new(1);
        world.table.populate_mapped(pages(0, TABLE), PageSize::Size4K, frame(0), RWX).unwrap();
        let mut guest = Guest::warm(&world, 2);
        let world = Arc::new(world);
        let (found, ()) = race_unpinned(
            &world,
            move |cpu| {
                write(&mut guest);
                round(cpu.table(), Mark::Dirty)
            },
            |cpu| match cpu.table().collapse(gpa(0), PageSize::Size2M, &no_kick) {
                Ok(()) | Err(CollapseError::Busy) => {}
                Err(error) => panic!("{error}"),
            },
        );
        assert!(found, "all was written, and the guest had come out");
        // All its pages count as written, if it is large by now.
        let again = round(&world.table, Mark::Dirty);
        assert!(!round(&world.table, Mark::Dirty), "nothing is left");
        again
    })
    .are(&[false, true]);
}

/// The collapse waits for a pin, but not that long: its mark comes and goes in the entry of the table, beside the
/// accessed bit by which the round finds the page.
#[test]
fn what_a_guest_writes_beside_a_collapse_that_gives_up_is_in_the_next_round() {
    explore(2, || {
        let world = World::new(1);
        world.table.populate_mapped(pages(0, TABLE), PageSize::Size4K, frame(0), RWX).unwrap();
        let world = Arc::new(world);
        let mut guest = Guest::new(&world);
        let pin = world.table.pin();
        let ((), collapsed) = race_unpinned(
            &world,
            move |_| write(&mut guest),
            |cpu| cpu.table().collapse(gpa(0), PageSize::Size2M, &no_kick),
        );
        drop(pin);
        assert_eq!(collapsed, Err(CollapseError::Busy));
        assert!(round(&world.table, Mark::Dirty));
    })
    .are(&[()]);
}
