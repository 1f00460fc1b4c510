//! Exceptions, which end the run, and interrupts, which end a guest's stay.
//!
//! Interrupts are held back everywhere but in guests, and in [`take_pending`]. So a kick that is sent to a processor on
//! its way into a guest is taken there, as the first thing.

use alloc::boxed::Box;
use core::{
    arch::{asm, global_asm},
    ptr,
};

use slat::PAGE_BYTES;
use spin::Once;
use x86::{
    Ring,
    bits64::{segmentation::Descriptor64, task::TaskStateSegment},
    dtables::{DescriptorTablePointer, lgdt, lidt, sgdt, sidt},
    io::outb,
    segmentation::{BuildDescriptor, DescriptorBuilder, GateDescriptorBuilder, SegmentSelector},
    task::load_tr,
};

use super::{
    console,
    memory::control_page,
    power::{self, Ended},
};

global_asm!(include_str!("interrupts.S"), options(att_syntax));

unsafe extern "C" {
    static boot_gdt: Segments;
    static interrupts_exceptions: u8;
    static interrupts_kick: u8;
    static interrupts_nothing: u8;
}

/// The vector that brings a processor out of its guest.
pub(crate) const KICK: u8 = 0x40;
/// Brings a processor out of its guest as well, whatever that holds back.
const NMI: u8 = 2;
/// What the interrupt controller delivers when there is nothing after all.
pub(super) const SPURIOUS: u8 = 0xff;
const EXCEPTIONS: usize = 32;
const STUB_BYTES: usize = 16;

/// The table that processors begin with.
type Segments = [u64; 8];
const CODE: SegmentSelector = SegmentSelector::new(1, Ring::Ring0);
/// Two descriptors of that table, which are free.
pub(crate) const TASK: SegmentSelector = SegmentSelector::new(4, Ring::Ring0);

/// An available 64-bit task segment.
const PRESENT_TASK: u64 = 0x89;

/// Stacks, of the interrupt-stack table.
const FOR_EXCEPTIONS: u8 = 1;
const FOR_INTERRUPTS: u8 = 2;
const FOR_NMIS: u8 = 3;

type Gates = [Descriptor64; 256];

/// What an exception leaves on its stack (AMD APM vol. 2, 8.9.3), behind what the stub does.
#[derive(Debug)]
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Has this processor take exceptions and interrupts.
pub(crate) fn enable() {
    static GATES: Once<Gates> = Once::new();
    let gates = DescriptorTablePointer::new(GATES.call_once(gates));
    let segments = DescriptorTablePointer::new(segments());
    // SAFETY: the table lives for ever, and the segments that are in use are the same in it as before.
    unsafe { lgdt(&segments) };
    // SAFETY: the descriptor is that of a task segment, which lives for ever.
    unsafe { load_tr(TASK) };
    // SAFETY: the table lives for ever. Its gates lead to code that saves what it changes, or never returns.
    unsafe { lidt(&gates) };
}

/// Makes the segments that processors begin with, and a task segment of this processor's own.
fn segments() -> &'static Segments {
    let mut state = TaskStateSegment::new();
    for stack in [FOR_EXCEPTIONS, FOR_INTERRUPTS, FOR_NMIS] {
        state.set_ist(usize::from(stack) - 1, control_page() + PAGE_BYTES);
    }
    let state: &'static _ = Box::leak(Box::new(state));
    let base = ptr::from_ref(state).addr() as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    // SAFETY: nobody writes there.
    let mut segments = unsafe { boot_gdt };
    let task = usize::from(TASK.index());
    // A 64-bit task segment (AMD APM vol. 2, 4.8.3).
    segments[task] =
        limit | (base & 0xff_ffff) << 16 | PRESENT_TASK << 40 | (base >> 24 & 0xff) << 56;
    segments[task + 1] = base >> 32;
    Box::leak(Box::new(segments))
}

/// Where this processor's tables and its task segment are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bases {
    pub(crate) segments: u64,
    pub(crate) task: u64,
    pub(crate) gates: u64,
}

/// Returns where [`enable`] put them.
pub(crate) fn bases() -> Bases {
    let (mut segments, mut gates) =
        (DescriptorTablePointer::<Segments>::default(), DescriptorTablePointer::<Gates>::default());
    // SAFETY: reads a register.
    unsafe { sgdt(&mut segments) };
    // SAFETY: reads a register.
    unsafe { sidt(&mut gates) };
    // SAFETY: `enable` has loaded it, and the table lives for ever.
    let table = unsafe { segments.base.read_unaligned() };
    let (low, high) = (table[usize::from(TASK.index())], table[usize::from(TASK.index()) + 1]);
    let task = low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32;
    let (segments, gates) = (segments.base.addr() as u64, gates.base.addr() as u64);
    Bases { segments, task, gates }
}

fn gates() -> Gates {
    let gate = |to: *const u8, stack| -> Descriptor64 {
        let offset = to.addr() as u64;
        let builder =
            <DescriptorBuilder as GateDescriptorBuilder<u64>>::interrupt_descriptor(CODE, offset);
        builder.ist(stack).present().dpl(Ring::Ring0).finish()
    };
    let mut gates = [Descriptor64::default(); 256];
    for (vector, slot) in gates.iter_mut().take(EXCEPTIONS).enumerate() {
        let stub = (&raw const interrupts_exceptions).wrapping_add(vector * STUB_BYTES);
        *slot = gate(stub, FOR_EXCEPTIONS);
    }
    gates[usize::from(NMI)] = gate(&raw const interrupts_nothing, FOR_NMIS);
    gates[usize::from(KICK)] = gate(&raw const interrupts_kick, FOR_INTERRUPTS);
    gates[usize::from(SPURIOUS)] = gate(&raw const interrupts_nothing, FOR_INTERRUPTS);
    gates
}

/// Has the old interrupt controllers, of which firmware may have left a timer's running, be silent.
pub(super) fn silence_old_controllers() {
    const MASKS: [u16; 2] = [0x21, 0xa1];
    for port in MASKS {
        // SAFETY: nobody waits for any of their interrupts.
        unsafe { outb(port, 0xff) };
    }
}

/// Takes the interrupts that wait.
pub(crate) fn take_pending() {
    // SAFETY: `enable` said where they go. The instruction after STI is not interrupted (AMD APM vol. 3, STI), but
    // afterwards it may be; not with PAUSE there, under QEMU.
    unsafe { asm!("sti", "nop", "cli") };
}

#[unsafe(no_mangle)]
extern "C" fn interrupts_exception(frame: &Frame) -> ! {
    // SAFETY: reads a register.
    let address = unsafe { x86::controlregs::cr2() };
    console::last_line(format_args!("exception: {frame:x?}, CR2 {address:#x}"));
    power::off(Ended::Panicked)
}
