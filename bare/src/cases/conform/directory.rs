//! A guest's own tables: one page of 32-bit paging with pages of 4 MiB (Intel SDM vol. 3A, 4.3; AMD APM vol. 2,
//! 5.2.3).

use core::sync::atomic::{AtomicU32, Ordering};

use slat::{Gpa, PAGE_BYTES};

use crate::{
    guest::{self, Deed, Job},
    machine::memory,
    virt::Virt,
    world::{Processor, SMALL},
};

/// Present, writable, accessed, dirty, of 4 MiB: nothing is left for the processor to set.
const ENTRY: u32 = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7;
/// An entry's share of the linear addresses.
const SHARE: u64 = 4 << 20;

/// The page with a guest's own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    page: u64,
}

impl Directory {
    /// Makes the guest's page a directory in which the first 4 MiB, and those of the guest's memory, are where
    /// they are without paging.
    pub(crate) fn new<V: Virt>(processor: &mut Processor<'_, V>, page: u64) -> Self {
        processor.world.make_room(page, 1, SMALL);
        processor.demand(Job::new(Deed::Write, page, 1)).expect("the page can be had");
        memory::zero(guest::frame(page));
        let directory = Self { page };
        for linear in [0, guest::DATA] {
            directory.put(linear, Gpa::new(linear));
        }
        directory
    }

    /// Has the 4 MiB of linear addresses around one lead to those of guest memory around another, below 2^40
    /// (PSE-36).
    pub(crate) fn put(self, linear: u64, to: Gpa) {
        let to = to.get() & !(SHARE - 1);
        let (low, high) = (to as u32, (to >> 32) as u32);
        let words: *mut u32 = memory::pointer(guest::frame(self.page));
        // SAFETY: a word of the guest's frame, to which all accesses are atomic.
        let word = unsafe { AtomicU32::from_ptr(words.wrapping_add((linear / SHARE) as usize)) };
        word.store(low | high << 13 | ENTRY, Ordering::Relaxed);
    }

    /// Returns the guest's number of the page.
    pub(crate) fn page(self) -> u64 {
        self.page
    }

    /// Returns where it is.
    pub(crate) fn gpa(self) -> Gpa {
        guest::page(self.page)
    }

    /// Returns where the entry for a linear address is.
    pub(crate) fn entry(self, linear: u64) -> Gpa {
        Gpa::new(self.gpa().get() + linear / SHARE * size_of::<u32>() as u64)
    }
}

const _: () = assert!(PAGE_BYTES == (1 << 32) / SHARE * size_of::<u32>() as u64);
