//! Writes that are watched: the fix of a fault, against everything that changes the leaf meanwhile.
//!
//! Throughout, a watched leaf that is writable is dirty: `Entry::may_become` refuses another at each commit.

use loom_tests::{
    Arc, Cpu, Guest, World, explore, frame, gpa,
    leaf::{clear_dirty, protect, watch},
    no_kick, pages, race, race_unpinned, race3,
};
use slat::{
    Bitmap, Entry, FixError, Fixed, Flush, MapError, Mapped, Mark, NoteError, Noted, PageSize,
    Prot, Tracking,
    mmu::{Access, Cause},
};

fn fix(cpu: &Cpu) -> Result<Fixed, FixError> {
    cpu.pin().fix_write(gpa(1))
}

fn note(cpu: &Cpu) -> Result<Noted, NoteError> {
    cpu.pin().note_dirty(gpa(1))
}

fn unwatch(cpu: &Cpu) -> bool {
    cpu.pin().unwatch(pages(1, 2)).unwrap() == 1
}

const NOT_MAPPED: FixError = FixError::NotMapped { gpa: gpa(1) };

/// Page 1, mapped and watched.
fn watched() -> World {
    let world = World::mapped(1);
    drop(world.table.pin().watch(pages(1, 2)).unwrap());
    world
}

/// Page 1, watched and dirty.
fn dirty() -> World {
    let world = watched();
    assert_eq!(world.table.pin().fix_write(gpa(1)), Ok(Fixed::Dirtied));
    world
}

/// WATCHED, W and D of page 1.
fn state(world: &World) -> (bool, bool, bool) {
    let pin = world.table.pin();
    let slot = pin.slot(gpa(1)).unwrap();
    (slot.watched(), world.entry(1).has(2), slot.dirty())
}

const CLEAN: (bool, bool, bool) = (true, false, false);
const DIRTY: (bool, bool, bool) = (true, true, true);

#[test]
fn of_two_fixes_of_a_page_one_dirties_it() {
    explore(5, || {
        let world = Arc::new(watched());
        let fixed = race(&world, fix, fix);
        assert_eq!(state(&world), DIRTY);
        fixed
    })
    .are(&[(Ok(Fixed::Dirtied), Ok(Fixed::Already)), (Ok(Fixed::Already), Ok(Fixed::Dirtied))]);
}

#[test]
fn a_fix_is_in_the_mapping_that_an_unmap_returns_or_there_was_nothing_to_fix() {
    explore(5, || {
        let world = Arc::new(watched());
        let (old, fixed) = race(&world, |cpu| cpu.unmap(1).unwrap(), fix);
        assert_eq!(old.dirty, fixed.is_ok());
        assert_eq!(world.entry(1), Entry::EMPTY);
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Err(NOT_MAPPED)]);
}

/// The new mapping is not watched: the fault is spurious by then.
#[test]
fn a_fix_belongs_to_the_mapping_in_which_it_was_made() {
    explore(4, || {
        let world = Arc::new(watched());
        let (old, fixed) = race(
            &world,
            |cpu| {
                let old = cpu.unmap(1).unwrap();
                assert_eq!(cpu.map(1, 9), Ok(Mapped::New));
                old
            },
            fix,
        );
        assert_eq!(old.dirty, fixed == Ok(Fixed::Dirtied));
        assert_eq!(world.lookup(1).unwrap().pfn, frame(9));
        assert_eq!(state(&world), (false, true, false));
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Ok(Fixed::Already), Err(NOT_MAPPED)]);
}

#[test]
fn a_fix_gives_no_right_that_was_taken_away() {
    explore(5, || {
        let world = Arc::new(watched());
        let (changed, fixed) = race(&world, |cpu| protect(cpu, Prot::RX), fix);
        assert_eq!(changed, 1);
        assert_eq!(state(&world), (false, false, fixed.is_ok()));
        assert_eq!(world.lookup(1).unwrap().attr.prot(), Prot::RX);
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Err(FixError::Denied { gpa: gpa(1), have: Prot::RX })]);
}

