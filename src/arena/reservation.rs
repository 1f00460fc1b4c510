//! Memory from the kernel: one mapping, and the system calls that make it.

#![expect(unsafe_code, reason = "maps memory")]

use core::{ffi::c_void, ptr::NonNull};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};

use super::mmap::ArenaError;
use crate::{addr::PAGE_BYTES, level::PageSize};

/// Turns a failed call into an error that names it.
pub(super) fn failed(call: &'static str) -> impl Fn(Errno) -> ArenaError {
    move |errno| ArenaError::System { call, errno: errno.raw_os_error() }
}

/// Makes a file in memory of `bytes` bytes, which can neither shrink nor grow.
pub(super) fn make_memfd(bytes: usize) -> Result<OwnedFd, ArenaError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems forbid executable ones; kernels before 6.3 know only those.
    let memfd = match memfd_create("slat", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("slat", flags),
        made => made,
    };
    let memfd = memfd.map_err(failed("memfd_create"))?;
    ftruncate(&memfd, bytes as u64).map_err(failed("ftruncate"))?;
    // A page cut off the file's end would kill with SIGBUS whoever walks there.
    seal(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(memfd)
}

/// Forbids writing through the descriptor and through mappings made of it from now on.
pub(super) fn forbid_writing(memfd: &OwnedFd) -> Result<(), ArenaError> {
    seal(memfd, SealFlags::FUTURE_WRITE)
}

fn seal(memfd: &OwnedFd, seals: SealFlags) -> Result<(), ArenaError> {
    fcntl_add_seals(memfd, seals).map_err(failed("fcntl(F_ADD_SEALS)"))
}

/// A mapping of its own, unmapped on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    /// The first of `bytes` bytes that are mapped, readable, writable and zero at first, and belong to
    /// nothing else, for as long as the reservation lives.
    start: NonNull<c_void>,
    bytes: usize,
    /// What was mapped: more than `bytes` where `start` had to be aligned.
    mapped: (NonNull<c_void>, usize),
}

// SAFETY: the memory belongs to the process and not to a thread, and is unmapped by its one owner.
unsafe impl Send for Reservation {}
// SAFETY: a shared reference gives only the address away, and system calls on the range, which the
// kernel serializes.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes` bytes of private memory; nothing exists until it is touched.
    pub(super) fn new(bytes: usize) -> Result<Self, ArenaError> {
        Self::with_slack(bytes, 0)
    }

    /// Reserves the same, aligned for huge pages.
    pub(super) fn aligned(bytes: usize) -> Result<Self, ArenaError> {
        let align = PageSize::Size2M.bytes() as usize;
        // The slack stays mapped: it is untouched and so costs nothing but addresses.
        let mut reservation = Self::with_slack(bytes, align)?;
        let start = reservation.start.as_ptr();
        let aligned = start.wrapping_byte_add(start.addr().wrapping_neg() % align);
        if let Some(aligned) = NonNull::new(aligned) {
            reservation.start = aligned;
        }
        Ok(reservation)
    }

    fn with_slack(bytes: usize, slack: usize) -> Result<Self, ArenaError> {
        let mapped = bytes.saturating_add(slack);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let start = unsafe { mmap_anonymous(core::ptr::null_mut(), mapped, access, flags) }
            .map_err(failed("mmap"))?;
        let start = NonNull::new(start).ok_or(failed("mmap")(Errno::FAULT))?;
        Ok(Self { start, bytes, mapped: (start, mapped) })
    }

    /// Maps `file`, which is as long, in place of the private memory.
    pub(super) fn back_with(&mut self, file: BorrowedFd<'_>) -> Result<(), ArenaError> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        let start = self.start.as_ptr();
        // SAFETY: what it replaces is this reservation's own, and borrowed exclusively.
        unsafe { mmap(start, self.bytes, access, flags, file, 0) }.map_err(failed("mmap"))?;
        Ok(())
    }

    /// Asks the kernel not to give the memory to a child of the process.
    pub(super) fn exclude_from_fork(&self) -> Result<(), ArenaError> {
        self.advise(Advice::LinuxDontFork).map_err(failed("madvise(MADV_DONTFORK)"))
    }

    /// Asks for huge pages.
    pub(super) fn prefer_huge_pages(&self) -> Result<(), ArenaError> {
        self.advise(Advice::LinuxHugepage).map_err(failed("madvise(MADV_HUGEPAGE)"))
    }

    /// Makes every page exist, writable, now. The memory must not be in use yet.
    pub(super) fn prefault(&mut self) -> Result<(), ArenaError> {
        match self.advise(Advice::LinuxPopulateWrite) {
            // Kernels before 5.14 do not know it.
            Err(Errno::INVAL) => {
                self.touch();
                Ok(())
            }
            populated => populated.map_err(failed("madvise(MADV_POPULATE_WRITE)")),
        }
    }

    /// Writes a zero, which is what is there, into every page.
    pub(super) fn touch(&mut self) {
        for offset in (0..self.bytes).step_by(PAGE_BYTES as usize) {
            let byte = self.start.cast::<u8>().as_ptr().wrapping_add(offset);
            // SAFETY: the byte lies in the reservation, which is writable and borrowed exclusively.
            unsafe { byte.write_volatile(0) };
        }
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        debug_assert!(advice != Advice::LinuxDontNeed && advice != Advice::LinuxRemove);
        // SAFETY: the range is this reservation's own, and no advice given here changes its contents.
        unsafe { madvise(self.start.as_ptr(), self.bytes, advice) }
    }

    pub(super) fn start(&self) -> NonNull<c_void> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (start, bytes) = self.mapped;
        // SAFETY: the mapping is this reservation's own, and whoever used it borrowed from it.
        let unmapped = unsafe { munmap(start.as_ptr(), bytes) };
        debug_assert_eq!(unmapped, Ok(()), "a whole mapping can be unmapped");
    }
}
