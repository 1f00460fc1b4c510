//! slat on bare metal.

#![no_std]
#![no_main]

extern crate alloc;

mod cases;
mod guest;
mod linux;
mod machine;
mod options;
mod virt;
mod world;

use alloc::sync::Arc;

use machine::{
    console::say,
    emulator::Emulator,
    memory::{Frames, TABLES},
    power::{self, Ended},
    processors,
};
use options::Options;
use slat::Format;
use virt::{Virt, svm::Svm, vmx::Vmx};
use world::Machine;

/// Where each processor begins, in long mode, with its number.
#[unsafe(no_mangle)]
extern "C" fn start(processor: u32) -> ! {
    if processor != 0 {
        processors::serve(processor);
    }
    machine::init();
    let passed = match Svm::find() {
        // SAFETY: neither the cases nor another guest are.
        Some(svm) if linux::is_there() => unsafe { linux::boot(svm) },
        _ => test_all(),
    };
    power::off(if passed { Ended::Passed } else { Ended::Failed });
}

fn test_all() -> bool {
    let options = Options::read().unwrap_or_else(|bad| {
        say!("{bad}");
        power::off(Ended::Nothing)
    });
    match (Svm::find(), Vmx::find()) {
        (Some(svm), _) => test(svm, options),
        (None, Some(vmx)) => test(vmx, options),
        (None, None) => {
            say!(
                "this processor has neither SVM with nested paging nor VMX with EPT for guests without paging"
            );
            power::off(Ended::Nothing);
        }
    }
}

fn test<V: Virt>(virt: V, options: Options) -> bool {
    let processors = options.processors;
    if let Err(there) = processors::start_others(processors) {
        say!("of {processors} processors {there} came");
        power::off(Ended::Nothing);
    }
    processors::all_do(&|_| virt.enable());
    say!(
        "{}, {} levels, processors: {processors}",
        virt.format().name(),
        virt.format().levels().count()
    );
    // SAFETY: nobody else uses that memory.
    let frames = Arc::new(unsafe { Frames::new(TABLES) });
    cases::run(&Machine { virt, emulator: Emulator::find(), processors, options, frames })
}
