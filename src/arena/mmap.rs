//! The frame source for processes: one reservation of memory.
//!
//! An [`Arena`] reserves addresses for all its frames at once and touches none of them: memory that
//! was never used is zero, and exists from its first use on. So an arena of a tebibyte costs nothing
//! until tables are made in it. Frame number and address are a constant apart, and
//! [`FrameSource::table`] is an addition.
//!
//! Frames that come back unclean are zeroed with stores when they are handed out again. Giving them
//! back to the kernel (`MADV_DONTNEED`) to get zeroed ones is not done: a page fault costs more than
//! the stores do, and a device that has the memory pinned would go on walking the old pages.

#![expect(unsafe_code, reason = "a frame number stands for memory")]

use alloc::vec::Vec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{
    Content, FrameRun, FrameSource, Hint, OutOfFrames,
    free::FreeFrames,
    reservation::{self, Reservation},
};
use crate::{
    addr::{HostPfn, PAGE_BYTES},
    entry::Entry,
    level::SLOTS,
    sync::Mutex,
    table::Table,
};

/// Why an [`Arena`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// No frames were asked for.
    #[error("an arena has at least one frame")]
    Empty,
    /// The frame numbers would go past 2^64.
    #[error("{capacity} frames from {base} on go past the last frame number")]
    Wraps {
        /// The first frame's number.
        base: HostPfn,
        /// How many frames.
        capacity: u64,
    },
    /// The frames are more bytes than a process has addresses.
    #[error("{capacity} frames are more than the address space holds")]
    TooLarge {
        /// How many frames.
        capacity: u64,
    },
    /// The kernel refused.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    System {
        /// The system call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
}

/// Which memory an arena is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Private,
    /// A memfd that nobody else can write to.
    ReadOnlyMemfd,
    /// A memfd that whoever has the descriptor can write to.
    WritableMemfd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    Base,
    Huge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backed {
    AtFirstUse,
    AtOnce,
}

/// How an [`Arena`] is made.
///
/// ```
/// use slat::{ArenaOptions, FrameSource, HostPfn};
///
/// let arena = ArenaOptions::new(512)
///     .with_base(HostPfn::new(0x8_0000))
///     .with_huge_pages()
///     .create()?;
/// assert_eq!(arena.base(), HostPfn::new(0x8_0000));
/// assert_eq!(arena.free_frames(), 512);
/// # Ok::<(), slat::ArenaError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ArenaOptions {
    capacity: u64,
    base: HostPfn,
    memory: Memory,
    pages: Pages,
    backed: Backed,
}

impl ArenaOptions {
    /// Describes an arena of `capacity` frames of private memory, numbered from 0x100 on.
    pub const fn new(capacity: u64) -> Self {
        Self {
            capacity,
            base: HostPfn::new(0x100),
            memory: Memory::Private,
            pages: Pages::Base,
            backed: Backed::AtFirstUse,
        }
    }

    /// Returns the same with the frames numbered from `base` on: the number under which hardware that
    /// walks the tables finds the first one. For a guest's own page tables that is the
    /// guest-physical page where the arena is mapped.
    pub const fn with_base(self, base: HostPfn) -> Self {
        Self { base, ..self }
    }

    /// Returns the same, aligned to 2 MiB and in transparent huge pages where the kernel has them
    /// free.
    pub const fn with_huge_pages(self) -> Self {
        Self { pages: Pages::Huge, ..self }
    }

    /// Returns the same with all memory allocated when the arena is created, so that no table waits
    /// for the kernel later.
    pub const fn with_prefault(self) -> Self {
        Self { backed: Backed::AtOnce, ..self }
    }

    /// Returns the same in a memfd, which other mappings can be made of, to read.
    ///
    /// The file is sealed: it keeps its size, and nobody can write to it except through the arena's
    /// own mapping ([`Arena::as_ptr`]), which is the one to give to a KVM memslot of this process.
    pub const fn with_memfd(self) -> Self {
        Self { memory: Memory::ReadOnlyMemfd, ..self }
    }

    /// Returns the same in a memfd that can also be written to through the descriptor and through
    /// other mappings: for another process whose memslot holds the tables.
    ///
    /// # Safety
    /// Whoever gets hold of [`Arena::fd`] writes to the file only as an MMU does: it sets accessed
    /// and dirty bits in present entries, atomically. It punches no holes in it.
    pub const unsafe fn with_writable_memfd(self) -> Self {
        Self { memory: Memory::WritableMemfd, ..self }
    }

    /// Makes the arena.
    ///
    /// # Errors
    /// [`ArenaError`] if the numbers make no sense or the kernel refuses a call.
    pub fn create(self) -> Result<Arena, ArenaError> {
        let Self { capacity, base, .. } = self;
        if capacity == 0 {
            return Err(ArenaError::Empty);
        }
        if base.checked_add(capacity).is_none() {
            return Err(ArenaError::Wraps { base, capacity });
        }
        let bytes = capacity
            .checked_mul(PAGE_BYTES)
            .and_then(|bytes| isize::try_from(bytes).ok())
            .ok_or(ArenaError::TooLarge { capacity })?;
        let (memory, memfd) = self.reserve(bytes.cast_unsigned())?;

        let first: *const Table = memory.start().cast().as_ptr();
        let mut free = FreeFrames::default();
        free.put(FrameRun { first: base, count: capacity }, Content::Zero);
        Ok(Arena {
            frame_zero: first.wrapping_sub(base.get() as usize),
            base,
            capacity,
            memory,
            memfd,
            free: Mutex::new(free),
        })
    }

