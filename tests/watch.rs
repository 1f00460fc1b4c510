//! Writes that are watched: the first one to a page faults, is fixed and noted; nothing else shows.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    BASE, Checked, Counting, GIB, MIB, PAGE, RWX, SMALL, Space, TIB, at, dump, every_format, pfn,
    range, tables_visited,
};
use slat::{
    Attr, Entry, FixError, Fixed, Format, FrameSource, HeapFrames, MapError, Mapped, NoteError,
    Noted, PageSize, PageTable, Pinned, Prot, ProtectError, Scope, Tracking, WatchError,
    mmu::{Access, Cause, Mode},
};

const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);
const READ: Access = Access::READ.in_mode(Mode::Supervisor);

/// Some pages across the border of two leaf tables, all mapped to `pfn(0x700)` and on.
const START: u64 = 2 * MIB - 4 * PAGE;
const PAGES: u64 = 8;

/// Accesses a page as a guest whose caches are empty.
fn access<F: Format, S: FrameSource>(
    table: &PageTable<F, S>,
    gpa: u64,
    access: Access,
) -> Result<(), Cause> {
    let mut observer = table.observer();
    let inside = observer.enter(Tracking::On);
    inside.mmu().translate(at(gpa), access).map(drop).map_err(|fault| fault.cause())
}

fn some_pages<F: Format>(format: F) -> Checked<F> {
    let table = Checked::new(format, 24);
    table.populate_pages(START, PAGES * PAGE);
    table.pin().map_range(range(START, PAGES * PAGE), pfn(0x700), RWX).unwrap();
    table
}

/// Watches; nobody's caches hold anything.
#[track_caller]
fn watch<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>, start: u64, bytes: u64) -> u64 {
    pin.watch(range(start, bytes)).unwrap().0
}

/// WATCHED, W and D of the leaf of `gpa`.
fn state<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>, gpa: u64) -> (bool, bool, bool) {
    let slot = pin.slot(at(gpa)).unwrap();
    let leaf = pin.walk(at(gpa), slat::Level::L1).last().unwrap().entry;
    (slot.watched(), leaf.has(2), slot.dirty())
}

