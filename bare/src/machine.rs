//! The machine, bare.

pub(crate) mod console;
pub(crate) mod power;
mod runtime;

use core::arch::global_asm;

global_asm!(include_str!("machine/boot.S"), options(att_syntax));

#[global_allocator]
static HEAP: linked_list_allocator::LockedHeap = linked_list_allocator::LockedHeap::empty();
