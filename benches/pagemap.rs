//! The kernel's way to collect what a process wrote, and to begin anew: the PAGEMAP_SCAN ioctl over
//! memory that userfaultfd write-protects asynchronously (Linux 6.7 and later).

#![expect(unsafe_code, reason = "calls the kernel")]

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use slat_benches::{Numbers, timed};

use crate::ALL;

const PAGE: usize = 4096;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// `struct pm_scan_arg` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the kernel.
#[repr(C)]
#[derive(Clone, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Private memory of this process, whose writes the kernel tracks.
pub(crate) struct Pagemap {
    start: *mut u8,
    pages: usize,
    pagemap: File,
    /// What the kernel answers.
    regions: RefCell<Vec<Region>>,
    _userfault: OwnedFd,
}

impl Pagemap {
    /// Maps and touches so many pages.
    pub(crate) fn new(pages: usize) -> io::Result<Self> {
        let pagemap = File::open("/proc/self/pagemap")?;
        // SAFETY: it makes a descriptor, of which nobody knows yet.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now.
        let userfault = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut api = [UFFD_API, FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC, 0];
        ioctl(&userfault, UFFDIO_API, api.as_mut_ptr())?;

        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        // SAFETY: the kernel picks a place where nothing is mapped.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), pages * PAGE, access, kind | libc::MAP_ANONYMOUS, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let regions = RefCell::new(vec![Region::default(); pages]);
        let this = Self { start: start.cast(), pages, pagemap, regions, _userfault: userfault };
        // SAFETY: the memory is its own; no huge pages, so that there is an entry for each page.
        unsafe { libc::madvise(start, pages * PAGE, libc::MADV_NOHUGEPAGE) };
        let mut register = [start as u64, (pages * PAGE) as u64, REGISTER_MODE_WP, 0];
        ioctl(&this._userfault, UFFDIO_REGISTER, register.as_mut_ptr())?;
        (0..pages).for_each(|page| this.write(page));
        this.scan(&mut this.regions.borrow_mut())?;
        Ok(this)
    }

    fn write(&self, page: usize) {
        assert!(page < self.pages);
        // SAFETY: the page is one of the mapping's.
        let byte = unsafe { self.start.add(page * PAGE) };
        // SAFETY: the mapping is its own, and nobody else uses it.
        unsafe { byte.write_volatile(1) };
    }

    /// Collects and write-protects what was written; returns how many pages that were.
    fn scan(&self, regions: &mut [Region]) -> io::Result<u64> {
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            start: self.start as u64,
            end: self.start as u64 + (self.pages * PAGE) as u64,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..Scan::default()
        };
        let count = ioctl(&self.pagemap, PAGEMAP_SCAN, &raw mut scan)?;
        let regions = regions.iter().take(count as usize);
        Ok(regions.map(|region| (region.end - region.start) / PAGE as u64).sum())
    }

    /// Times a scan that collects and clears, when so many pages in 10,000 were written.
    pub(crate) fn scan_dirty(&self, share: u64) -> Duration {
        let dirty = (0..self.pages).zip(Numbers(share)).filter(|(_, number)| number % ALL < share);
        let count = dirty.map(|(page, _)| self.write(page)).count();
        let regions = &mut *self.regions.borrow_mut();
        let (took, found) = timed(|| self.scan(regions).unwrap());
        assert_eq!(found, count as u64);
        took
    }
}

impl Drop for Pagemap {
    fn drop(&mut self) {
        // SAFETY: the memory is its own, and nobody else uses it.
        unsafe { libc::munmap(self.start.cast(), self.pages * PAGE) };
    }
}

fn ioctl<T>(fd: &impl AsRawFd, request: u64, argument: *mut T) -> io::Result<i32> {
    // SAFETY: the argument is what the request asks for, and outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
