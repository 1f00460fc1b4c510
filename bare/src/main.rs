//! slat on bare metal.

#![no_std]
#![no_main]

extern crate alloc;

mod guest;
mod machine;
mod virt;
mod world;

use machine::{
    console::say,
    power::{self, Ended},
};
use slat::Format;
use virt::{Job, Virt, svm::Svm};

use crate::{
    guest::Deed,
    world::{Processor, World},
};

/// Where each processor begins, in long mode, with its number.
#[unsafe(no_mangle)]
extern "C" fn start(_processor: u32) -> ! {
    machine::init();
    let Some(svm) = Svm::find() else {
        say!("this processor has neither SVM nor VMX");
        power::off(Ended::Nothing);
    };
    power::off(if test(svm) { Ended::Passed } else { Ended::Failed });
}

fn test<V: Virt>(virt: V) -> bool {
    say!("{} levels", virt.format().levels().count());
    virt.enable();
    // SAFETY: it is the only one.
    let world = unsafe { World::new(virt) };
    let mut processor = Processor::new(&world);
    let done = processor.demand(Job::new(Deed::AddOne, 0, 64));
    say!("{done:?}, {} faults", processor.faults);
    let pin = world.table.pin();
    let right = (0..64).all(|index| {
        let leaf = pin.lookup(guest::page(index));
        guest::word(index) == 1 && leaf.is_some_and(|leaf| leaf.accessed && leaf.dirty)
    });
    say!("contents, accessed and dirty: {right}");
    done.is_ok() && right && processor.faults == 65
}
