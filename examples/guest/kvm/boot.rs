//! The state in which a vCPU begins: in long mode, in ring 3, at the worker's first instruction.
//!
//! KVM lets a process write all registers, so there is nothing to boot: no real mode, no protected mode
//! on the way. What is left are the structures in memory that a processor needs to take an exception from
//! ring 3 (AMD APM vol. 2, 8.9): a gate for each vector, which names a code segment of ring 0 and, by a
//! number, a stack in the TSS.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::{
    code::{PORT_DONE, VECTORS, exception_offset},
    memory_map::{MemoryMap, Place},
};
use crate::mapping::Mapping;

/// Offsets in the page of descriptors.
const GDT: usize = 0;
const TSS: usize = 0x100;

/// Segment selectors (AMD APM vol. 2, 4.5.1): the offset in the GDT, and the privilege level.
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_CODE: u16 = 0x18 | USER;
const USER_DATA: u16 = 0x20 | USER;
const TASK: u16 = 0x28;
/// The part of a selector that says the privilege level, and the one of the worker.
pub(super) const USER: u16 = 3;

/// Segments in long mode (AMD APM vol. 2, 4.8.1 and 4.8.2): flat, whatever base and limit say. They are
/// marked as accessed already, so that the processor does not write to them.
const GDT_ENTRIES: [(u16, u64); 4] = [
    (KERNEL_CODE, 0x00af_9b00_0000_ffff),
    (KERNEL_DATA, 0x00cf_9300_0000_ffff),
    (USER_CODE, 0x00af_fb00_0000_ffff),
    (USER_DATA, 0x00cf_f300_0000_ffff),
];
/// The task-state segment's descriptor takes two places (4.8.3).
const GDT_BYTES: usize = TASK as usize + 16;
/// Where a TSS (12.2.5) has the stacks of the interrupt stack table, from number 1 on.
const IST_1: usize = 0x24;
/// Where it has the offset of the I/O permission bitmap, and where we have that.
const IO_MAP_BASE: usize = 0x66;
const IO_MAP: usize = 0x68;
/// The bitmap is for ports up to 0xff; one byte more has to follow it (12.2.4).
const IO_MAP_BYTES: usize = 0x100 / 8 + 1;
const TSS_BYTES: usize = IO_MAP + IO_MAP_BYTES;

const PAGE_FAULT: u16 = 14;
/// Numbers of stacks in the interrupt stack table (8.9.4).
const FAULT_STACK: u64 = 1;
const EXCEPTION_STACK: u64 = 2;

/// Types of segments, as descriptors and KVM have them (4.7, 4.8.3).
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const BUSY_TASK: u8 = 0xb;

/// CR0 (3.1.1): protection, FPU as it is today, read-only pages bind the kernel too, paging.
const CR0: u64 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4 (3.1.3): physical address extension, which long mode wants.
const CR4: u64 = 1 << 5;
/// EFER (3.1.7): long mode enabled, and active; no-execute pages.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// RFLAGS (3.1.6): a bit that is always set. Ring 3 is not given I/O privilege, which is not to be had
/// where KVM runs it without hardware virtualization; the bitmap is honoured everywhere.
const RFLAGS: u64 = 1 << 1;

/// What the processor pushes when it takes an exception (8.9.3), in words below the end of the stack.
pub(super) struct Frame {
    end: Place,
}

impl Frame {
    pub(super) const fn on(stack: Place) -> Self {
        Self { end: stack }
    }

    pub(super) const fn stack_segment(&self) -> Place {
        self.end.minus(8)
    }

    pub(super) const fn stack_pointer(&self) -> Place {
        self.end.minus(16)
    }

    pub(super) const fn flags(&self) -> Place {
        self.end.minus(24)
    }

    pub(super) const fn code_segment(&self) -> Place {
        self.end.minus(32)
    }

    pub(super) const fn instruction(&self) -> Place {
        self.end.minus(40)
    }

    /// The error code, of exceptions that have one.
    pub(super) const fn error_code(&self) -> Place {
        self.end.minus(48)
    }
}

/// Writes the interrupt descriptor table, which all vCPUs share.
pub(super) fn write_idt(system: &Mapping) {
    for vector in 0..VECTORS {
        let (handler, stack) = match vector {
            PAGE_FAULT => (MemoryMap::KERNEL, FAULT_STACK),
            _ => (MemoryMap::KERNEL.plus(exception_offset(vector)), EXCEPTION_STACK),
        };
        let (low, high) = gate(handler.linear(), stack);
        let place = MemoryMap::IDT.plus(16 * usize::from(vector));
        system.store(place.offset(), low);
        system.store(place.plus(8).offset(), high);
    }
}

