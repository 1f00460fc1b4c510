//! Root pointers: which of them the processor takes, against what the software MMU takes, and whether the table's
//! own are among these.

use alloc::format;

use slat::{
    Format, Tracking,
    mmu::{BadRootPointer, Fault, Mmu},
};

use super::{Outcome, judge};
use crate::{
    guest::{CODE, Deed, Job},
    machine::{console::say, emulator::Emulator},
    virt::{Exit, Start, Virt},
    world::{Machine, Processor, SMALL, World},
};

const PAGE: u64 = 5;
/// The guest's first fetch, under SVM, where there are no tables.
const NOTHING_THERE: Fault =
    Fault::NestedPageFault { gpa: CODE, exitinfo1: 1 << 32 | 1 << 4 | 1 << 2 };
/// The bits that a physical address may have.
const ADDRESSES: u64 = (1 << 52) - 1;
/// How many differences are printed.
const SHOWN: u64 = 12;

/// How often the processor took one, or not, or differed.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    taken: u64,
    refused: u64,
    /// It took one that it should refuse, and is known to.
    known: u64,
    /// Values with bits to which the processor gives a meaning that the library has no use for.
    skipped: u64,
    different: u64,
}

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let world = World::new(machine);
    world.make_room(PAGE, 1, SMALL);
    let mut processor = Processor::new(&world);
    processor.demand(Job::new(Deed::Write, PAGE, 1)).expect("the page can be had");
    let mut tally = Tally::default();
    let mut own = 0;
    for tracking in machine.trackings() {
        own += u64::from(enter(&mut processor, |root| root, tracking) == Exit::Call);
    }
    let format = machine.virt.format();
    let root = format.root_pointer(world.table.root(), Tracking::On);
    let low = (0..0x1000).map(|low| root & !0xfff | low);
    let high = (u32::from(format.phys_width().bits())..64).map(|bit| root ^ 1 << bit);
    for value in low.chain(high) {
        if value & machine.virt.root_bits_of_others() == 0 {
            try_one(&mut processor, value, &mut tally);
        } else {
            tally.skipped += 1;
        }
    }
    let Tally { taken, refused, known, skipped, different } = tally;
    if machine.emulator == Emulator::Qemu {
        say!(
            "known: roots: reserved bits of nCR3 are not refused: {known} times, wrong by the manuals"
        );
    }
    let owns = machine.trackings().len() as u64;
    let said = format!(
        "{own} of {owns} of the table's own taken; of others {taken} taken and {refused} refused as the manuals have \
         it, {known} known to differ, {different} different; {skipped} skipped, for shadow stacks"
    );
    judge(own == owns && different == 0, said)
}

/// Has the guest begin with another root pointer.
fn enter<V: Virt>(
    processor: &mut Processor<'_, V>,
    change: impl FnOnce(u64) -> u64,
    tracking: Tracking,
) -> Exit {
    let job = Job::new(Deed::Read, PAGE, 1);
    processor.once_by(Start::at(CODE), tracking, change, job)
}

fn try_one<V: Virt>(processor: &mut Processor<'_, V>, value: u64, tally: &mut Tally) {
    let world = processor.world;
    let format = world.machine.virt.format();
    // SAFETY: no table is freed meanwhile, and the frame in the pointer is still the root's.
    let due = unsafe { Mmu::new(format, &*world.machine.frames, value) }.err();
    let exit = enter(processor, |_| value, Tracking::On);
    match (exit, due) {
        (Exit::Call, None) => tally.taken += 1,
        (Exit::Refused, Some(_)) => tally.refused += 1,
        (exit, Some(BadRootPointer::Reserved { bits }))
            if world.machine.emulator == Emulator::Qemu && is_known(bits, exit) =>
        {
            tally.known += 1;
        }
        _ => {
            tally.different += 1;
            if tally.different <= SHOWN {
                say!("root pointer {value:#x}: processor {exit:x?}, manual {due:x?}");
            }
        }
    }
}

/// Tells whether it is known that QEMU enters with these reserved bits in nCR3, and comes out like this: it walks
/// from where they lead to, and there is no memory; or, with four levels, ignores those that belong to no address.
fn is_known(bits: u64, exit: Exit) -> bool {
    exit == Exit::Fault(NOTHING_THERE) || bits & ADDRESSES == 0 && exit == Exit::Call
}
