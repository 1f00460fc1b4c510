//! What the loader left (Multiboot specification, 3.3).

use core::{ffi::CStr, ptr};

unsafe extern "C" {
    static boot_information: u32;
}

/// Where the loader's structure has its flags, and, if the flag is set, the command line.
const FLAGS: usize = 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const COMMAND_LINE: usize = 16;

/// Returns a field of the loader's structure.
pub(crate) fn field(offset: usize) -> u32 {
    // SAFETY: written once, before there was any Rust.
    let structure = unsafe { boot_information } as usize;
    // SAFETY: the loader's structure, which nobody writes, is below four gigabytes.
    unsafe { ptr::with_exposed_provenance::<u32>(structure + offset).read_unaligned() }
}

/// Returns the image's command line, or nothing.
pub(crate) fn command_line() -> &'static str {
    if field(FLAGS) & HAS_COMMAND_LINE == 0 {
        return "";
    }
    let start = ptr::with_exposed_provenance(field(COMMAND_LINE) as usize);
    // SAFETY: the loader ends it with a zero, and nobody writes there.
    let text = unsafe { CStr::from_ptr(start) };
    text.to_str().unwrap_or("")
}