#[test]
fn other_rights_change_beside_a_fix() {
    explore(5, || {
        let world = Arc::new(watched());
        let (changed, fixed) = race(&world, |cpu| protect(cpu, Prot::RW), fix);
        assert_eq!((changed, fixed), (1, Ok(Fixed::Dirtied)));
        assert_eq!(state(&world), DIRTY);
        assert_eq!(world.lookup(1).unwrap().attr.prot(), Prot::RW);
    })
    .are(&[()]);
}

#[test]
fn a_page_is_fixed_or_not_watched_any_more() {
    explore(5, || {
        let world = Arc::new(watched());
        let (was_watched, fixed) = race(&world, unwatch, fix);
        assert!(was_watched);
        assert_eq!(state(&world), (false, true, fixed == Ok(Fixed::Dirtied)));
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Ok(Fixed::Already)]);
}

/// Who cleans the page takes the right to write with the bit: the fix comes before, or gives it anew.
#[test]
fn a_page_that_is_cleaned_beside_a_fix_is_clean_and_read_only_or_dirty() {
    explore(5, || {
        let world = Arc::new(dirty());
        let (cleaned, fixed) = race(&world, clear_dirty, fix);
        assert!(cleaned);
        let expected = if fixed == Ok(Fixed::Dirtied) { DIRTY } else { CLEAN };
        assert_eq!(state(&world), expected);
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Ok(Fixed::Already)]);
}

#[test]
fn each_fix_is_reported_by_one_of_two_who_clean() {
    explore(3, || {
        let world = Arc::new(watched());
        let (one, two, fixed) = race3(&world, clear_dirty, clear_dirty, fix);
        assert_eq!(fixed, Ok(Fixed::Dirtied));
        assert!(!(one && two));
        assert_eq!(state(&world), if one || two { CLEAN } else { DIRTY });
        (one, two)
    })
    .are(&[(true, false), (false, true), (false, false)]);
}

#[test]
fn a_page_that_is_cleaned_beside_a_watch_is_never_left_writable() {
    explore(5, || {
        let world = World::mapped(1);
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
        let world = Arc::new(world);
        let ((new, taken), cleaned) = race(&world, watch, clear_dirty);
        assert!(new && cleaned);
        assert_eq!(state(&world), CLEAN);
        taken
    })
    .are(&[true, false]);
}

#[test]
fn a_page_that_is_cleaned_beside_an_unwatch_keeps_the_right_to_write() {
    explore(5, || {
        let world = Arc::new(dirty());
        let (was_watched, cleaned) = race(&world, unwatch, clear_dirty);
        assert!(was_watched && cleaned);
        assert_eq!(state(&world), (false, true, false));
        assert_eq!(world.lookup(1).unwrap().attr.prot(), Prot::RWX);
    })
    .are(&[()]);
}

#[test]
fn a_write_beside_a_watch_makes_the_page_dirty_or_faults() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let ((new, taken), written) =
            race(&world, watch, |cpu| cpu.access(1, Access::WRITE).map(drop));
        assert!(new);
        match written {
            // Before, and the right stayed; or after, where there was none.
            Ok(()) => assert_eq!((state(&world), taken), (DIRTY, false)),
            Err(_) => assert_eq!((state(&world), taken), (CLEAN, true)),
        }
        written
    })
    .are(&[Ok(()), Err(Cause::Rights)]);
}

/// What an MMU without dirty bits lets through, nobody notes; but it is in the duty to invalidate.
#[test]
fn a_write_that_nobody_notes_comes_before_the_flush_of_the_watch() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (watched, written) =
            race(&world, watch, |cpu| cpu.access_untracked(1, Access::WRITE).map(drop));
        assert_eq!((watched, state(&world)), ((true, true), CLEAN));
        written
    })
    .are(&[Ok(()), Err(Cause::Rights)]);
}

