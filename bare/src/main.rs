//! slat on bare metal.

#![no_std]
#![no_main]

extern crate alloc;

mod machine;

use machine::{console::say, power::{self, Ended}};

/// Where each processor begins, in long mode, with its number.
#[unsafe(no_mangle)]
extern "C" fn start(processor: u32) -> ! {
    say!("processor {processor}");
    power::off(Ended::Passed)
}
