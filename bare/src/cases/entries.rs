//! Every entry that can be made by turning over one bit, or by other rights, at every level, and what the
//! processor makes of it, against what the library's software MMU does.

use alloc::{format, vec::Vec};

use slat::{
    Entry, Gpa,
    mmu::{Access, AccessKind, Fault},
};

use super::{Outcome, judge};
use crate::{
    guest::{self, Deed, Job},
    machine::console::say,
    virt::{Exit, Virt},
    world::{Machine, Processor, RawSlot, SMALL, World},
};

/// The page whose entries are changed.
const PAGE: u64 = 5;

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Through,
    Stopped(Fault),
    Otherwise(Exit),
}

/// How often the two agreed, or not.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    same: u64,
    /// A difference that is known.
    known: u64,
    different: u64,
}

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let world = World::new(machine);
    world.make_room(PAGE, 1, SMALL);
    let mut processor = Processor::new(&world);
    let Tally { same, known, different } = compare(&world, &mut processor);
    let said = format!(
        "{same} as the software MMU has it, {known} known to differ, {different} different"
    );
    judge(different == 0, said)
}

/// Goes through all of them.
fn compare<V: Virt>(world: &World<'_, V>, processor: &mut Processor<'_, V>) -> Tally {
    processor.demand(Job::new(Deed::Write, PAGE, 1)).expect("the page can be had");
    let gpa = guest::page(PAGE);
    let slots = world.slots(gpa);
    let usual: Vec<_> = slots.iter().map(RawSlot::load).collect();
    let mut tally = Tally::default();
    for (index, slot) in slots.iter().enumerate() {
        let is_leaf = index + 1 == slots.len();
        // The top one is that of the guest's code as well.
        let kinds: &[AccessKind] = if index + 4 > slots.len() && index > 0 {
            &[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]
        } else {
            &[AccessKind::Fetch]
        };
        for changed in world.machine.virt.variants(usual[index].raw(), is_leaf) {
            for &kind in kinds {
                let attempt = |came: &mut dyn FnMut() -> Came| {
                    slots.iter().zip(&usual).for_each(|(slot, &value)| slot.store(value));
                    slot.store(Entry::from_raw(changed));
                    guest::put_call(guest::frame(PAGE), V::CALL);
                    let came = came();
                    let left: Vec<_> = slots.iter().map(|slot| slot.load()).collect();
                    (came, left)
                };
                let hardware = attempt(&mut || on_hardware(processor, gpa, kind));
                let software = attempt(&mut || in_software(processor, gpa, kind));
                if hardware == software {
                    tally.same += 1;
                } else if V::is_known(software.0.fault(), hardware.0.fault())
                    && hardware.1 == software.1
                {
                    tally.known += 1;
                } else {
                    tally.different += 1;
                    if tally.different <= 12 {
                        let level = slots.len() - index;
                        say!(
                            "L{level} {changed:#x} {kind:?}: hardware {hardware:x?}, software {software:x?}"
                        );
                    }
                }
            }
        }
    }
    slots.iter().zip(&usual).for_each(|(slot, &value)| slot.store(value));
    tally
}

impl Came {
    fn fault(self) -> Option<Fault> {
        match self {
            Self::Stopped(fault) => Some(fault),
            _ => None,
        }
    }
}

fn on_hardware<V: Virt>(processor: &mut Processor<'_, V>, gpa: Gpa, kind: AccessKind) -> Came {
    let (at, deed) = match kind {
        AccessKind::Read => (guest::CODE, Deed::Read),
        AccessKind::Write => (guest::CODE, Deed::Write),
        AccessKind::Fetch => (gpa, Deed::Read),
    };
    match processor.once(at, None, Job::new(deed, PAGE, 1)) {
        Exit::Call => Came::Through,
        Exit::Fault(fault) => Came::Stopped(fault),
        exit => Came::Otherwise(exit),
    }
}

fn in_software<V: Virt>(processor: &mut Processor<'_, V>, gpa: Gpa, kind: AccessKind) -> Came {
    let access = match kind {
        AccessKind::Read => Access::READ,
        AccessKind::Write => Access::WRITE,
        AccessKind::Fetch => Access::FETCH,
    };
    processor.translate(gpa, access).map_or_else(Came::Stopped, |_| Came::Through)
}
