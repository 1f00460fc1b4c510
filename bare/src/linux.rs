//! A thin hypervisor: Linux as a guest, to which the machine's devices are passed through, and whose memory comes page
//! by page, as it asks for it.

mod acpi;
mod answers;
mod clock;
mod copy;
mod guest;
mod kicks;
mod loader;
mod memory;
mod multiboot;
mod options;
mod parking;
mod pool;
mod report;
mod vcpu;

use alloc::vec::Vec;

use spin::{Once, mutex::SpinMutex};

use self::{
    clock::Clock,
    copy::Copy,
    guest::{Ended, Guest, Running},
    kicks::Kicks,
    memory::{Made, Memory},
    multiboot::Module,
    options::{Copying, Options},
    report::Exits,
    vcpu::{Maps, Processor},
};
use crate::{
    machine::{console::say, processors},
    virt::{Virt, svm::Svm},
};

/// Tells whether the loader has brought anything to boot.
pub(crate) fn is_there() -> bool {
    multiboot::modules().next().is_some()
}

/// Boots a kernel, the first module, with a file system, the second one, on all processors. Tells whether it turned the
/// machine off, and a copy, if one was made, is what memory is.
///
/// # Safety
/// Nobody else uses memory from that of the guest on.
pub(crate) unsafe fn boot(svm: Svm) -> bool {
    let modules: Vec<Module> = multiboot::modules().collect();
    let [kernel, files] = modules.as_slice() else {
        say!("{} modules: it takes a kernel and a file system", modules.len());
        return false;
    };
    let options = match Options::read() {
        Ok(options) => options,
        Err(bad) => {
            say!("{bad}");
            return false;
        }
    };
    if let Err(there) = processors::start_others(options.processors) {
        say!("of {} processors {there} came", options.processors);
        return false;
    }
    say!("{options:?}");
    let kicks = Kicks::default();
    // SAFETY: the caller's promise.
    let made = unsafe { memory::new(svm.format(), kicks.clone(), options.largest) };
    let Made { space, places, pool } = made;
    say!("{places:x?}");
    loader::load(&space.vcpu(), &places, kernel, files);
    say!("loaded: {} pages; {:?}", space.resident(), kernel.words);
    let copy = (options.copying != Copying::Off)
        .then(|| Copy::begin(&space, &places, pool, options.copying));
    let (ended, copy) = (Once::new(), SpinMutex::new(copy));
    let guest = Guest { kicks, clock: Clock::new(), ended, copy };
    let exits = run(svm, &guest, &space, options.around);
    let ended = guest.ended.get().expect("it has ended");
    say!("{:x?} at {:#x}", ended.0, ended.1);
    let is_same = guest.copy.lock().as_mut().is_none_or(|copy| copy.compare().different == 0);
    report::memory(&space, &places);
    report::work(&space, &exits, guest.clock);
    ended.0 == Ended::PoweredOff && is_same
}

/// Runs the guest on all processors until it ends; returns what each of them did.
fn run(svm: Svm, guest: &Guest, space: &Memory, around: u64) -> Vec<Exits> {
    let maps = Maps::new(&answers::PORTS, &answers::MSRS);
    let all = SpinMutex::<_>::new(Vec::new());
    processors::all_do(&|number| {
        svm.enable();
        let mut processor = Processor::new(svm, &maps);
        let mut hands = space.vcpu();
        hands.set_fault_around(around).expect("it is a power of two up to 512");
        let is_first = number == 0;
        if is_first {
            loader::begin(&mut processor);
        } else {
            parking::park(&mut processor);
        }
        let mut running = Running::new(guest, processor, hands);
        if is_first && guest.copy.lock().is_some() {
            running.do_rounds();
        }
        let began = clock::now();
        running.run();
        all.lock().push(Exits { time: clock::now() - began, ..running.exits });
    });
    all.into_inner()
}
