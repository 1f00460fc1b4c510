//! What a multiboot loader says: its modules, and the machine's memory (Multiboot Specification 0.6.96, 3.3).

use core::{ffi::CStr, ops::Range, ptr, slice};

use crate::machine::{loader::field, memory::HEAP};

const FLAGS: usize = 0;
const HAS_MODULES: u32 = 1 << 3;
const MODULES: [usize; 2] = [20, 24];
const HAS_MAP: u32 = 1 << 6;
const MAP: [usize; 2] = [44, 48];
/// In a memory map: the guest may use it as it likes.
const RAM: u64 = 1;

/// A file that the loader has brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module {
    pub(super) bytes: &'static [u8],
    /// What was said with the file's name.
    pub(super) words: &'static str,
}

/// A part of the machine's memory.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) range: Range<u64>,
    pub(super) is_ram: bool,
}

/// Reads a word of the loader's.
fn word(address: u64) -> u64 {
    // SAFETY: the loader has put it there, below 4 GiB, which is mapped one to one.
    unsafe { ptr::with_exposed_provenance::<u32>(address as usize).read_unaligned() }.into()
}

/// Reads two of them.
fn long(address: u64) -> u64 {
    word(address) | word(address + 4) << 32
}

/// Reads what was said with a file's name, which comes first.
fn words(address: u64) -> &'static str {
    assert!(address < HEAP.start, "a command line lies in the heap");
    // SAFETY: the loader has put it there, a zero ends it, and nobody writes below the heap.
    let all = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(address as usize)) };
    let all = all.to_str().expect("a command line is text");
    all.split_once(' ').map_or("", |(_name, words)| words)
}

/// Returns a list's length and address, if it is there.
fn list(flag: u32, fields: [usize; 2]) -> [u64; 2] {
    if field(FLAGS) & flag == 0 { [0, 0] } else { fields.map(|at| field(at).into()) }
}

/// Returns the files.
pub(super) fn modules() -> impl Iterator<Item = Module> {
    let [count, first] = list(HAS_MODULES, MODULES);
    (0..count).map(move |index| Module::read(first + 16 * index))
}

/// Returns the parts of memory.
pub(super) fn map() -> impl Iterator<Item = Piece> {
    let [bytes, first] = list(HAS_MAP, MAP);
    let (mut at, end) = (first, first + bytes);
    core::iter::from_fn(move || {
        let start = (at < end).then(|| long(at + 4))?;
        let range = start..start + long(at + 12);
        let is_ram = word(at + 20) == RAM;
        at += word(at) + 4;
        Some(Piece { range, is_ram })
    })
}

impl Module {
    fn read(at: u64) -> Self {
        let (start, end) = (word(at), word(at + 4));
        assert!(end <= HEAP.start, "a module reaches into the heap");
        // SAFETY: the loader has put it there, and nobody writes below the heap.
        let bytes = unsafe {
            slice::from_raw_parts(
                ptr::with_exposed_provenance(start as usize),
                (end - start) as usize,
            )
        };
        Self { bytes, words: words(word(at + 8)) }
    }
}
