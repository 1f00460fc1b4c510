//! Every entry that can be made by turning over one bit, or by other rights, at every level, and what the
//! processor makes of it, against what the library's software MMU does.

use slat::{
    Gpa,
    mmu::{Access, AccessKind, Fault},
};

use crate::{
    guest::{self, Deed},
    machine::console::say,
    virt::{Exit, Job, Virt},
    world::{Processor, World},
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
pub(crate) struct Tally {
    pub(crate) same: u64,
    /// A difference that is known.
    pub(crate) known: u64,
    pub(crate) different: u64,
}

/// Goes through all of them.
pub(crate) fn compare<V: Virt>(world: &World<V>, processor: &mut Processor<'_, V>) -> Tally {
    processor.demand(Job::new(Deed::Write, PAGE, 1)).expect("the page can be had");
    let gpa = guest::page(PAGE);
    let slots = world.slots(gpa);
    let usual: alloc::vec::Vec<_> = slots.iter().map(|slot| slot.value()).collect();
    let mut tally = Tally::default();
    for (index, slot) in slots.iter().enumerate() {
        let is_leaf = index + 1 == slots.len();
        // The top one is that of the guest's code as well.
        let kinds: &[AccessKind] = if index + 4 > slots.len() && index > 0 {
            &[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]
        } else {
            &[AccessKind::Fetch]
        };
        for changed in V::variants(&world.virt, usual[index], is_leaf) {
            for &kind in kinds {
                let mut attempt = |came: &mut dyn FnMut() -> Came| {
                    slots.iter().zip(&usual).for_each(|(slot, &value)| slot.set(value));
                    slot.set(changed);
                    guest::put_call(PAGE, V::CALL);
                    let came = came();
                    let left: alloc::vec::Vec<_> = slots.iter().map(|slot| slot.value()).collect();
                    (came, left)
                };
                let hardware = attempt(&mut || on_hardware(processor, gpa, kind));
                let software = attempt(&mut || in_software(processor, gpa, kind));
                if hardware == software {
                    tally.same += 1;
                } else if V::is_known(software.0.fault(), hardware.0.fault()) && hardware.1 == software.1 {
                    tally.known += 1;
                } else {
                    tally.different += 1;
                    if tally.different <= 12 {
                        let level = slots.len() - index;
                        say!("L{level} {changed:#x} {kind:?}: hardware {hardware:x?}, software {software:x?}");
                    }
                }
            }
        }
    }
    slots.iter().zip(&usual).for_each(|(slot, &value)| slot.set(value));
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
    match processor.once(at, Job::new(deed, PAGE, 1)) {
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