    fn reserve(self, bytes: usize) -> Result<(Reservation, Option<OwnedFd>), ArenaError> {
        let mut memory = match self.pages {
            Pages::Base => Reservation::new(bytes)?,
            Pages::Huge => Reservation::aligned(bytes)?,
        };
        let memfd = match self.memory {
            Memory::Private => None,
            Memory::ReadOnlyMemfd | Memory::WritableMemfd => Some(reservation::make_memfd(bytes)?),
        };
        if let Some(memfd) = &memfd {
            memory.back_with(memfd.as_fd())?;
            // Only now: the arena's own mapping must be writable.
            if self.memory == Memory::ReadOnlyMemfd {
                reservation::forbid_writing(memfd)?;
            }
        }
        memory.exclude_from_fork()?;
        if self.pages == Pages::Huge {
            memory.prefer_huge_pages()?;
        }
        if self.backed == Backed::AtOnce {
            memory.prefault()?;
        }
        Ok((memory, memfd))
    }
}

/// A frame source for processes: one reservation of memory, of which only what is used exists. On
/// Linux, with the feature `std`.
///
/// A child of the process does not inherit the memory, and must not touch the arena. Dropping the
/// arena unmaps it, so whatever hardware walks its tables must have stopped before.
///
/// ```
/// use slat::{Arena, FrameSource};
///
/// let arena = Arena::new(1 << 28)?; // a tebibyte of tables, none of which exists yet
/// assert_eq!(arena.free_frames(), 1 << 28);
/// # Ok::<(), slat::ArenaError>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    /// Where frame number 0 would lie; only offsets that lead into `memory` are ever used.
    frame_zero: *const Table,
    base: HostPfn,
    capacity: u64,
    /// `capacity` tables, zero at first.
    memory: Reservation,
    memfd: Option<OwnedFd>,
    /// The frames `base..base + capacity` that are not handed out, and no others.
    free: Mutex<FreeFrames>,
}

// SAFETY: `frame_zero` points into `memory`, which may itself be sent.
unsafe impl Send for Arena {}
// SAFETY: a shared arena gives away shared tables, whose slots are atomic; the rest is `Sync`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an arena of `capacity` frames, numbered from 0x100 on; see [`ArenaOptions`] for more.
    ///
    /// # Errors
    /// [`ArenaError`] if the number makes no sense or the kernel refuses a call.
    pub fn new(capacity: u64) -> Result<Self, ArenaError> {
        ArenaOptions::new(capacity).create()
    }

    /// Returns the first frame's number.
    #[must_use]
    pub const fn base(&self) -> HostPfn {
        self.base
    }

    /// Returns the number of frames, free or not.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns the address of the first frame.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start().cast().as_ptr()
    }

    /// Returns how many bytes there are from [`as_ptr`](Self::as_ptr) on.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Returns the memfd that the frames are in, if one was asked for; the first frame is at its
    /// start.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(OwnedFd::as_fd)
    }

    /// Returns the tables of a run that is the caller's.
    ///
    /// # Safety
    /// As for [`FrameSource::table`], for every frame of the run.
    unsafe fn tables(&self, run: FrameRun) -> impl Iterator<Item = &Table> {
        let first = run.first.get();
        // SAFETY: the caller's promise is the same.
        (first..first + run.count).map(|number| unsafe { self.table(HostPfn::new(number)) })
    }
}

// SAFETY:
// 1. A frame is in `free` or handed out, never both (invariant of `Arena::free`). The memory is
//    private to the process, or in a file that only the arena's mapping can write to, or the caller of
//    `with_writable_memfd` vouches for the other writers.
// 2. Memory that was never used is zero (invariant of `Arena::memory`); frames whose content is
//    unknown are zeroed as they are handed out.
// 3. A frame's address follows from its number alone. That hardware finds it under that number is what
//    `with_base` says.
// 4. The reservation is unmapped when the arena is dropped, and not before.
unsafe impl FrameSource for Arena {
    fn allocate(
        &self,
        count: u64,
        _hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        let mut free = self.free.lock();
        let taken = free.take(count, runs);
        let dirty = taken.ok_or(OutOfFrames::new(count, free.len()))?;
        // The frames are the caller's already; others need not wait until they are clean.
        drop(free);
        for run in dirty {
            // SAFETY: the frames were just taken and are not yet the caller's to give back.
            let tables = unsafe { self.tables(run) };
            tables.for_each(Table::zero);
        }
        Ok(())
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        if cfg!(debug_assertions) && content == Content::Zero {
            // SAFETY: the caller promises that the frames are allocated; they are given back below.
            let mut tables = unsafe { self.tables(run) };
            let zero =
                |table: &Table| (0..SLOTS).all(|index| table.entry(index) == Some(Entry::EMPTY));
            assert!(tables.all(zero), "frames of {run:?} are given back as zero and are not");
        }
        self.free.lock().put(run, content);
    }

    #[inline]
    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        debug_assert!(
            pfn.get().wrapping_sub(self.base.get()) < self.capacity,
            "frame {pfn} is not one of this arena's",
        );
        let table = self.frame_zero.wrapping_add(pfn.get() as usize);
        // SAFETY:
        // 1. The caller promises that the frame was allocated from here, so it is one of `capacity`
        //    (invariant of `Arena::free`), and `table` lies in the reservation, which is mapped for as
        //    long as `self` is borrowed.
        // 2. `frame_zero` was derived from the reservation's pointer and a whole number of tables
        //    away, so the result has its provenance and, with the start of a page, its alignment.
        // 3. Any 4096 bytes are a table: its slots are atomic words, which the MMU may write as well.
        unsafe { &*table }
    }

    fn free_frames(&self) -> u64 {
        self.free.lock().len()
    }
}
