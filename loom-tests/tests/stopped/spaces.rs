//! Worlds to stop in, and what there is to stop: faults, holds, and changes of regions.

#![expect(clippy::disallowed_types, reason = "a pool whose own word is no place to stop at")]

use std::{
    ops::ControlFlow,
    sync::{
        Arc as StdArc,
        atomic::{AtomicU64, Ordering},
    },
};

use loom_tests::{
    Arc, Frames, RWX, World, format, format_with, frame, gpa, no_kick, pages,
    sizes::TABLE,
    space::Memory,
    stopped::{self, Done, Facts, Job},
};
use slat::{
    Backing, Bitmap, Contiguous, CopyOnWrite, CopyPool, Ept, EptCaps, FramePool, GpaRange, HostPfn,
    OnDemand, PageSize, Prot, Space, Supplied, Tracking, Vcpu, mmu::Access,
};

use super::{
    Deed, Group, Scene, deed,
    facts::{one, refused, went},
    otherwise, parts,
};

/// The page that all are about.
const PAGE: u64 = 1;

/// The region that all are about, where it is not larger.
fn region() -> GpaRange {
    pages(PAGE, PAGE + 2)
}

/// Frames enough that nobody has to wait for one that comes back.
const FRAMES: u64 = 60;

/// A space, and the region in it.
pub(crate) struct Place {
    space: Memory,
    region: GpaRange,
}

/// Frames without a lock, and without a step.
#[derive(Debug)]
struct Pool(AtomicU64);

impl Pool {
    fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl FramePool for Pool {
    fn take(&self, _: PageSize) -> Option<HostPfn> {
        // Nobody comes in between: threads are parted at shuttle's words.
        let free = self.0.load(Ordering::Relaxed);
        self.0.store(free & (free - 1), Ordering::Relaxed);
        Some(frame(0x1000 + u64::from(free.trailing_zeros())))
    }

    fn give_back(&self, taken: HostPfn, _: PageSize) {
        let bit = 1 << (taken.get() - frame(0x1000).get());
        let free = self.0.fetch_or(bit, Ordering::Relaxed);
        assert_eq!(free & bit, 0, "{taken} came back twice");
    }
}

impl CopyPool for Pool {
    fn copy(&self, _: HostPfn, _: HostPfn) {}
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(*self.0.get_mut(), u64::MAX, "frames did not come back");
        }
    }
}

fn place(format: Ept, region: GpaRange, backing: StdArc<dyn Backing>) -> Place {
    let world = World::in_format(format, FRAMES);
    let space = Space::new(world.table.clone(), no_kick);
    space.map_region(region, backing, 0, RWX).unwrap();
    Place { space, region }
}

/// Frame `page` for page `page`.
fn memory(region: GpaRange) -> StdArc<dyn Backing> {
    let first = region.start().get() / slat::PAGE_BYTES;
    StdArc::new(Contiguous::new(frame(first), region.pages()).unwrap())
}

fn plain() -> Place {
    place(format(), region(), memory(region()))
}

fn on_demand() -> Place {
    let backing = OnDemand::new(StdArc::new(Pool::new()), 2, PageSize::Size4K);
    place(format(), region(), StdArc::new(backing))
}

fn supplied() -> Place {
    let (backing, supplier) = Supplied::new(frame(PAGE), 2).unwrap();
    supplier.supply_range(0..2).unwrap();
    place(format(), region(), StdArc::new(backing))
}

fn resident(place: Place) -> Place {
    place.space.prefault(place.region, |_| ControlFlow::Continue(())).unwrap();
    place
}

fn tracked(place: Place) -> Place {
    place.space.track_dirty(Tracking::On).unwrap();
    place
}

const fn scene(name: &'static str, make: fn() -> Place) -> Scene<Place> {
    // A region that is being changed lets nobody in for a moment.
    Scene { name, make, also: &["Retry"] }
}

