//! slat on bare metal.

#![no_std]
#![no_main]

extern crate alloc;

mod cases;
mod guest;
mod linux;
mod machine;
mod virt;
mod world;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use machine::{
    console::say,
    power::{self, Ended},
    processors,
};
use linux::multiboot::Multiboot;
use slat::Format;
use virt::{Job, Virt, svm::Svm, vmx::Vmx};

use crate::{
    guest::Deed,
    world::{Processor, World},
};

/// Where each processor begins, in long mode, with its number.
#[unsafe(no_mangle)]
extern "C" fn start(processor: u32) -> ! {
    if processor != 0 {
        processors::serve(processor);
    }
    machine::init();
    let count = processors::start_others();
    say!("{count} processors");
    let multiboot = Multiboot::read();
    let passed = match (Svm::find(), multiboot.modules().next()) {
        // SAFETY: neither the cases nor another guest are.
        (Some(svm), Some(_)) => unsafe { linux::boot(svm, multiboot) },
        _ => test_all(),
    };
    power::off(if passed { Ended::Passed } else { Ended::Failed });
}

fn test_all() -> bool {
    match (Svm::find(), Vmx::find()) {
        (Some(svm), _) => test(svm),
        (None, Some(vmx)) => test(vmx),
        (None, None) => {
            say!("this processor has neither SVM with nested paging nor VMX");
            power::off(Ended::Nothing);
        }
    }
}

fn test<V: Virt>(virt: V) -> bool {
    say!("{} levels", virt.format().levels().count());
    // SAFETY: it is the only one.
    let world = unsafe { World::new(virt) };
    let (count, faults, done) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU32::new(0));
    processors::all_do(&|_| {
        virt.enable();
        let mut processor = Processor::new(&world);
        let did = processor.demand(Job::new(Deed::AddOne, 0, 2048));
        done.fetch_add(u32::from(did.is_ok()), Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        faults.fetch_add(processor.faults, Ordering::Relaxed);
        if let Err(exit) = did {
            say!("{exit:x?}");
        }
    });
    let (count, done) = (count.into_inner(), done.into_inner());
    say!("{done} of {count}, {} faults", faults.into_inner());
    let pin = world.table.pin();
    let right = (0..2048).all(|index| {
        let leaf = pin.lookup(guest::page(index));
        guest::word(index) == count && leaf.is_some_and(|leaf| leaf.accessed && leaf.dirty)
    });
    say!("contents, accessed and dirty: {right}");
    let mut processor = Processor::new(&world);
    let tally = cases::entries::compare(&world, &mut processor);
    say!("{tally:?}");
    done == count && right && tally.different == 0
}
