//! The guest: where its code and its pages are, and what it can be told to do.

use core::{
    arch::global_asm,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use slat::{Gpa, GpaRange, HostPfn, PAGE_BYTES};

use crate::{
    machine::memory::{self, GUEST},
    virt::Registers,
};

global_asm!(include_str!("guest.S"), options(att_syntax));

unsafe extern "C" {
    static guest_code: u8;
    static guest_code_call: u8;
    static guest_code_end: u8;
}

/// Where the guest finds its code.
pub(crate) const CODE: Gpa = Gpa::new(0x1_0000);
/// Where the guest finds its memory, one to one from [`GUEST`] on.
pub(crate) const DATA: u64 = 0x4000_0000;

/// Returns the address of the guest's page.
pub(crate) const fn page(index: u64) -> Gpa {
    Gpa::new(DATA + index * PAGE_BYTES)
}

/// Returns the addresses of `count` of the guest's pages.
pub(crate) fn pages(first: u64, count: u64) -> GpaRange {
    GpaRange::from_pages(page(first), count).expect("they are a part of the guest's memory")
}

/// Returns one of the frames that the guest's pages are made of.
pub(crate) const fn frame(index: u64) -> HostPfn {
    HostPfn::containing(GUEST.start + index * PAGE_BYTES)
}

/// Returns the first word of one of the guest's frames: guests add to it.
pub(crate) fn word(frame: HostPfn) -> &'static AtomicU32 {
    // SAFETY: it is memory of the guest, mapped one to one for ever, to whose words all accesses are atomic.
    unsafe { AtomicU32::from_ptr(memory::pointer(frame)) }
}

/// Makes the first words of frames zero.
pub(crate) fn clear(first: u64, count: u64) {
    (first..first + count).for_each(|index| word(frame(index)).store(0, Ordering::Relaxed));
}

/// What is done with the first word of each of so many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Read = 0,
    Write = 1,
    AddOne = 2,
}

/// What a guest is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) deed: Deed,
    /// The first page of a pass, and how many there are.
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) passes: u64,
}

impl Job {
    /// Does something with `count` pages from `first` on, once.
    pub(crate) const fn new(deed: Deed, first: u64, count: u64) -> Self {
        Self { deed, first, count, passes: 1 }
    }

    /// Does it again and again.
    pub(crate) const fn times(self, passes: u64) -> Self {
        Self { passes, ..self }
    }

    /// Returns the registers with which it begins.
    pub(crate) const fn registers(self) -> Registers {
        let Self { deed, first, count, passes } = self;
        let first = page(first).get();
        Registers { rbx: first, rcx: count, rdx: deed as u64, rsi: passes, rdi: first, rbp: count }
    }
}

/// Puts the guest's code into a page; returns its frame.
pub(crate) fn load(call: [u8; 3]) -> HostPfn {
    let (start, end) = (&raw const guest_code, &raw const guest_code_end);
    let at_call = (&raw const guest_code_call).addr() - start.addr();
    let page = HostPfn::containing(memory::control_page());
    // SAFETY: the page is new, and longer than the code.
    unsafe { ptr::copy_nonoverlapping(start, memory::pointer(page), end.addr() - start.addr()) };
    // SAFETY: the call is a part of it.
    unsafe { memory::pointer::<u8>(page).add(at_call).cast::<[u8; 3]>().write(call) };
    page
}

/// Puts a call of the host at the beginning of one of the guest's frames.
pub(crate) fn put_call(frame: HostPfn, call: [u8; 3]) {
    word(frame).store(u32::from_le_bytes([call[0], call[1], call[2], 0]), Ordering::Relaxed);
}