every_format! {
    #![and_without_bits]

    fn the_first_write_to_a_watched_page_faults_and_is_noted(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        assert_eq!(watch(&pin, START, PAGES * PAGE), PAGES);
        assert_eq!(watch(&pin, START, PAGES * PAGE), 0, "they are watched already");
        for page in 0..PAGES {
            let gpa = START + page * PAGE;
            assert_eq!(state(&pin, gpa), (true, false, false));
            assert_eq!(access(&table, gpa, READ), Ok(()));
            assert_eq!(access(&table, gpa, WRITE), Err(Cause::Rights));
            assert_eq!(state(&pin, gpa), (true, false, false), "a fault changes nothing");
            assert_eq!(pin.fix_write(at(gpa + 0x123)), Ok(Fixed::Dirtied));
            assert_eq!(state(&pin, gpa), (true, true, true));
            assert!(pin.slot(at(gpa)).unwrap().accessed());
            assert_eq!(access(&table, gpa, WRITE), Ok(()));
            assert_eq!(pin.fix_write(at(gpa)), Ok(Fixed::Already), "it was spurious");
        }
    }

    fn what_a_watched_page_is_mapped_to_and_allows_does_not_change(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        let before = pin.mappings(range(START, PAGES * PAGE)).unwrap().collect::<Vec<_>>();
        watch(&pin, START, PAGES * PAGE);
        let after = pin.mappings(range(START, PAGES * PAGE)).unwrap().collect::<Vec<_>>();
        assert_eq!(before, after);
        assert_eq!(pin.map(at(START), pfn(0x700), SMALL, RWX), Ok(Mapped::Same));
        let read_only = Attr::new(Prot::RX);
        let there = pin.lookup(at(START)).unwrap();
        let other = pin.map(at(START), pfn(0x700), SMALL, read_only);
        assert_eq!(other, Err(MapError::Occupied(there)));
        let run = pin.translate(at(START), PAGES * PAGE, Prot::RW).unwrap();
        assert_eq!((run.pfn, run.len), (pfn(0x700), PAGES * PAGE));
        assert_eq!(pin.protect(range(START, PAGE), Prot::RWX).unwrap().0, 0);
        let (old, _flush) = pin.unmap(at(START)).unwrap();
        assert_eq!(old, there);
    }

    fn a_page_that_is_dirty_stays_so_and_writable(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        assert!(!pin.slot(at(START)).unwrap().set_dirty());
        let (pages, flush) = pin.watch(range(START, PAGE)).unwrap();
        assert_eq!((pages, flush.is_empty()), (1, true), "no right was taken");
        assert_eq!(state(&pin, START), (true, true, true));
        assert_eq!(pin.fix_write(at(START)), Ok(Fixed::Already));
        let (pages, flush) = pin.watch(range(START, 3 * PAGE)).unwrap();
        assert_eq!(pages, 2);
        assert_eq!(flush.range(), Some(range(START + PAGE, 2 * PAGE)));
        assert_eq!(flush.scope(), Scope::Leaves);
    }

    fn unwatching_gives_the_right_back_and_keeps_what_is_dirty(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        watch(&pin, START, PAGES * PAGE);
        pin.fix_write(at(START + PAGE)).unwrap();
        assert_eq!(pin.unwatch(range(START, 3 * PAGE)), Ok(3));
        assert_eq!(pin.unwatch(range(START, 3 * PAGE)), Ok(0));
        assert_eq!(state(&pin, START), (false, true, false));
        assert_eq!(state(&pin, START + PAGE), (false, true, true));
        assert_eq!(state(&pin, START + 3 * PAGE), (true, false, false));
        assert_eq!(access(&table, START, WRITE), Ok(()));
        assert_eq!(pin.fix_write(at(START)), Ok(Fixed::Already));
        // From here on the MMU notes writes, or nobody does.
        let keeps_bits = format.root_pointer(pfn(0), Tracking::On)
            != format.root_pointer(pfn(0), Tracking::Off)
            || format.name() != "ept";
        assert_eq!(state(&pin, START).2, keeps_bits);
    }

    fn what_is_no_watched_page_is_not_fixed_and_stays_as_it_is(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        watch(&pin, START, PAGES * PAGE);
        let _ = pin.protect(range(START, PAGE), Prot::RX).unwrap();
        let _ = pin.unmap(at(START + PAGE)).unwrap();
        let before = dump(&table);
        let denied = FixError::Denied { gpa: at(START + 1), have: Prot::RX };
        assert_eq!(pin.fix_write(at(START + 1)), Err(denied));
        let unpopulated = START - PAGE;
        for gpa in [START + PAGE, unpopulated, 3 * GIB].map(at) {
            assert_eq!(pin.fix_write(gpa), Err(FixError::NotMapped { gpa }));
            assert_eq!(pin.note_dirty(gpa), Err(NoteError::NotMapped { gpa }));
        }
        for gpa in Space::of(&format).outside().into_iter().map(at) {
            assert_eq!(pin.fix_write(gpa), Err(FixError::OutOfRange { gpa }));
            assert_eq!(pin.note_dirty(gpa), Err(NoteError::OutOfRange { gpa }));
        }
        assert!(dump(&table) == before);
        // Nor is what is not mapped, or not writable, watched.
        assert_eq!(watch(&pin, START - PAGE, 4 * PAGE), 0);
        assert_eq!(pin.unwatch(range(START - PAGE, 3 * PAGE)), Ok(0));
        assert!(dump(&table) == before);
    }

    fn rights_that_change_take_the_watch_with_them_or_leave_it(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        watch(&pin, START, PAGES * PAGE);
        pin.fix_write(at(START)).unwrap();
        let (pages, flush) = pin.protect(range(START, 2 * PAGE), Prot::RW).unwrap();
        assert_eq!((pages, flush.range()), (2, Some(range(START, 2 * PAGE))));
        assert_eq!(state(&pin, START), (true, true, true));
        assert_eq!(state(&pin, START + PAGE), (true, false, false));
        let (pages, _flush) = pin.protect(range(START, 2 * PAGE), Prot::R).unwrap();
        assert_eq!(pages, 2);
        assert_eq!(state(&pin, START), (false, false, true));
        assert_eq!(state(&pin, START + PAGE), (false, false, false));
        // What may be written anew is not watched until somebody says so.
        assert_eq!(pin.protect(range(START, 2 * PAGE), Prot::RWX).unwrap().0, 2);
        assert_eq!(state(&pin, START), (false, true, true));
        assert_eq!(state(&pin, START + PAGE), (false, true, false));
        assert_eq!(watch(&pin, START, PAGES * PAGE), 2);
    }

    fn software_that_sets_or_clears_dirty_gives_or_takes_the_right(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        watch(&pin, START, PAGES * PAGE);
        let slot = pin.slot(at(START)).unwrap();
        assert!(!slot.set_dirty());
        assert_eq!(state(&pin, START), (true, true, true));
        assert!(slot.set_dirty());
        assert!(slot.clear_dirty());
        assert_eq!(state(&pin, START), (true, false, false));
        assert!(!slot.clear_dirty());
        assert!(!slot.set_accessed());
        assert!(slot.clear_accessed());
        assert_eq!(access(&table, START, WRITE), Err(Cause::Rights));
        // A log of the MMU's.
        assert_eq!(pin.note_dirty(at(START + 8)), Ok(Noted::New));
        assert_eq!(state(&pin, START), (true, true, true));
        assert_eq!(pin.note_dirty(at(START)), Ok(Noted::Already));
        // Whether or not the page is watched, or may be written now.
        let _ = pin.protect(range(START, 2 * PAGE), Prot::R).unwrap();
        assert_eq!(pin.note_dirty(at(START + PAGE)), Ok(Noted::New));
        assert_eq!(state(&pin, START + PAGE), (false, false, true));
    }

    fn a_dirty_bit_of_a_watched_page_comes_back_when_it_is_unmapped(format: impl Format) {
        let table = some_pages(format);
        let pin = table.pin();
        watch(&pin, START, PAGES * PAGE);
        pin.fix_write(at(START + PAGE)).unwrap();
        let mut dirty = Vec::new();
        let (pages, _flush) = pin.unmap_range(range(START, PAGES * PAGE), |old| {
            assert_eq!(old.attr, RWX);
            dirty.push(old.dirty);
        }).unwrap();
        assert_eq!(pages, PAGES);
        assert_eq!(dirty.iter().filter(|&&dirty| dirty).count(), 1);
        assert!(dirty[1]);
        let left = pin.walk(at(START), slat::Level::L1).last().unwrap().entry;
        assert_eq!(left, Entry::EMPTY);
    }

    fn a_large_leaf_is_watched_and_fixed_whole_and_never_cut(format: impl Format) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            if !format.supports(size) {
                continue;
            }
            let table = Checked::new(format, 24);
            let (first, bytes) = (size.bytes(), size.bytes());
            table.populate(range(first, bytes), size).unwrap();
            table.populate_pages(first - PAGE, PAGE);
            let pin = table.pin();
            pin.map(at(first - PAGE), pfn(0x11), SMALL, RWX).unwrap();
            pin.map(at(first), BASE, size, RWX).unwrap();

            let before = dump(&table);
            let cut = WatchError::CutsLarge { gpa: at(first) };
            assert_eq!(pin.watch(range(first - PAGE, 2 * PAGE)).unwrap_err(), cut);
            assert_eq!(pin.unwatch(range(first - PAGE, 2 * PAGE)), Err(cut));
            assert!(dump(&table) == before);

            let both = range(first - PAGE, bytes + PAGE);
            let (pages, flush) = pin.watch(both).unwrap();
            assert_eq!((pages, flush.range()), (size.pages() + 1, Some(both)));
            let inside = first + bytes - 8;
            assert_eq!(access(&table, inside, WRITE), Err(Cause::Rights));
            assert_eq!(pin.fix_write(at(inside)), Ok(Fixed::Dirtied));
            assert_eq!(pin.fix_write(at(first)), Ok(Fixed::Already));
            assert_eq!(access(&table, inside, WRITE), Ok(()));
            assert_eq!(state(&pin, first), (true, true, true));
            assert_eq!(state(&pin, first - PAGE), (true, false, false));
            assert_eq!(pin.map(at(first), BASE, size, RWX), Ok(Mapped::Same));
            assert_eq!(pin.unwatch(both), Ok(size.pages() + 1));
            assert_eq!(pin.lookup(at(first)).unwrap().attr, RWX);
        }
    }

    fn a_range_that_is_no_input_is_refused(format: impl Format) {
        let table = some_pages(format);
        let space = Space::of(&format);
        let pin = table.pin();
        if space.last_low_page() + 2 * PAGE > space.last_low_page() {
            let range = range(space.last_low_page(), 2 * PAGE);
            assert_eq!(pin.watch(range).unwrap_err(), WatchError::OutOfRange { range });
            assert_eq!(pin.unwatch(range), Err(WatchError::OutOfRange { range }));
            assert_eq!(
                pin.protect(range, Prot::R).unwrap_err(),
                ProtectError::OutOfRange { range }
            );
        }
    }

    fn holes_of_any_size_cost_no_more_than_the_tables_around_them(format: impl Format) {
        let table = Checked::with(format, Counting(HeapFrames::with_base(BASE, 24).unwrap()));
        let all = range(0, 100 * TIB);
        table.populate(range(0, 4 * PAGE), SMALL).unwrap();
        table.populate(range(100 * TIB - 4 * PAGE, 4 * PAGE), SMALL).unwrap();
        let pin = table.pin();
        pin.map_range(range(0, 4 * PAGE), pfn(1), RWX).unwrap();
        let visited = tables_visited(|| {
            assert_eq!(pin.watch(all).unwrap().0, 4);
            assert_eq!(pin.unwatch(all), Ok(4));
        });
        assert!(visited < 64, "{visited} tables");
    }
}
