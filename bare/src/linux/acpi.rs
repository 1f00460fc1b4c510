//! The tables by which the guest learns of its processors: the machine's own, which say besides how processors are woken
//! by a word in memory, since a guest of SVM cannot be sent start-up interrupts (ACPI specification 6.5, chapter 5).

use alloc::vec::Vec;
use core::{ptr, slice};

/// Where firmware leaves the first of them.
const FIRMWARE: core::ops::Range<u64> = 0xe_0000..0x10_0000;
const FIRST: &[u8; 8] = b"RSD PTR ";
const FIRST_BYTES: usize = 20;
/// In that, where the list of the others is.
const LIST: usize = 16;
const HEADER: usize = 36;
const LENGTH: usize = 4;
const CHECKSUM: usize = 9;
const FIRST_CHECKSUM: usize = 8;
/// The table of interrupt controllers, and so of processors.
const PROCESSORS: &[u8; 4] = b"APIC";
/// In that: processors are woken by a mailbox (5.2.12.19), of 16 bytes.
const WAKEUP: [u8; 8] = [0x10, 16, 0, 0, 0, 0, 0, 0];

/// Tables, and where they have to be put.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) first: (u64, Vec<u8>),
    pub(super) list: (u64, Vec<u8>),
    pub(super) processors: (u64, Vec<u8>),
}

/// Returns bytes that firmware has left.
fn bytes(address: u64, count: usize) -> &'static [u8] {
    // SAFETY: memory below 4 GiB is mapped one to one; firmware's is not written while the image runs.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address as usize), count) }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("it is four bytes"))
}

/// Returns a whole table.
fn table(address: u64) -> &'static [u8] {
    bytes(address, word(bytes(address, HEADER), LENGTH) as usize)
}

/// Has the bytes of a table add up to nothing.
fn finish(table: &mut [u8], checksum: usize) {
    table[checksum] = 0;
    table[checksum] = table.iter().fold(0_u8, |sum, &byte| sum.wrapping_sub(byte));
}

impl Tables {
    /// Makes them of the machine's, to be put at these addresses; returns `None` if it has none.
    pub(super) fn new(places: [u64; 3], mailbox: u64) -> Option<Self> {
        let mut candidates = FIRMWARE.step_by(16).map(|at| bytes(at, FIRST_BYTES));
        let found = candidates.find(|bytes| bytes.starts_with(FIRST))?;
        let mut first = Vec::from(found);
        let mut list = Vec::from(table(word(&first, LIST).into()));
        let of_list = (HEADER..list.len()).step_by(4);
        let at = of_list
            .into_iter()
            .find(|&at| table(word(&list, at).into()).starts_with(PROCESSORS))?;
        let mut processors = Vec::from(table(word(&list, at).into()));
        processors.extend(WAKEUP);
        processors.extend(mailbox.to_le_bytes());
        let length = processors.len() as u32;
        processors[LENGTH..LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        list[at..at + 4].copy_from_slice(&(places[2] as u32).to_le_bytes());
        first[LIST..LIST + 4].copy_from_slice(&(places[1] as u32).to_le_bytes());
        finish(&mut processors, CHECKSUM);
        finish(&mut list, CHECKSUM);
        finish(&mut first, FIRST_CHECKSUM);
        let [of_first, of_list, of_processors] = places;
        Some(Self {
            first: (of_first, first),
            list: (of_list, list),
            processors: (of_processors, processors),
        })
    }
}
