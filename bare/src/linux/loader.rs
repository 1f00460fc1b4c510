//! How Linux is loaded: as its 32-bit boot protocol has it (Documentation/arch/x86/boot.rst).

use alloc::vec::Vec;
use core::{ops::Range, ptr};

use slat::{Gpa, PAGE_BYTES, Prot};

use super::{
    memory::{Hands, LEGACY, Places, RAM},
    multiboot::Module,
    parking,
    vcpu::Processor,
};
use crate::machine::memory::pointer;

/// Where things are put, in the guest's memory.
const SEGMENTS: u64 = 0x6000;
const ZERO_PAGE: u64 = 0x1_0000;
const STACK: u64 = 0x1_8000;
const COMMAND_LINE: u64 = 0x2_0000;
const KERNEL: u64 = 0x10_0000;

/// Places in the file's header, which are the same in the zero page.
mod header {
    use core::ops::Range;

    pub(super) const ACPI: Range<usize> = 0x70..0x74;
    pub(super) const START: usize = 0x1f1;
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const LENGTH: usize = 0x201;
    pub(super) const MAGIC: Range<usize> = 0x202..0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const RAMDISK: Range<usize> = 0x218..0x21c;
    pub(super) const RAMDISK_SIZE: Range<usize> = 0x21c..0x220;
    pub(super) const COMMAND_LINE: Range<usize> = 0x228..0x22c;
    pub(super) const MAP_COUNT: usize = 0x1e8;
    pub(super) const MAP: usize = 0x2d0;
}

/// A loader that has no number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
const SECTOR: usize = 512;
/// In the memory map.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Nothing; nothing; flat code and data, at the numbers that the protocol has.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Puts bytes into the guest's memory, as a device would: page by page, each held meanwhile.
pub(super) fn put(hands: &Hands, at: u64, bytes: &[u8]) {
    let (mut at, mut left) = (Gpa::new(at), bytes);
    while !left.is_empty() {
        let count = left.len().min((PAGE_BYTES - at.page_offset()) as usize);
        let (now, later) = left.split_at(count);
        let hold = hands.hold(at, Prot::W).expect("it is the guest's memory");
        let to = pointer::<u8>(hold.frame()).wrapping_add(at.page_offset() as usize);
        // SAFETY: the page is held, and mapped one to one; nobody has a reference to it.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), to, count) };
        hold.release_written();
        left = later;
        at = at.checked_add(count as u64).expect("memory ends before");
    }
}

/// Returns the guest's memory map: all that is not its memory is the machine's, or where its processors wait.
fn map(places: &Places) -> [(Range<u64>, u32); 4] {
    let [low, high] = places.ram.clone();
    let [_, devices] = places.devices.clone();
    [
        (low.start..parking::RANGE.start, USABLE),
        (parking::RANGE.start..LEGACY.end, RESERVED),
        (high, USABLE),
        (RAM..devices.end, RESERVED),
    ]
}

/// Makes the page by which a kernel learns of its machine.
fn zero_page(kernel: &[u8], places: &Places, ramdisk: &Range<u64>, acpi: u64) -> Vec<u8> {
    let mut page = Vec::from([0; PAGE_BYTES as usize]);
    let end = header::MAGIC.start + usize::from(kernel[header::LENGTH]);
    page[header::START..end].copy_from_slice(&kernel[header::START..end]);
    page[header::LOADER] = UNKNOWN_LOADER;
    let mut word = |place: Range<usize>, value: u64| {
        page[place].copy_from_slice(&(value as u32).to_le_bytes());
    };
    word(header::RAMDISK, ramdisk.start);
    word(header::RAMDISK_SIZE, ramdisk.end - ramdisk.start);
    word(header::COMMAND_LINE, COMMAND_LINE);
    word(header::ACPI, acpi);
    let map = map(places);
    page[header::MAP_COUNT] = map.len() as u8;
    for (index, (range, kind)) in map.into_iter().enumerate() {
        let at = header::MAP + 20 * index;
        page[at..at + 8].copy_from_slice(&range.start.to_le_bytes());
        page[at + 8..at + 16].copy_from_slice(&(range.end - range.start).to_le_bytes());
        page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
    }
    page
}

/// Puts a kernel and its first file system into the guest's memory, and what its other processors need.
pub(super) fn load(hands: &Hands, places: &Places, kernel: &Module, files: &Module) {
    let image = kernel.bytes;
    assert!(image[header::MAGIC] == *b"HdrS", "the first module is no Linux kernel");
    let sectors = match image[header::SETUP_SECTORS] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (RAM - files.bytes.len() as u64) / PAGE_BYTES * PAGE_BYTES;
    let ramdisk = start..start + files.bytes.len() as u64;
    let acpi = parking::furnish(hands);
    put(hands, KERNEL, &image[(sectors + 1) * SECTOR..]);
    put(hands, ramdisk.start, files.bytes);
    put(hands, ZERO_PAGE, &zero_page(image, places, &ramdisk, acpi));
    put(hands, COMMAND_LINE, kernel.words.as_bytes());
    for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
        put(hands, SEGMENTS + 8 * index as u64, &descriptor.to_le_bytes());
    }
}

/// Has a processor begin the kernel.
pub(super) fn begin(processor: &mut Processor) {
    processor.start(KERNEL, STACK, SEGMENTS, (8 * DESCRIPTORS.len() - 1) as u32);
    processor.registers.rsi = ZERO_PAGE;
}
