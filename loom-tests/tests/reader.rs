//! Readers: made here, used there; and the end of a table.

use loom_tests::{Arc, World, explore, frame, gpa, thread};
use slat::{Mapped, PageSize};

#[test]
fn a_reader_made_on_one_thread_is_used_on_another() {
    explore(2, || {
        let world = World::populated();
        let reader = world.table.reader();
        assert_eq!(reader.pin().lookup(gpa(1)), None);
        let there = thread::spawn(move || {
            let mapped = reader.pin().map(gpa(1), frame(7), PageSize::Size4K, loom_tests::RWX);
            assert_eq!(mapped, Ok(Mapped::New));
            reader
        });
        let found = world.lookup(1).is_some();
        // And back again.
        let reader = there.join().unwrap();
        assert_eq!(reader.pin().lookup(gpa(1)).unwrap().pfn, frame(7));
        found
    })
    .are([true, false]);
}

#[test]
fn readers_come_and_go_at_the_same_time() {
    explore(2, || {
        let world = Arc::new(World::mapped(1));
        let there = Arc::clone(&world);
        let other = thread::spawn(move || there.table.reader().pin().lookup(gpa(1)).is_some());
        assert!(world.table.reader().pin().lookup(gpa(1)).is_some());
        assert!(other.join().unwrap());
    })
    .are([()]);
}

/// Its frames come back, though nobody is there to wait for the last reader.
#[test]
fn the_last_handle_frees_the_table_whoever_drops_it() {
    explore(2, || {
        let World { table, .. } = World::mapped(1);
        let readers = [table.reader(), table.reader()];
        let users = readers.map(|reader| {
            drop(reader.pin());
            thread::spawn(move || {
                let found = reader.pin().lookup(gpa(1)).is_some();
                drop(reader);
                found
            })
        });
        drop(table);
        for user in users {
            assert!(user.join().unwrap());
        }
    })
    .are([()]);
}