pub(crate) const SCENES: &[Scene<Place>] = &[
    scene("memory", plain),
    scene("memory, resident", || resident(plain())),
    scene("memory, resident, tracked", || tracked(resident(plain()))),
    scene("memory on demand", on_demand),
    scene("memory that is supplied", supplied),
    scene("memory on demand, resident", || resident(on_demand())),
    scene("resident, tracked without the MMU", || {
        let format = format_with(EptCaps::EXECUTE_ONLY);
        tracked(resident(place(format, region(), memory(region()))))
    }),
];

fn room_for_a_large_page() -> Place {
    let all = pages(0, TABLE);
    tracked(place(format(), all, memory(all)))
}

fn copied() -> Place {
    let backing = CopyOnWrite::new(memory(region()), StdArc::new(Pool::new()));
    place(format(), region(), StdArc::new(backing))
}

/// In these a fault makes room for a small page, or a copy of one.
pub(crate) const SLOW_SCENES: &[Scene<Place>] = &[
    scene("room for a large page, tracked", room_for_a_large_page),
    Scene {
        // While it is copied it is not there.
        also: &["Retry", "NotPresent", "false"],
        ..scene("memory to copy, resident", || resident(copied()))
    },
];

/// Returns what is where when all is over.
pub(crate) fn look(place: &Place) -> Facts {
    let pin = place.space.table().pin();
    (0..TABLE)
        .map(|page| match pin.lookup(gpa(page)) {
            None => "nothing".into(),
            Some(leaf) => format!("{:?} {:?} {}", leaf.size, leaf.attr.prot(), leaf.dirty),
        })
        .collect()
}

type Processor = Vcpu<Ept, Frames>;

fn vcpu(place: &Arc<Place>, act: fn(&mut Processor) -> Facts) -> Job {
    let mut vcpu = place.space.vcpu();
    Box::new(move || {
        let report = act(&mut vcpu);
        Done { report, kept: Box::new(vcpu) }
    })
}

fn around(place: &Arc<Place>) -> Job {
    let mut vcpu = place.space.vcpu();
    vcpu.set_fault_around(4).unwrap();
    Box::new(move || {
        let report = one(vcpu.fault(gpa(PAGE), Prot::R));
        Done { report, kept: Box::new(vcpu) }
    })
}

fn space(place: &Arc<Place>, act: fn(&Place) -> Facts) -> Job {
    let place = Arc::clone(place);
    Box::new(move || {
        let report = act(&place);
        Done { report, kept: Box::new(place) }
    })
}

fn access(vcpu: &mut Processor, access: Access) -> Facts {
    let inside = vcpu.enter(Tracking::On);
    let reached = inside.mmu().translate(gpa(PAGE), access);
    one(reached.map(drop).map_err(|fault| fault.cause()))
}

fn hold(vcpu: &Processor, access: Prot) -> Facts {
    one(vcpu
        .hold(gpa(PAGE), access)
        .map(|hold| if access.contains(Prot::W) { hold.release_written() } else { hold.release() }))
}

const FAULTS: &[Deed<Place>] = &[
    deed(Group::Fault, "fault, read", |place| {
        vcpu(place, |vcpu| one(vcpu.fault(gpa(PAGE), Prot::R)))
    }),
    deed(Group::Fault, "fault, write", |place| {
        vcpu(place, |vcpu| one(vcpu.fault(gpa(PAGE), Prot::W)))
    }),
    deed(Group::Fault, "fault, next page", |place| {
        vcpu(place, |vcpu| one(vcpu.fault(gpa(PAGE + 1), Prot::R)))
    }),
    deed(Group::Fault, "fault, no region", |place| {
        vcpu(place, |vcpu| one(vcpu.fault(gpa(9), Prot::R)))
    }),
    parts(Group::Fault, "fault around", around),
    deed(Group::Look, "lookup", |place| {
        vcpu(place, |vcpu| {
            let pin = vcpu.reader().pin();
            let found = pin.lookup(gpa(PAGE)).is_some();
            stopped::place();
            vec![found.to_string()]
        })
    }),
    deed(Group::Guest, "enter and leave", |place| {
        vcpu(place, |vcpu| {
            drop(vcpu.enter(Tracking::On));
            Facts::new()
        })
    }),
    deed(Group::Guest, "enter, read, leave", |place| {
        vcpu(place, |vcpu| access(vcpu, Access::READ))
    }),
    deed(Group::Guest, "enter, write, leave", |place| {
        vcpu(place, |vcpu| access(vcpu, Access::WRITE))
    }),
];

