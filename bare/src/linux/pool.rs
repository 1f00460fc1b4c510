//! The frames of the guest's memory.

use alloc::vec::Vec;
use core::ops::Range;

use slat::{FramePool, HostPfn, PAGE_BYTES, PageSize};
use spin::mutex::SpinMutex;

use crate::machine::memory::pointer;

const LARGE: u64 = PageSize::Size2M.bytes();

/// Frames that no page has: those of 4 KiB are taken from below, those of 2 MiB from above.
#[derive(Debug)]
pub(crate) struct Pool(SpinMutex<Free>);

#[derive(Debug)]
struct Free {
    /// What was never taken.
    fresh: Range<u64>,
    /// What came back.
    small: Vec<HostPfn>,
    large: Vec<HostPfn>,
}

impl Pool {
    /// Makes a pool of a range of physical memory.
    ///
    /// # Safety
    /// Nobody uses that memory but by way of the pool.
    pub(crate) unsafe fn new(range: Range<u64>) -> Self {
        let fresh = range.start.next_multiple_of(PAGE_BYTES)..range.end / LARGE * LARGE;
        Self(SpinMutex::new(Free { fresh, small: Vec::new(), large: Vec::new() }))
    }
}

impl Free {
    fn take(&mut self, size: PageSize) -> Option<HostPfn> {
        let used = match size {
            PageSize::Size4K => self.small.pop(),
            PageSize::Size2M => self.large.pop(),
            PageSize::Size1G => None,
        };
        used.or_else(|| self.take_fresh(size))
    }

    fn take_fresh(&mut self, size: PageSize) -> Option<HostPfn> {
        let there = self.fresh.end.saturating_sub(self.fresh.start);
        match size {
            PageSize::Size4K if there >= PAGE_BYTES => {
                self.fresh.start += PAGE_BYTES;
                Some(HostPfn::containing(self.fresh.start - PAGE_BYTES))
            }
            PageSize::Size2M if there >= LARGE => {
                self.fresh.end -= LARGE;
                Some(HostPfn::containing(self.fresh.end))
            }
            _ => None,
        }
    }
}

impl FramePool for Pool {
    fn take(&self, size: PageSize) -> Option<HostPfn> {
        let first = self.0.lock().take(size)?;
        let page: *mut u8 = pointer(first);
        // SAFETY: the frames are the pool's, are nobody's now, and are mapped one to one.
        unsafe { page.write_bytes(0, size.bytes() as usize) };
        Some(first)
    }

    fn give_back(&self, first: HostPfn, size: PageSize) {
        let mut free = self.0.lock();
        match size {
            PageSize::Size4K => free.small.push(first),
            PageSize::Size2M => free.large.push(first),
            PageSize::Size1G => unreachable!("none is taken"),
        }
    }
}
