//! The machine's processors: all begin, and wait for the first one to give them something to do.

use core::{
    hint, ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use x86::io::outb;

use super::{apic, interrupts};

/// Where others begin, in real mode.
const TRAMPOLINE: usize = 0x8000;

unsafe extern "C" {
    static boot_trampoline: u8;
    static boot_trampoline_end: u8;
}

/// How many have come.
static THERE: AtomicU32 = AtomicU32::new(1);
/// How many have done what there is to do.
static DONE: AtomicU32 = AtomicU32::new(0);
/// What there is to do: a `Task` on the first one's stack.
static TASK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Something for all processors.
struct Task<'t>(&'t (dyn Fn(u32) + Sync));

/// Starts the others; returns how many processors there are.
pub(crate) fn start_others() -> u32 {
    let (from, end) = (&raw const boot_trampoline, &raw const boot_trampoline_end);
    let to = ptr::with_exposed_provenance_mut(TRAMPOLINE);
    // SAFETY: nothing else is in that page.
    unsafe { ptr::copy_nonoverlapping(from, to, end.addr() - from.addr()) };
    apic::start_others((TRAMPOLINE >> 12) as u8, || pause(2_000));
    pause(20_000);
    THERE.load(Ordering::Acquire)
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
    interrupts::enable();
    apic::enable();
    THERE.fetch_add(1, Ordering::AcqRel);
    let mut last = ptr::null_mut();
    loop {
        let task = TASK.load(Ordering::Acquire);
        if task == last {
            hint::spin_loop();
            continue;
        }
        last = task;
        if !task.is_null() {
            // SAFETY: it lives until all have done it.
            let Task(work) = unsafe { &*task.cast::<Task<'_>>() };
            work(processor);
            DONE.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Has all processors do something, this one as well, and waits until they have.
pub(crate) fn all_do(work: &(dyn Fn(u32) + Sync)) {
    let mut task = Task(work);
    DONE.store(0, Ordering::Release);
    TASK.store((&raw mut task).cast(), Ordering::Release);
    work(0);
    while DONE.load(Ordering::Acquire) + 1 < THERE.load(Ordering::Acquire) {
        hint::spin_loop();
    }
    TASK.store(ptr::null_mut(), Ordering::Release);
    // Nobody takes the next one for this.
    pause(100);
}
