//! The guest's code: a kernel of one page-fault handler, and a worker that does what batches say.
//!
//! Both are position independent: they are linked into this program as data, and copied from there into
//! the guest's memory.
//!
//! The *kernel* handles nothing. It tells the host that something happened, by a write to an I/O port, on
//! which KVM_RUN returns; all that is known about the event the host finds in the vCPU's registers and on
//! its kernel stack. When the vCPU runs again, the instruction that faulted is tried again. It is this
//! short because it may be slow: where KVM itself runs without hardware virtualization, it emulates
//! ring 0 an instruction at a time.
//!
//! The *worker* runs in ring 3, natively everywhere: on a real processor, whose caches go stale. It may use
//! one port itself.

#![expect(unsafe_code, reason = "assembly, and its extent")]

use std::{arch::global_asm, ptr, slice};

/// The worker has come to the end of its batch.
pub(super) const PORT_DONE: u16 = 0x10;
/// A page fault: CR2 and the page-fault stack say which.
pub(super) const PORT_FAULT: u16 = 0x11;
/// Vector 0, and 31 more ports for the others: an exception that no guest of ours should have.
pub(super) const PORT_EXCEPTION: u16 = 0xe0;
/// Exceptions that there can be (AMD APM vol. 2, 8.2).
pub(super) const VECTORS: u16 = 32;

/// Bytes from one exception stub to the next.
const STUB_BYTES: usize = 4;

global_asm!(
    r#"
    .pushsection .rodata.slat_guest, "a"

    .balign 16
    .globl slat_kernel
slat_kernel:
    # Page fault. The stack holds an error code and the frame for IRETQ. No register is changed.
    out {fault}, al
    add rsp, 8
    iretq

    # All other exceptions, a stub for each vector: they end the guest.
    .balign {stub}
    .globl slat_exceptions
slat_exceptions:
    .set slat_vector, 0
    .rept {vectors}
    .balign {stub}
    out {exception} + slat_vector, al
    hlt
    .set slat_vector, slat_vector + 1
    .endr
    .globl slat_kernel_end
slat_kernel_end:

    # The worker. r12: the next operation; r13: the end of the batch. rax, rbx, rcx: of no meaning
    # between operations. An operation is two words: address | kind, and argument, which its result
    # replaces.
    .balign 16
    .globl slat_worker
slat_worker:
2:  cmp r12, r13
    je 9f
    mov rax, [r12]
    mov rbx, [r12 + 8]
    mov ecx, eax
    and ecx, {kinds}
    and rax, {address}
    # Each access to the workload's memory may fault, before it has changed anything: so it can be tried
    # again.
    cmp ecx, {add}
    jb 3f
    je 4f
    cmp ecx, {fetch}
    je 5f
    pause
    jmp 6f
4:  lock xadd [rax], rbx
    jmp 7f
    # There is a RET. It is the fetch there that faults: the return address lies on our stack already,
    # and stays. Then the word is read, to say which it was.
5:  call rax
3:  mov rbx, [rax]
    jmp 7f
6:  xor ebx, ebx
7:  mov [r12 + 8], rbx
    # Only now: an operation counts as done when its result is there.
    add r12, {op}
    jmp 2b
    # The host sets r12 and r13 anew before it lets the vCPU go on.
9:  out {done}, al
    jmp 2b
    .globl slat_worker_end
slat_worker_end:

    .popsection
    "#,
    fault = const PORT_FAULT,
    done = const PORT_DONE,
    exception = const PORT_EXCEPTION,
    vectors = const VECTORS,
    stub = const STUB_BYTES,
    kinds = const KINDS,
    address = const !KINDS.cast_signed(),
    add = const ADD,
    fetch = const FETCH,
    op = const super::memory_map::OP_BYTES,
);

/// The bits of an operation's first word that say what it does; addresses are multiples of 8.
pub(super) const KINDS: u64 = 0b111;
pub(super) const LOAD: u64 = 0;
pub(super) const ADD: u64 = 1;
pub(super) const FETCH: u64 = 2;
pub(super) const PAUSE: u64 = 3;

// The worker compares only with the two in the middle.
const _: () = assert!(LOAD < ADD && ADD < FETCH && FETCH < PAUSE && PAUSE <= KINDS);
// Vectors have to fit into an 8-bit port number.
const _: () = assert!(PORT_EXCEPTION + VECTORS <= 0x100);

unsafe extern "C" {
    static slat_kernel: u8;
    static slat_exceptions: u8;
    static slat_kernel_end: u8;
    static slat_worker: u8;
    static slat_worker_end: u8;
}

/// The bytes of the kernel; the page-fault handler is the first of it.
pub(super) fn kernel() -> &'static [u8] {
    // SAFETY: both are symbols of the assembly above, in this order, in a section that is never written.
    unsafe { between(&raw const slat_kernel, &raw const slat_kernel_end) }
}

/// The bytes of the worker, which begins at its first.
pub(super) fn worker() -> &'static [u8] {
    // SAFETY: both are symbols of the assembly above, in this order, in a section that is never written.
    unsafe { between(&raw const slat_worker, &raw const slat_worker_end) }
}

/// Returns how far into the kernel the handler of an exception lies.
pub(super) fn exception_offset(vector: u16) -> usize {
    let stubs = (&raw const slat_exceptions).addr() - (&raw const slat_kernel).addr();
    stubs + STUB_BYTES * usize::from(vector)
}

/// Returns what lies between two symbols.
///
/// # Safety
/// `start` and `end` are symbols in one section, in this order, and nobody writes there.
unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let text = ptr::slice_from_raw_parts(start, end.addr() - start.addr());
    // SAFETY: the caller's promise: the bytes belong to one section of this program.
    unsafe { slice::from_raw_parts(text.cast(), text.len()) }
}
