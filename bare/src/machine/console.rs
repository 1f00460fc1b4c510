//! What the image says: bytes to the debug port, which QEMU and Bochs print.

use core::fmt::{self, Write};

use spin::mutex::SpinMutex;
use x86::io::outb;

/// QEMU's debug console, and Bochs' with `port_e9_hack`.
pub(super) const DEBUG: u16 = 0xe9;

static CONSOLE: SpinMutex<Console> = SpinMutex::new(Console);

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: nobody but the emulator listens there.
            unsafe { outb(DEBUG, byte) };
        }
        Ok(())
    }
}

/// Prints a line, whole.
pub(crate) fn line(what: fmt::Arguments<'_>) {
    let _infallible = writeln!(CONSOLE.lock(), "{what}");
}

/// Prints a line although a processor may have stopped in the middle of one.
pub(crate) fn last_line(what: fmt::Arguments<'_>) {
    let _infallible = writeln!(Console, "{what}");
}

/// Prints a line.
macro_rules! say {
    ($($what:tt)*) => { $crate::machine::console::line(format_args!($($what)*)) };
}
pub(crate) use say;
