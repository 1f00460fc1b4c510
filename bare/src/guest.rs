//! The guest: where its code and its pages are, and what it can be told to do.

use core::{arch::global_asm, ptr};

use slat::{Gpa, HostPfn, PAGE_BYTES};

use crate::{
    machine::memory::{self, GUEST, frame_of},
    virt::Job,
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

/// Returns the frame behind the guest's page.
pub(crate) const fn frame(index: u64) -> HostPfn {
    frame_of(GUEST.start + index * PAGE_BYTES)
}

/// Reads the first word of a page.
pub(crate) fn word(index: u64) -> u32 {
    let address = memory::address_of(frame(index)) as usize;
    // SAFETY: it is memory of the guest, mapped one to one, to which nobody has a reference.
    unsafe { ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}

/// What is done with each of so many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Read = 0,
    Write = 1,
    AddOne = 2,
}

impl Job {
    /// Does something with `count` pages from `first` on.
    pub(crate) const fn new(deed: Deed, first: u64, count: u64) -> Self {
        Self([page(first).get(), count, deed as u64])
    }
}

/// Puts the guest's code into a page; returns its frame.
pub(crate) fn load(call: [u8; 3]) -> HostPfn {
    let (start, end) = (&raw const guest_code, &raw const guest_code_end);
    let at_call = (&raw const guest_code_call).addr() - start.addr();
    let page = memory::control_page();
    let to = ptr::with_exposed_provenance_mut::<u8>(page as usize);
    // SAFETY: the page is new, and longer than the code, of which the call is a part.
    unsafe {
        ptr::copy_nonoverlapping(start, to, end.addr() - start.addr());
        ptr::copy_nonoverlapping(call.as_ptr(), to.add(at_call), call.len());
    }
    frame_of(page)
}

/// Puts a call of the host at the beginning of a page.
pub(crate) fn put_call(index: u64, call: [u8; 3]) {
    let address = memory::address_of(frame(index)) as usize;
    // SAFETY: as in `word`.
    unsafe { ptr::with_exposed_provenance_mut::<[u8; 3]>(address).write_volatile(call) };
}