/// Returns an interrupt gate to ring 0 (4.8.4).
fn gate(handler: u64, stack: u64) -> (u64, u64) {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
    let selector = u64::from(KERNEL_CODE) << 16;
    let low = handler & 0xffff | selector | stack << 32 | PRESENT_INTERRUPT_GATE;
    (low | (handler >> 16 & 0xffff) << 48, handler >> 32)
}

/// Writes the GDT and the TSS of a vCPU.
pub(super) fn write_descriptors(system: &Mapping, map: MemoryMap, vcpu: usize) {
    let page = map.descriptors(vcpu);
    for (selector, descriptor) in GDT_ENTRIES {
        let place = page.plus(GDT + usize::from(selector & !USER));
        system.store(place.offset(), descriptor);
    }
    let tss = page.plus(TSS);
    let (low, high) = task_descriptor(tss.linear());
    let place = page.plus(GDT + usize::from(TASK));
    system.store(place.offset(), low);
    system.store(place.plus(8).offset(), high);

    // Its words are not aligned to 8 bytes.
    let write = |at: usize, bytes: &[u8]| system.write(tss.plus(at).offset(), bytes);
    write(IST_1, &map.fault_stack(vcpu).linear().to_le_bytes());
    write(IST_1 + 8, &map.exception_stack(vcpu).linear().to_le_bytes());
    write(IO_MAP_BASE, &(IO_MAP as u16).to_le_bytes());
    write(IO_MAP, &io_map());
}

/// Returns the bitmap of the ports that the worker may not use: all but one.
fn io_map() -> [u8; IO_MAP_BYTES] {
    let mut forbidden = [u8::MAX; IO_MAP_BYTES];
    forbidden[usize::from(PORT_DONE / 8)] &= !(1 << (PORT_DONE % 8));
    forbidden
}

fn task_descriptor(base: u64) -> (u64, u64) {
    const PRESENT: u64 = 1 << 47;
    let limit = TSS_BYTES as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
    (low | u64::from(BUSY_TASK) << 40 | PRESENT, base >> 32)
}

/// Returns the general registers with which the worker begins: at its first instruction, with nothing on
/// its stack and an empty batch.
pub(super) fn regs(map: MemoryMap, vcpu: usize) -> kvm_regs {
    let batch = map.batch(vcpu).linear();
    kvm_regs {
        rip: MemoryMap::WORKER.linear(),
        rsp: map.user_stack(vcpu).linear(),
        rflags: RFLAGS,
        r12: batch,
        r13: batch,
        ..kvm_regs::default()
    }
}

/// Returns the system registers with which the worker begins; of `reset`, those that do not matter. CR3
/// stays: it is for an observer to say what it is.
pub(super) fn sregs(map: MemoryMap, vcpu: usize, reset: kvm_sregs) -> kvm_sregs {
    let page = map.descriptors(vcpu);
    let data = segment(USER_DATA, DATA);
    kvm_sregs {
        cs: segment(USER_CODE, CODE),
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: kvm_segment {
            base: page.plus(TSS).linear(),
            limit: TSS_BYTES as u32 - 1,
            selector: TASK,
            type_: BUSY_TASK,
            present: 1,
            ..kvm_segment::default()
        },
        ldt: kvm_segment { unusable: 1, ..kvm_segment::default() },
        gdt: table(page.plus(GDT), GDT_BYTES),
        idt: table(MemoryMap::IDT, 16 * usize::from(VECTORS)),
        cr0: CR0,
        cr4: CR4,
        efer: EFER,
        ..reset
    }
}

fn table(place: Place, bytes: usize) -> kvm_dtable {
    kvm_dtable { base: place.linear(), limit: (bytes - 1) as u16, ..kvm_dtable::default() }
}

/// Returns a segment as its descriptor in the GDT says.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    let is_code = u8::from(type_ == CODE);
    kvm_segment {
        selector,
        type_,
        limit: u32::MAX,
        dpl: (selector & USER) as u8,
        present: 1,
        // Code or data; limit in pages; 64-bit code, or 32-bit data.
        s: 1,
        g: 1,
        l: is_code,
        db: 1 - is_code,
        ..kvm_segment::default()
    }
}