/// Enters, and writes page 1 if the MMU lets it; else it comes out and has the fault fixed.
fn write_or_fix(cpu: &Cpu, guest: &mut Guest) -> Result<(), Fixed> {
    let mut stay = guest.enter_with(Tracking::Off);
    match stay.access(1, Access::WRITE) {
        Ok(_) => {
            cpu.page(1).write(7);
            Ok(())
        }
        Err(cause) => {
            assert_eq!(cause, Cause::Rights);
            drop(stay);
            Err(fix(cpu).unwrap())
        }
    }
}

/// Takes the right to write page 1 by `take`, shoots it down and copies the page, beside a guest whose caches
/// know the page with that right: what it writes unnoticed is in the copy. Returns how its write went.
fn copy_behind(world: World, take: impl for<'c> FnOnce(&'c Cpu) -> Flush<'c>) -> Result<(), Fixed> {
    let mut guest = Guest::warm(&world, 1);
    let world = Arc::new(world);
    let (copied, written) = race_unpinned(
        &world,
        |cpu| {
            take(cpu).shootdown().wait(&no_kick).unwrap();
            // Ordered behind every write that nobody noted.
            cpu.page(1).read()
        },
        move |cpu| write_or_fix(cpu, &mut guest),
    );
    let expected = if written.is_ok() { (CLEAN, 7) } else { (DIRTY, 1) };
    assert_eq!((state(&world), copied), expected);
    written
}

#[test]
fn behind_the_shootdown_of_a_watch_no_write_goes_unnoticed() {
    explore(3, || copy_behind(World::mapped(1), |cpu| cpu.pin().watch(pages(1, 2)).unwrap().1))
        .are(&[Ok(()), Err(Fixed::Dirtied)]);
}

#[test]
fn a_map_beside_a_watch_is_watched_or_missed() {
    explore(5, || {
        let world = World::populated();
        let world = Arc::new(world);
        let (mapped, (new, taken)) = race(&world, |cpu| cpu.map(1, 1), watch);
        assert_eq!((mapped, new), (Ok(Mapped::New), taken));
        assert_eq!(state(&world), if new { CLEAN } else { (false, true, false) });
        new
    })
    .are(&[true, false]);
}

#[test]
fn a_map_of_what_is_there_is_the_same_whether_or_not_it_is_watched() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (mapped, (new, _)) = race(&world, |cpu| cpu.map(1, 1), watch);
        assert_eq!((mapped, new), (Ok(Mapped::Same), true));
        let read_only = slat::Attr::new(Prot::RX);
        let other = world.table.pin().map(gpa(1), frame(1), PageSize::Size4K, read_only);
        assert!(matches!(other, Err(MapError::Occupied(_))));
    })
    .are(&[()]);
}

#[test]
fn a_watch_beside_an_unmap_leaves_nothing_behind() {
    explore(5, || {
        let world = Arc::new(World::mapped(1));
        let (old, (new, taken)) = race(&world, |cpu| cpu.unmap(1).unwrap(), watch);
        assert_eq!((new, old.attr.prot()), (taken, Prot::RWX));
        assert_eq!(world.entry(1), Entry::EMPTY);
        new
    })
    .are(&[true, false]);
}

#[test]
fn a_page_is_noted_in_the_mapping_that_an_unmap_returns_or_not_at_all() {
    explore(5, || {
        let world = Arc::new(watched());
        let (old, noted) = race(&world, |cpu| cpu.unmap(1).unwrap(), note);
        assert_eq!(old.dirty, noted.is_ok());
        assert_eq!(world.entry(1), Entry::EMPTY);
        noted
    })
    .are(&[Ok(Noted::New), Err(NoteError::NotMapped { gpa: gpa(1) })]);
}

#[test]
fn a_note_and_a_fix_agree_who_was_first() {
    explore(5, || {
        let world = Arc::new(watched());
        let (fixed, noted) = race(&world, fix, note);
        assert_eq!(state(&world), DIRTY);
        (fixed, noted)
    })
    .are(&[(Ok(Fixed::Dirtied), Ok(Noted::Already)), (Ok(Fixed::Already), Ok(Noted::New))]);
}

