//! What a multiboot loader says: its modules, and the machine's memory (Multiboot Specification 0.6.96, 3.3).

use core::{ffi::CStr, ops::Range, ptr, slice};

use crate::machine::memory::HEAP;

unsafe extern "C" {
    static boot_multiboot: u64;
}

const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
/// In a memory map: the guest may use it as it likes.
const RAM: u32 = 1;

/// What the loader says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiboot(u64);

/// A file that the loader has brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    pub(crate) bytes: &'static [u8],
    /// What was said with the file's name.
    pub(crate) words: &'static str,
}

/// A part of the machine's memory.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    pub(crate) is_ram: bool,
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

impl Multiboot {
    /// Returns what was said when the image began.
    pub(crate) fn read() -> Self {
        // SAFETY: it was written before anything else was done, and is not written again.
        Self(unsafe { boot_multiboot })
    }

    fn has(self, what: u32) -> bool {
        word(self.0) & u64::from(what) != 0
    }

    /// Returns what was said with the image's name.
    pub(crate) fn words(self) -> &'static str {
        if self.has(HAS_COMMAND_LINE) { words(word(self.0 + 16)) } else { "" }
    }

    /// Returns the files.
    pub(crate) fn modules(self) -> impl Iterator<Item = Module> {
        let count = if self.has(HAS_MODULES) { word(self.0 + 20) } else { 0 };
        let first = word(self.0 + 24);
        (0..count).map(move |index| Module::read(first + 16 * index))
    }

    /// Returns the parts of memory.
    pub(crate) fn map(self) -> impl Iterator<Item = Piece> {
        let (mut at, end) = if self.has(HAS_MAP) {
            (word(self.0 + 48), word(self.0 + 48) + word(self.0 + 44))
        } else {
            (0, 0)
        };
        core::iter::from_fn(move || {
            let start = (at < end).then(|| long(at + 4))?;
            let range = start..start + long(at + 12);
            let is_ram = word(at + 20) == u64::from(RAM);
            at += word(at) + 4;
            Some(Piece { range, is_ram })
        })
    }
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
