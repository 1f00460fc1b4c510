//! Memory that this process shares with the kernel or with a guest, one word at a time.
//!
//! Somebody else may write to it whenever a vCPU runs, so nothing here gives out a reference to plain
//! memory: all access is atomic.

#![expect(unsafe_code, reason = "maps memory")]
#![expect(clippy::disallowed_types, reason = "the library's facade is private to it")]

use std::{
    ffi::c_void,
    io,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A shared mapping, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The first of `bytes` bytes that are mapped, readable and writable, for as long as this lives; to
    /// Rust they are an allocation of their own, which is only accessed atomically.
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the memory belongs to the process and not to a thread, and is unmapped by its one owner.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives out only atomics, and the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of new memory, zero at first; nothing exists until it is touched.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: without MAP_FIXED nothing is replaced that was mapped before.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, READ_WRITE, flags) }?;
        Self::owning(start, bytes)
    }

    /// Maps the first `bytes` bytes of a file, shared.
    pub(crate) fn of_file(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED nothing is replaced that was mapped before.
        let start = unsafe { mmap(ptr::null_mut(), bytes, READ_WRITE, MapFlags::SHARED, file, 0) }?;
        Self::owning(start, bytes)
    }

    fn owning(start: *mut c_void, bytes: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start.cast()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the byte at `offset`.
    pub(crate) fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.bytes, "{offset:#x} is outside of the mapping");
        // SAFETY:
        // 1. The byte lies in the mapping, as was just checked, which outlives the borrow (invariant of
        //    `start`).
        // 2. It is only accessed atomically (the same).
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().cast::<u8>().wrapping_add(offset)) }
    }

    /// Returns `count` words from `offset` on, a multiple of 8.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "{offset:#x} is not that of a word");
        let fits = self.bytes.checked_sub(offset).is_some_and(|left| count <= left / 8);
        assert!(fits, "{count} words from {offset:#x} on are not all in the mapping");
        let first = self.start.as_ptr().wrapping_byte_add(offset);
        // SAFETY:
        // 1. The words lie in the mapping, as was just checked, which outlives the borrow (invariant of
        //    `start`); mappings begin at a page, so they are aligned.
        // 2. They are only accessed atomically (the same).
        unsafe { slice::from_raw_parts(first.cast(), count) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        &self.words(offset, 1)[0]
    }

    /// Reads the word at `offset`, a multiple of 8.
    pub(crate) fn load(&self, offset: usize) -> u64 {
        // Relaxed, here and below: a thread shares this with a vCPU that it runs itself, and KVM_RUN
        // orders the two.
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Writes the word at `offset`, a multiple of 8.
    pub(crate) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// Writes `text` from `offset` on.
    pub(crate) fn write(&self, offset: usize, text: &[u8]) {
        for (at, byte) in (offset..).zip(text) {
            self.byte(at).store(*byte, Ordering::Relaxed);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this mapping and nothing else, and references to it have ended: they borrow
        // `self`. A guest that has it as its memory is gone (field order of `Vm`).
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.bytes) };
        debug_assert_eq!(unmapped, Ok(()), "the range is what was mapped");
    }
}
