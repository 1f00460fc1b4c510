//! A thin hypervisor: Linux as a guest, to which the machine's devices are passed through, and whose memory comes page
//! by page, as it asks for it.

mod answers;
mod loader;
mod memory;
pub(crate) mod multiboot;
mod pool;
mod vcpu;

use alloc::vec::Vec;

use slat::{PageSize, Prot, Tracking, mmu::Fault};

use self::{
    answers::Done,
    memory::Hands,
    multiboot::{Module, Multiboot},
    vcpu::{Exception, Exit, Processor},
};
use crate::{
    machine::console::say,
    virt::{Virt, svm::Svm},
};

/// Of a nested fault's error code: it was a write, or a fetch (15.25.6).
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;

/// How the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    PoweredOff,
    Shutdown,
    /// By something that is not known here.
    Stopped(Exit),
}

/// How often the guest came out, for what.
#[derive(Clone, Copy, Debug, Default)]
struct Exits {
    faults: u64,
    cpuid: u64,
    msrs: u64,
    ports: u64,
}

/// Boots a kernel, the first module, with a file system, the second one; tells whether it turned the machine off.
///
/// # Safety
/// Nobody else uses memory from that of the guest on.
pub(crate) unsafe fn boot(svm: Svm, multiboot: Multiboot) -> bool {
    let modules: Vec<Module> = multiboot.modules().collect();
    let [kernel, files] = modules.as_slice() else {
        say!("{} modules: it takes a kernel and a file system", modules.len());
        return false;
    };
    svm.enable();
    // SAFETY: the caller's promise.
    let (space, places) = unsafe { memory::new(svm.format(), multiboot, PageSize::Size4K) };
    say!("memory {:x?}, devices {:x?}", places.ram, places.devices);
    let mut hands = space.vcpu();
    let mut processor = Processor::new(svm, &answers::PORTS, &answers::MSRS);
    loader::load(&hands, &places, &mut processor, kernel, files);
    say!("loaded: {} pages resident, {:?}", space.resident(), kernel.words);
    let mut exits = Exits::default();
    let ended = run(&mut hands, &mut processor, &mut exits);
    say!("{ended:x?} at {:#x}", processor.rip());
    say!("{exits:?}");
    say!("{:?}", space.stats());
    ended == Ended::PoweredOff
}

/// Runs the guest until it ends.
fn run(hands: &mut Hands, processor: &mut Processor, exits: &mut Exits) -> Ended {
    loop {
        let inside = hands.enter(Tracking::On);
        let exit = processor.run(inside.root_pointer(), inside.due());
        drop(inside);
        match exit {
            Exit::Fault(fault) => {
                exits.faults += 1;
                if let Err(error) = resolve(hands, fault) {
                    say!("{fault}: {error}");
                    return Ended::Stopped(exit);
                }
            }
            Exit::Cpuid => {
                exits.cpuid += 1;
                answers::cpuid(processor);
            }
            Exit::ReadMsr => {
                exits.msrs += 1;
                answers::read_msr(processor);
            }
            Exit::WriteMsr => {
                exits.msrs += 1;
                answers::write_msr(processor);
            }
            Exit::Port(access) => {
                exits.ports += 1;
                match answers::port(processor, &access) {
                    Done::Passed => {}
                    Done::PoweredOff => return Ended::PoweredOff,
                    Done::Unknown => return Ended::Stopped(exit),
                }
            }
            Exit::Undefined => processor.throw(Exception::InvalidOpcode),
            Exit::Shutdown => return Ended::Shutdown,
            Exit::Interrupt | Exit::Return | Exit::Other { .. } => return Ended::Stopped(exit),
        }
    }
}

/// Makes the page resident that the guest could not reach.
fn resolve(hands: &Hands, fault: Fault) -> Result<slat::Fault, slat::FaultError> {
    let Fault::NestedPageFault { gpa, exitinfo1 } = fault else {
        unreachable!("SVM reports no other")
    };
    let access = if exitinfo1 & WRITE != 0 {
        Prot::W
    } else if exitinfo1 & FETCH != 0 {
        Prot::X
    } else {
        Prot::R
    };
    hands.fault(gpa, access)
}
