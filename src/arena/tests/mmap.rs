//! The options of an arena, one by one, and what the kernel says of its memory.

use core::{ops::Range, ptr, slice};
use std::{
    format,
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    string::{String, ToString},
    thread,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::*;
use crate::{addr::PAGE_BYTES, arena::reservation::Reservation};

/// A tebibyte.
const HUGE: u64 = 1 << 28;

/// Returns what /proc/self/smaps says under `VmFlags` of the mapping that holds `address`.
fn vm_flags(address: usize) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().unwrap().split_once('-');
        let hex = |text| usize::from_str_radix(text, 16);
        if let Some((Ok(start), Ok(end))) = range.map(|(start, end)| (hex(start), hex(end))) {
            inside = (start..end).contains(&address);
        }
        if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return format!("{flags} ");
        }
    }
    panic!("{address:#x} is not mapped");
}

/// Tells whether the page at `address` exists.
fn is_resident(address: usize) -> bool {
    let mut word = [0; 8];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut word, address as u64 / PAGE_BYTES * 8).unwrap();
    u64::from_ne_bytes(word) >> 63 != 0
}

fn address_of(arena: &Arena, frame: u64) -> usize {
    arena.as_ptr().addr() + (frame * PAGE_BYTES) as usize
}

/// A second mapping of an arena's file, as another process would make it.
struct Second<'a> {
    tables: &'a [Table],
}

impl Second<'_> {
    fn new(arena: &Arena, access: ProtFlags) -> rustix::io::Result<Self> {
        let (length, fd) = (arena.len_bytes(), arena.fd().unwrap());
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, fd, 0) }?;
        // SAFETY: that many tables were just mapped there, and are until the drop.
        let tables = unsafe { slice::from_raw_parts(start.cast(), arena.capacity() as usize) };
        Ok(Self { tables })
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let start = self.tables.as_ptr().cast_mut().cast();
        // SAFETY: the mapping is this value's own, and so were its borrows.
        unsafe { munmap(start, size_of_val(self.tables)) }.unwrap();
    }
}

#[test]
fn an_arena_keeps_its_promises() {
    let base = HostPfn::new(0x8_0000);
    let options = ArenaOptions::new(7).with_base(base);
    for options in [
        options,
        options.with_prefault(),
        options.with_memfd(),
        options.with_memfd().with_prefault(),
        // SAFETY: nobody else writes to it.
        unsafe { options.with_writable_memfd() },
    ] {
        keeps_its_promises(&options.create().unwrap(), base, 7);
    }
    keeps_its_promises(&Arena::new(5).unwrap(), HostPfn::new(0x100), 5);
}

#[test]
fn frame_numbers_begin_where_the_caller_says() {
    for base in [0, 1, 0x1234, (1 << 40) - 8, (1 << 52) - 1, 1 << 63, u64::MAX - 8] {
        let arena = ArenaOptions::new(8).with_base(HostPfn::new(base)).create().unwrap();
        assert_eq!((arena.base().get(), arena.capacity(), arena.len_bytes()), (base, 8, 8 * 4096));
        assert!(arena.fd().is_none());
        for (index, pfn) in frames(&take(&arena, 8)).into_iter().enumerate() {
            assert_eq!(pfn.get(), base + index as u64);
            let place = &raw const *table(&arena, pfn);
            assert_eq!(place.addr(), address_of(&arena, index as u64));
        }
    }
}

#[test]
fn senseless_numbers_and_refused_calls_are_told_apart() {
    let error = |options: ArenaOptions| options.create().map(drop).unwrap_err();
    assert_eq!(error(ArenaOptions::new(0)), ArenaError::Empty);
    let base = HostPfn::new(u64::MAX - 1);
    let wraps = ArenaError::Wraps { base, capacity: 2 };
    assert_eq!(error(ArenaOptions::new(2).with_base(base)), wraps);
    assert!(ArenaOptions::new(1).with_base(base).create().is_ok());
    for capacity in [1 << 51, 1 << 52, 1 << 60, u64::MAX - 0x100] {
        assert_eq!(error(ArenaOptions::new(capacity)), ArenaError::TooLarge { capacity });
    }
    for options in [ArenaOptions::new(1 << 50), ArenaOptions::new((1 << 51) - 1).with_huge_pages()]
    {
        let refused = error(options);
        let errno = rustix::io::Errno::NOMEM.raw_os_error();
        assert_eq!(refused, ArenaError::System { call: "mmap", errno });
        assert!(refused.to_string().starts_with("mmap failed: "), "{refused}");
    }
}

#[test]
fn a_child_of_the_process_does_not_get_the_memory() {
    for options in [ArenaOptions::new(3), ArenaOptions::new(3).with_memfd()] {
        let arena = options.create().unwrap();
        let flags = vm_flags(arena.as_ptr().addr());
        assert!(flags.contains(" dc "), "{flags}");
    }
}