const HOLDS: &[Deed<Place>] = &[
    deed(Group::Hold, "fault_and_wait", |place| {
        vcpu(place, |vcpu| one(vcpu.fault_and_wait(gpa(PAGE), Prot::R)))
    }),
    otherwise(Group::Hold, "hold to read", |place| vcpu(place, |vcpu| hold(vcpu, Prot::R))),
    otherwise(Group::Hold, "hold to write", |place| vcpu(place, |vcpu| hold(vcpu, Prot::W))),
    deed(Group::Ask, "make a vCPU", |place| {
        space(place, |place| {
            drop(place.space.vcpu());
            Facts::new()
        })
    }),
    deed(Group::Ask, "regions", |place| {
        space(place, |place| vec![format!("{}", place.space.regions().len())])
    }),
    parts(Group::Ask, "prefault", |place| {
        space(place, |place| {
            went(place.space.prefault(place.region, |_| ControlFlow::Continue(())))
        })
    }),
];

const CHANGES: &[Deed<Place>] = &[
    parts(Group::Region, "dirty", |place| {
        space(place, |place| {
            let mut found = Bitmap::new(place.region);
            match place.space.dirty(place.region, &mut found) {
                Ok(_) => (0..TABLE).map(|page| found.contains(gpa(page)).to_string()).collect(),
                Err(error) => vec![refused(&error)],
            }
        })
    }),
    deed(Group::Region, "map_region elsewhere", |place| {
        space(place, |place| {
            let range = pages(TABLE, TABLE + 2);
            went(place.space.map_region(range, memory(range), 0, RWX))
        })
    }),
    deed(Group::Region, "unmap_region", |place| {
        space(place, |place| went(place.space.unmap_region(place.region)))
    }),
    deed(Group::Region, "protect_region", |place| {
        space(place, |place| went(place.space.protect_region(place.region, Prot::R)))
    }),
    deed(Group::Region, "replace_backing", |place| {
        space(place, |place| {
            let range = pages(PAGE + 8, PAGE + 10);
            went(place.space.replace_backing(place.region, memory(range), 0))
        })
    }),
    deed(Group::Region, "resize_region", |place| {
        space(place, |place| went(place.space.resize_region(place.region, pages(PAGE, PAGE + 1))))
    }),
    parts(Group::Region, "discard", |place| {
        space(place, |place| went(place.space.discard(place.region)))
    }),
    deed(Group::Region, "track_dirty", |place| {
        space(place, |place| went(place.space.track_dirty(Tracking::On)))
    }),
    deed(Group::Region, "stop tracking", |place| {
        space(place, |place| went(place.space.track_dirty(Tracking::Off)))
    }),
];

/// Returns all that there is to stop, and to be stopped by.
pub(crate) fn deeds() -> Vec<Deed<Place>> {
    [FAULTS, HOLDS, CHANGES].concat()
}

/// Returns the faults, of which each may need something slow, and what they may wait for.
pub(crate) fn slow_deeds() -> Vec<Deed<Place>> {
    let mut deeds = [FAULTS, &HOLDS[..1]].concat();
    for deed in deeds.iter_mut().filter(|deed| matches!(deed.group, Group::Fault | Group::Hold)) {
        deed.group = Group::Slow;
    }
    deeds
}
