//! The machine, bare.

pub(crate) mod apic;
pub(crate) mod console;
pub(crate) mod interrupts;
pub(crate) mod loader;
pub(crate) mod memory;
pub(crate) mod power;
pub(crate) mod processors;
mod runtime;

use core::{arch::global_asm, ptr};

use linked_list_allocator::LockedHeap;

use self::memory::HEAP;

global_asm!(include_str!("machine/boot.S"), options(att_syntax));

#[global_allocator]
static ALLOCATOR: LockedHeap = LockedHeap::empty();

/// Gives the image its heap, and the first processor its interrupts; once, before all else.
pub(crate) fn init() {
    let start = ptr::with_exposed_provenance_mut(HEAP.start as usize);
    // SAFETY: that memory is for the heap alone.
    unsafe { ALLOCATOR.lock().init(start, (HEAP.end - HEAP.start) as usize) };
    interrupts::silence_old_controllers();
    interrupts::enable();
    apic::enable();
}