#[test]
fn huge_pages_are_asked_for_and_aligned() {
    for options in [ArenaOptions::new(1025), ArenaOptions::new(1025).with_memfd()] {
        let arena = match options.with_huge_pages().create() {
            Ok(arena) => arena,
            Err(ArenaError::System { call: "madvise(MADV_HUGEPAGE)", .. }) => {
                std::eprintln!("this kernel has no transparent huge pages: nothing to test");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(arena.as_ptr().addr().is_multiple_of(2 << 20));
        assert_eq!(arena.len_bytes(), 1025 * 4096);
        let flags = vm_flags(arena.as_ptr().addr());
        assert!(flags.contains(" hg ") && flags.contains(" dc "), "{flags}");
        keeps_its_promises(&arena, HostPfn::new(0x100), 1025);
    }
}

/// Pages that share no huge page with what lies before or after their mapping of 4096 pages: where
/// huge pages are always on, a neighbour's may reach into it.
const INNER: Range<u64> = 1024..3072;

#[test]
fn memory_exists_from_its_first_use_on_or_at_once() {
    for options in [ArenaOptions::new(4096), ArenaOptions::new(4096).with_memfd()] {
        let prefaulted = options.with_prefault().create().unwrap();
        assert!((0..4096).all(|frame| is_resident(address_of(&prefaulted, frame))));
        let lazy = options.create().unwrap();
        let untouched = || !INNER.into_iter().any(|frame| is_resident(address_of(&lazy, frame)));
        assert!(untouched());
        // Neither taking frames nor giving them back touches them.
        let runs = take(&lazy, 4096);
        give(&lazy, &runs, Content::Unknown);
        assert!(untouched());
    }
}

#[test]
fn touching_makes_memory_exist_where_the_kernel_cannot() {
    let mut memory = Reservation::new(4096 * 4096).unwrap();
    let page = |index: u64| memory.start().as_ptr().addr() + index as usize * 4096;
    assert!(!INNER.into_iter().any(|index| is_resident(page(index))));
    let first = page(0);
    memory.touch();
    assert!((0..4096).all(|index| is_resident(first + index * 4096)));
}

#[test]
fn a_tebibyte_costs_what_is_used_of_it() {
    let options = ArenaOptions::new(HUGE);
    for options in [options, options.with_memfd(), options.with_huge_pages()] {
        let arena = options.create().unwrap();
        let runs = take(&arena, 1);
        scribble(&arena, &runs);
        assert!(is_resident(address_of(&arena, 0)));
        assert!([HUGE / 2, HUGE - 1].iter().all(|&frame| !is_resident(address_of(&arena, frame))));
        assert_eq!(arena.free_frames(), HUGE - 1);
        give(&arena, &runs, Content::Unknown);
        // All of it at once: of what is zeroed only the one frame was used.
        let runs = take(&arena, HUGE);
        assert_eq!(runs, [FrameRun { first: arena.base(), count: HUGE }]);
        assert!(holds(table(&arena, arena.base()), Entry::EMPTY));
        assert!([HUGE / 2, HUGE - 1].iter().all(|&frame| !is_resident(address_of(&arena, frame))));
        let last = arena.base().checked_add(HUGE - 1).unwrap();
        assert!(holds(table(&arena, last), Entry::EMPTY));
    }
}

#[test]
fn a_second_mapping_of_the_memfd_shows_the_same_words() {
    let arena = ArenaOptions::new(4).with_memfd().create().unwrap();
    let second = Second::new(&arena, ProtFlags::READ).unwrap();
    for (index, pfn) in frames(&take(&arena, 4)).into_iter().enumerate() {
        let entry = Entry::from_raw((0x1000 * (index as u64 + 1)) | 7);
        table(&arena, pfn).fill(|_| entry);
        assert!(holds(&second.tables[index], entry));
    }
}

#[test]
fn nobody_else_writes_to_a_memfd_or_cuts_it() {
    let arena = ArenaOptions::new(4).with_memfd().create().unwrap();
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    assert!(file.write_at(&[7], 0).is_err());
    assert!(file.set_len(4096).is_err() && file.set_len(1 << 20).is_err());
    assert_eq!(file.metadata().unwrap().len(), 4 * 4096);
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    assert!(rustix::fs::fallocate(file.as_fd(), hole, 0, 4096).is_err());
    assert!(Second::new(&arena, ProtFlags::READ | ProtFlags::WRITE).is_err());
}

#[test]
fn a_writable_memfd_can_be_written_to_but_not_cut() {
    // SAFETY: the test writes to it while no table is walked.
    let arena = unsafe { ArenaOptions::new(2).with_writable_memfd() }.create().unwrap();
    let runs = take(&arena, 2);
    let second = Second::new(&arena, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    second.tables[1].fill(|_| JUNK);
    assert!(holds(table(&arena, frames(&runs)[1]), JUNK));
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    assert!(file.set_len(4096).is_err());
}

#[test]
fn dropping_an_arena_unmaps_it() {
    let arena = ArenaOptions::new(4).with_memfd().with_huge_pages().create().unwrap();
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    let inode = format!(" {} ", file.metadata().unwrap().ino());
    let is_mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| line.contains(&inode) && line.contains("memfd:slat"))
    };
    assert!(is_mapped());
    drop(arena);
    assert!(!is_mapped());
}

#[test]
fn threads_never_get_the_same_frame() {
    let arena = Arena::new(400).unwrap();
    let mut all: Vec<HostPfn> = thread::scope(|scope| {
        let worker = || {
            let mut kept = Vec::new();
            for count in 1..=13 {
                let runs = take(&arena, count);
                scribble(&arena, &runs);
                if count % 2 == 0 {
                    give(&arena, &runs, Content::Unknown);
                } else {
                    kept.extend(frames(&runs));
                }
            }
            kept
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|&pfn| holds(table(&arena, pfn), JUNK)));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4 * 49);
    assert_eq!(arena.free_frames(), 400 - 4 * 49);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "is not one of this arena's")]
fn a_foreign_frame_number_is_noticed_in_debug_builds() {
    let arena = Arena::new(2).unwrap();
    // It panics before it makes a reference.
    let _ = table(&arena, HostPfn::new(0x102));
}
