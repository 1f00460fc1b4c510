//! Readers: made here, used there; and the end of a table.

use std::sync::Arc as StdArc;

use loom_tests::{Arc, RWX, World, explore, format, frame, gpa, pages, thread};
use slat::{Format, FrameSource, HeapFrames, Mapped, PageSize, PageTable};

#[test]
fn a_reader_made_on_one_thread_is_used_on_another() {
    explore(3, || {
        let world = World::populated();
        let reader = world.table.reader();
        assert_eq!(reader.pin().lookup(gpa(1)), None);
        let there = thread::spawn(move || {
            let mapped = reader.pin().map(gpa(1), frame(7), PageSize::Size4K, RWX);
            assert_eq!(mapped, Ok(Mapped::New));
            reader
        });
        let found = world.lookup(1).is_some();
        // And back again.
        let reader = there.join().unwrap();
        assert_eq!(reader.pin().lookup(gpa(1)).unwrap().pfn, frame(7));
        found
    })
    .are(&[true, false]);
}

#[test]
fn readers_come_and_go_at_the_same_time() {
    explore(3, || {
        let world = Arc::new(World::mapped(1));
        let there = Arc::clone(&world);
        let other = thread::spawn(move || there.table.reader().pin().lookup(gpa(1)).is_some());
        assert!(world.table.reader().pin().lookup(gpa(1)).is_some());
        assert!(other.join().unwrap());
    })
    .are(&[()]);
}

/// Its frames come back, though nobody is there to wait for the last reader.
#[test]
fn the_last_handle_frees_the_table_whoever_drops_it() {
    explore(3, || {
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
    .are(&[()]);
}

/// Two tables share a source that has frames for one.
#[test]
fn frames_of_a_table_that_is_dropped_serve_another() {
    explore(3, || {
        let source = StdArc::new(HeapFrames::new(u64::from(format().levels().count())));
        let make = || {
            let table = PageTable::new(format(), StdArc::clone(&source)).ok()?;
            // Marks in the leaf table, so that it has to be cleaned before it is used again.
            table.populate(pages(1, 2), PageSize::Size4K).ok()?;
            Some(table)
        };
        let table = make().unwrap();
        let dropper = thread::spawn(move || drop(table));
        let other = make();
        if let Some(other) = &other {
            let pin = other.pin();
            let map = |page| pin.map(gpa(page), frame(7), PageSize::Size4K, RWX).is_ok();
            assert_eq!([map(1), map(2)], [true, false]);
        }
        dropper.join().unwrap();
        let made = other.is_some();
        drop(other);
        assert_eq!(source.free_frames(), source.capacity());
        made
    })
    .are(&[true, false]);
}