/// Harvests page 1; tells whether it was dirty.
fn harvest(cpu: &Cpu) -> bool {
    let mut found = Bitmap::new(pages(1, 2));
    let pin = cpu.pin();
    let (_, flush) = pin.harvest(pages(1, 2), Mark::Dirty, &mut found).unwrap();
    assert_eq!(flush.is_empty(), !found.contains(gpa(1)));
    found.contains(gpa(1))
}

#[test]
fn a_fix_is_in_the_bitmap_of_a_harvest_or_in_the_entry() {
    explore(4, || {
        let world = Arc::new(watched());
        let (found, fixed) = race(&world, harvest, fix);
        assert_eq!(fixed, Ok(Fixed::Dirtied));
        assert_eq!(state(&world), if found { CLEAN } else { DIRTY });
        found
    })
    .are(&[true, false]);
}

#[test]
fn a_page_that_is_harvested_beside_a_fix_is_clean_and_read_only_or_dirty_again() {
    explore(4, || {
        let world = Arc::new(dirty());
        let (found, fixed) = race(&world, harvest, fix);
        assert!(found);
        assert_eq!(state(&world), if fixed == Ok(Fixed::Dirtied) { DIRTY } else { CLEAN });
        fixed
    })
    .are(&[Ok(Fixed::Dirtied), Ok(Fixed::Already)]);
}

/// The harvest saw a leaf that was not watched yet.
#[test]
fn a_page_that_is_harvested_beside_a_watch_is_never_left_writable() {
    explore(4, || {
        let world = World::mapped(1);
        assert!(!world.table.pin().slot(gpa(1)).unwrap().set_dirty());
        let world = Arc::new(world);
        let (found, (new, taken)) = race(&world, harvest, watch);
        assert!(found && new);
        assert_eq!(state(&world), CLEAN);
        taken
    })
    .are(&[true, false]);
}

/// The harvest saw a leaf that was still watched.
#[test]
fn a_page_that_is_harvested_beside_an_unwatch_keeps_the_right_to_write() {
    explore(4, || {
        let world = Arc::new(dirty());
        let (found, was_watched) = race(&world, harvest, unwatch);
        assert!(found && was_watched);
        assert_eq!(state(&world), (false, true, false));
    })
    .are(&[()]);
}

#[test]
fn behind_the_shootdown_of_a_harvest_no_write_goes_unnoticed() {
    explore(3, || {
        copy_behind(dirty(), |cpu| {
            let mut found = Bitmap::new(pages(1, 2));
            let harvested = cpu.pin().harvest(pages(1, 2), Mark::Dirty, &mut found);
            let (count, flush) = harvested.unwrap();
            assert_eq!(count, 1);
            flush
        })
    })
    .are(&[Ok(()), Err(Fixed::Dirtied)]);
}

/// A device writes the page and then notes it; who harvests it, and reads it behind the shoot-down, has what
/// was written, or the page is dirty anew.
#[test]
fn what_a_device_wrote_is_read_behind_a_harvest_or_noted_for_the_next() {
    explore(4, || {
        let world = dirty();
        world.table.pin().map(gpa(2), frame(2), PageSize::Size4K, loom_tests::RWX).unwrap();
        assert!(!world.table.pin().slot(gpa(2)).unwrap().set_accessed());
        let world = Arc::new(world);
        // That page 2 is not accessed any more stands for what is written to page 1, which is no plain cell
        //   here: it is read and written at the same time. To clear the bit takes no fence.
        let (seen, noted) = race(
            &world,
            |cpu| {
                assert!(harvest(cpu));
                !cpu.lookup(2).unwrap().accessed
            },
            |cpu| {
                let pin = cpu.pin();
                assert!(pin.slot(gpa(2)).unwrap().clear_accessed());
                pin.note_dirty(gpa(1)).unwrap()
            },
        );
        assert_eq!(state(&world), if noted == Noted::New { DIRTY } else { CLEAN });
        assert!(seen || noted == Noted::New);
        (seen, noted)
    })
    .are(&[(true, Noted::Already), (true, Noted::New), (false, Noted::New)]);
}
