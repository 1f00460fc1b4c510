//! Tables, readers, pins and flushes as values: who keeps what alive, what a panic leaves behind,
//! and what errors say.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use common::{Checked, GIB, MIB, PAGE, RWX, SMALL, at, dump, every_format, frame_at, pfn, range};
use slat::{
    Attr, Due, Format, FrameSource, HeapFrames, MapError, Mapped, Observer, ObserverId, PageSize,
    PageTable, Progress, Prot, Reader, Tracking,
    mmu::{Access, Mode},
};

/// Runs `work`, which panics, and says nothing of it.
fn panics<T>(work: impl FnOnce() -> T) {
    let payload = catch_unwind(AssertUnwindSafe(|| drop(work()))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"the sink gives up"));
}

fn give_up() {
    // Not a panic: the hook would print each of them.
    std::panic::resume_unwind(Box::new("the sink gives up"));
}

every_format! {
    fn a_sink_that_panics_leaves_everything_usable(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 4 * MIB);
        let all = range(0, 4 * MIB);
        let reader = table.reader();
        let pin = reader.pin();
        pin.map_range(all, pfn(0), RWX).unwrap();
        let pages = || (0..100).map(|page| at(page * PAGE));

        let mut observer = table.observer();
        assert_eq!(observer.enter(Tracking::On).due(), &Due::All);
        let mut calls = 0;
        panics(|| pin.unmap_range(all, |_| {
            calls += 1;
            if calls == 700 {
                give_up();
            }
        }));
        assert_eq!(pin.mapped(all).unwrap(), 1024 - 700, "the leaves up to then are unmapped");
        // It is as if the duty of what was unmapped was dropped.
        assert_eq!(observer.enter(Tracking::On).due(), &Due::All);
        panics(|| pin.unmap_many((700..800).map(|page| at(page * PAGE)), |_, _| give_up()));
        assert_eq!(observer.enter(Tracking::On).due(), &Due::All);
        assert_eq!(pin.mapped(all).unwrap(), 1024 - 701);
        panics(|| pin.lookup_many(pages(), |_, _| give_up()));
        let frames = pages().zip((0..).map(pfn));
        panics(|| pin.map_many(frames.clone(), RWX, |_, _| give_up()));
        assert_eq!(pin.mapped(all).unwrap(), 1024 - 700);
        assert_eq!(observer.enter(Tracking::On).due(), &Due::None, "nothing was taken away");
        // So does an iterator that panics.
        panics(|| pin.map_many(frames.clone().inspect(|_| give_up()), RWX, |_, _| ()));

        let mut new = 0;
        pin.map_many(frames, RWX, |_, mapped| new += u32::from(mapped == Ok(Mapped::New)));
        assert_eq!(new, 99);
        drop(pin);
        table.populate_pages(GIB, PAGE);
        let mut pin = reader.pin();
        pin.repin();
        assert_eq!(pin.map(at(GIB), pfn(1), SMALL, RWX), Ok(Mapped::New));
        drop(pin);
        // Nobody is left pinned or inside: all of it can be shot down, vacated and freed.
        let (_, flush) = reader.pin().unmap_range(range(0, 2 * GIB), drop).unwrap();
        flush.shootdown().wait(&|_: ObserverId| give_up()).unwrap();
        table.vacate(all).unwrap();
        assert_eq!(table.reclaim(&|_: ObserverId| give_up()).waiting, 0);
    }

    fn a_kick_that_panics_can_be_followed_by_one_that_does_not(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, 4 * MIB);
        table.map(0, 1);
        let reader = table.reader();
        let mut observers = [table.observer(), table.observer(), table.observer()];
        let ids = observers.each_ref().map(Observer::id);
        let inside = observers.each_mut().map(|observer| observer.enter(Tracking::On));
        let (_, flush) = reader.pin().unmap(at(0)).unwrap();
        // Begun here, waited for elsewhere: no observer is inside there.
        let mut shootdown = flush.shootdown();
        table.vacate(range(0, 4 * MIB)).unwrap();
        let waiting = table.stats().waiting;
        assert!(waiting > 0);

        panics(|| table.reclaim(&|_: ObserverId| give_up()));
        let mut kicked = Vec::new();
        let (kicks, is_kicked) = mpsc::channel();
        thread::scope(|scope| {
            let shootdown = &mut shootdown;
            scope.spawn(move || {
                for _ in 0..2 {
                    panics(|| shootdown.wait(&|_: ObserverId| give_up()));
                }
                shootdown.wait(&|id| kicks.send(id).unwrap()).unwrap();
            });
            // Each of them, though the ones before got no further than the first.
            kicked.extend(ids.map(|_| is_kicked.recv().unwrap()));
            drop(inside);
        });
        kicked.sort_unstable();
        assert_eq!(kicked, ids);
        assert_eq!(shootdown.poll(), Progress::Complete);
        let reclaimed = table.reclaim(&|_: ObserverId| give_up());
        assert_eq!((reclaimed.freed, reclaimed.waiting), (waiting, 0));
        table.populate_pages(0, 4 * MIB);
    }

    fn a_table_lives_as_long_as_its_last_handle_reader_or_observer(format: impl Format) {
        for order in 0..24 {
            let frames = Arc::new(HeapFrames::new(16));
            let table = PageTable::new(format, Arc::clone(&frames)).unwrap();
            table.populate_mapped(range(0, MIB), SMALL, pfn(0), RWX).unwrap();
            table.populate(range(2 * MIB, 2 * MIB), SMALL).unwrap();
            let other = table.clone();
            let reader = table.reader();
            assert_eq!(other.root(), reader.table().root());
            let mut observer = table.observer();
            // Something waits, for somebody who is gone by the time that it could be freed.
            let inside = observer.enter(Tracking::On);
            table.vacate(range(2 * MIB, 2 * MIB)).unwrap();
            drop(inside);
            assert_eq!(table.stats().waiting, 1);
            let mut handles = vec![Handle::Table(table), Handle::Table(other),
                Handle::Reader(reader), Handle::Observer(observer)];
            for left in (1..=4).rev() {
                for handle in &mut handles {
                    assert!(handle.works());
                }
                assert!(frames.free_frames() < 16);
                let next = handles.remove(order % left);
                thread::spawn(move || drop(next)).join().unwrap();
            }
            assert_eq!(frames.free_frames(), 16);
        }
    }

    fn a_reader_is_made_here_and_used_there(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, MIB);
        let readers: Vec<_> = (0..4).map(|_| table.reader()).collect();
        thread::scope(|scope| {
            for (page, reader) in (0..).zip(readers) {
                scope.spawn(move || {
                    let mapped = reader.pin().map(at(page * PAGE), pfn(page), SMALL, RWX);
                    assert_eq!(mapped, Ok(Mapped::New));
                });
            }
        });
        assert_eq!(table.pin().mapped(range(0, MIB)).unwrap(), 4);
    }

    fn pins_nest_and_end_in_any_order(format: impl Format) {
        let table = Checked::new(format, 16);
        table.populate_pages(0, MIB);
        let reader = table.reader();
        let outer = reader.pin();
        let slot = outer.slot(at(0)).unwrap();
        let mut inner = reader.pin();
        assert_eq!(inner.map(at(0), pfn(3), SMALL, RWX), Ok(Mapped::New));
        inner.repin();
        let slow = table.pin();
        assert_eq!(frame_at(&slow, 0), Some(3));
        assert_eq!(slot.mapping().map(|mapping| mapping.pfn), Some(pfn(3)));
        let mut third = reader.pin();
        drop(inner);
        assert!(!slot.set_dirty());
        drop(outer);
        third.repin();
        assert!(third.lookup(at(0)).unwrap().dirty);
        drop(third);
        assert_eq!(frame_at(&slow, 0), Some(3));
        assert_eq!(frame_at(&reader.pin(), 0), Some(3));
    }

    fn flushes_of_one_table_merge_and_of_two_do_not(format: impl Format) {
        let (table, other) = (Checked::new(format, 16), Checked::new(format, 16));
        for table in [&table, &other] {
            table.populate_mapped(range(0, 2 * MIB), SMALL, pfn(0), RWX).unwrap();
        }
        let clone = PageTable::clone(&table);
        let reader = clone.reader();
        let (pin, foreign) = (table.pin(), other.pin());
        let unmap = |page: u64| pin.unmap(at(page * PAGE)).unwrap().1;

        let mut flush = unmap(100);
        assert_eq!(flush.range(), Some(range(100 * PAGE, PAGE)));
        flush.merge(unmap(90)).unwrap();
        assert_eq!(flush.range(), Some(range(90 * PAGE, 11 * PAGE)));
        // Through another handle and another pin of the same table.
        flush.merge(reader.pin().unmap(at(120 * PAGE)).unwrap().1).unwrap();
        assert_eq!(flush.range(), Some(range(90 * PAGE, 31 * PAGE)));
        // Nothing changed: nothing to invalidate.
        let nothing = pin.unmap_range(range(90 * PAGE, PAGE), drop).unwrap().1;
        assert!(nothing.is_empty() && nothing.range().is_none());
        flush.merge(nothing).unwrap();
        assert_eq!(flush.range(), Some(range(90 * PAGE, 31 * PAGE)));
        assert!(pin.unmap_many([], |_, _| ()).is_empty());

        let (_, theirs) = foreign.unmap(at(0)).unwrap();
        let error = flush.merge(theirs).unwrap_err();
        assert_eq!(error.to_string(), "the flush belongs to another table");
        assert_eq!(error.0.range(), Some(range(0, PAGE)), "it comes back");
        assert_eq!(flush.range(), Some(range(90 * PAGE, 31 * PAGE)));
        let mut empty = pin.unmap_many([], |_, _| ());
        assert!(empty.merge(error.0).is_err(), "though one of them is empty");
        empty.merge(flush).unwrap();
        assert!(!empty.is_empty());
        drop(clone);
    }

    fn errors_name_the_address_and_what_was_found(format: impl Format) {
        let table = Checked::new(format, 5);
        table.populate_pages(0x3000, 2 * PAGE);
        table.map(0x3000, 0x77);
        let pin = table.pin();
        let map = |gpa: u64, frame, size, attr| {
            pin.map(at(gpa), pfn(frame), size, attr).unwrap_err().to_string()
        };
        assert_eq!(map(0x5000, 1, SMALL, RWX), "0x5000 is not populated");
        assert_eq!(map(0x3000, 1, SMALL, RWX), "0x3000 is mapped to 0x77 already");
        let wrong = map(0x4000, 512, PageSize::Size2M, RWX);
        assert_eq!(wrong, "0x4000 was populated for leaves of Size4K");
        let misaligned = map(0x4000, 5, PageSize::Size2M, RWX);
        assert_eq!(misaligned, "frame 0x5 is not aligned to a leaf of Size2M");
        let none = map(0x4000, 5, SMALL, Attr::new(Prot::empty()));
        assert_eq!(none, "a leaf needs at least one right");
        let outside = map(1 << 62, 5, SMALL, RWX);
        assert_eq!(outside, "0x4000000000000000 is not an input address of the table's format");
        let unmap = pin.unmap(at(0x4abc)).unwrap_err().to_string();
        assert_eq!(unmap, "0x4abc is not mapped");
        let denied = |gpa, access| pin.translate(at(gpa), 1, access).unwrap_err().to_string();
        assert_eq!(denied(0x4000, Prot::R), "0x4000 is not mapped");
        pin.protect(range(0x3000, PAGE), Prot::R).unwrap().1.range().unwrap();
        assert_eq!(denied(0x3000, Prot::W), "0x3000 allows Prot(R)");
        let overlap = table.populate(range(0x2000, 3 * PAGE), SMALL).unwrap_err();
        assert_eq!(overlap.to_string(), "0x3000 is populated already");
        let few = table.populate(range(GIB, GIB), SMALL).unwrap_err();
        assert_eq!(few.to_string(), "too few frames for tables");
        let why = std::error::Error::source(&few).unwrap().to_string();
        assert!(why.starts_with("513 frames are needed"), "{why}");
        let range = pin.map_range(range(0x4000, 3 * PAGE), pfn(0), RWX).unwrap_err();
        assert_eq!(range.to_string(), "stopped after 0 new pages");
        let source = std::error::Error::source(&range).unwrap().downcast_ref::<MapError>();
        assert_eq!(source, Some(&MapError::NotPopulated { gpa: at(0x5000) }));
        assert!(!format!("{table:?} {pin:?} {:?}", pin.slot(at(0))).is_empty());
        assert_eq!(dump(&table).len() % 512, 0);
    }
}

enum Handle<F: Format> {
    Table(PageTable<F, Arc<HeapFrames>>),
    Reader(Reader<F, Arc<HeapFrames>>),
    Observer(Observer<F, Arc<HeapFrames>>),
}

impl<F: Format> Handle<F> {
    fn works(&mut self) -> bool {
        match self {
            Self::Table(table) => table.pin().lookup(at(0)).is_some(),
            Self::Reader(reader) => reader.pin().lookup(at(0)).is_some(),
            Self::Observer(observer) => {
                let read = Access::READ.in_mode(Mode::Supervisor);
                observer.enter(Tracking::On).mmu().translate(at(0), read).is_ok()
            }
        }
    }
}
