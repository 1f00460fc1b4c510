//! The machine's processors: all begin, and wait for the first one to give them something to do.
//!
//! What there is to do has a number, and each processor does the next number when it comes: the next task may lie where
//! the last one did, so that its address would not tell it from that to a processor that was held up between the two.

use core::{
    hint, ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use x86::io::outb;

use super::{apic, interrupts, power};

/// Where others begin, in real mode.
const TRAMPOLINE: usize = 0x8000;

unsafe extern "C" {
    static boot_trampoline: u8;
    static boot_trampoline_end: u8;
}

/// How many milliseconds the others may take to come; emulators count much faster than that.
const PATIENCE: u32 = 30_000;

/// How many the machine can have: as many as `boot.S` has stacks for.
pub(crate) const MOST: u32 = 16;

/// How many there are to be. Those with higher numbers are turned off.
static WANTED: AtomicU32 = AtomicU32::new(1);
/// How many of them have come.
static THERE: AtomicU32 = AtomicU32::new(1);
/// How many have done what there is to do.
static DONE: AtomicU32 = AtomicU32::new(0);
/// What there is to do: a `Task` on the first one's stack.
static TASK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// Its number.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Something for all processors.
struct Task<'t>(&'t (dyn Fn(u32) + Sync));

/// Starts the others, and waits until there are `count` in all. What the machine has beyond is left alone.
///
/// # Errors
/// How many there are, if they do not come.
pub(crate) fn start_others(count: u32) -> Result<(), u32> {
    if count == 1 {
        return Ok(());
    }
    // It comes before the interrupt that starts them.
    WANTED.store(count, Ordering::SeqCst);
    let (from, end) = (&raw const boot_trampoline, &raw const boot_trampoline_end);
    let to = ptr::with_exposed_provenance_mut(TRAMPOLINE);
    // SAFETY: nothing else is in that page.
    unsafe { ptr::copy_nonoverlapping(from, to, end.addr() - from.addr()) };
    apic::start_others((TRAMPOLINE >> 12) as u8, || pause(2_000));
    for _ in 0..PATIENCE {
        if THERE.load(Ordering::Acquire) == count {
            return Ok(());
        }
        pause(1_000);
    }
    Err(THERE.load(Ordering::Acquire))
}

/// Waits for about so many microseconds.
fn pause(microseconds: u32) {
    for _ in 0..microseconds {
        // SAFETY: a port of the old bus that nobody listens at; it takes a microsecond.
        unsafe { outb(0x80, 0) };
    }
}

/// Does what there is to do, again and again; of another than the first one.
pub(crate) fn serve(processor: u32) -> ! {
    if processor >= WANTED.load(Ordering::SeqCst) {
        power::halt();
    }
    interrupts::enable();
    apic::enable();
    THERE.fetch_add(1, Ordering::AcqRel);
    let mut number: u32 = 0;
    loop {
        // Acquire: the task comes with its number; pairs with `all_do`.
        if NUMBER.load(Ordering::Acquire) == number {
            hint::spin_loop();
            continue;
        }
        number = number.wrapping_add(1);
        let task = TASK.load(Ordering::Relaxed);
        // SAFETY:
        // 1. `all_do` has put it there before it gave it this number.
        // 2. It lives, and there is no other number, until all have done it; this one has not.
        let Task(work) = unsafe { &*task.cast::<Task<'_>>() };
        work(processor);
        // Release: what was done comes before; pairs with `all_do`.
        DONE.fetch_add(1, Ordering::Release);
    }
}

/// Has all processors do something, this one as well, and waits until they have; of the first one, when
/// [`start_others`] has brought the others.
pub(crate) fn all_do(work: &(dyn Fn(u32) + Sync)) {
    let mut task = Task(work);
    let others = WANTED.load(Ordering::Relaxed) - 1;
    DONE.store(0, Ordering::Relaxed);
    TASK.store((&raw mut task).cast(), Ordering::Relaxed);
    // Release: the task, and the count of none, come before the number; pairs with `serve`.
    NUMBER.fetch_add(1, Ordering::Release);
    work(0);
    // Acquire: nobody uses the task any more, and what was done is seen; pairs with `serve`.
    while DONE.load(Ordering::Acquire) < others {
        hint::spin_loop();
    }
}
