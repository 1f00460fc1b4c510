//! Room for leaves of each size, which come by faults, one for all pages of a leaf; room that is refined for smaller
//! ones; and sizes that the processor does not have.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

use slat::{
    EncodeError, Format, Gpa, GpaRange, HostPfn, MapError, PAGE_BYTES, PageSize, PopulateError,
};

use super::{
    Outcome,
    claims::{Claims, claim},
};
use crate::{
    guest::{self, Deed, Job},
    machine::memory::GUEST,
    virt::Virt,
    world::{ALL_RIGHTS, Machine, Processor, SMALL, World},
};

/// Where leaves of 1 GiB begin: the first of all frames is there.
const HUGE: u64 = 0x8000_0000;
/// Where leaves of 2 MiB begin, by the guest's numbers.
const LARGE: u64 = 4096;

/// Room for leaves of a size.
#[derive(Clone, Copy, Debug)]
struct Room {
    size: PageSize,
    range: GpaRange,
    /// The first page that the guest uses, and how many it does.
    first: u64,
    count: u64,
}

impl Room {
    fn new(size: PageSize, start: Gpa, leaves: u64, first: u64, count: u64) -> Self {
        let range = GpaRange::new(start, leaves * size.bytes()).expect("it is the guest's memory");
        Self { size, range, first, count }
    }

    /// Returns the frame behind an address of it.
    fn frame(&self, gpa: Gpa) -> HostPfn {
        let start = if self.size == PageSize::Size1G {
            0
        } else {
            GUEST.start + self.range.start().get() - guest::DATA
        };
        HostPfn::containing(start + gpa.get() - self.range.start().get())
    }

    /// Has the guest write its pages, which come by leaves of `size`; returns how often it faulted, if it could go on.
    fn fill<V: Virt>(&self, processor: &mut Processor<'_, V>, size: PageSize) -> Option<u64> {
        let before = processor.faults;
        let done = processor.work(Job::new(Deed::AddOne, self.first, self.count), |pin, fault| {
            let start = Gpa::new(fault.gpa().get() & !(size.bytes() - 1));
            match pin.map(start, self.frame(start), size, ALL_RIGHTS) {
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        done.ok().map(|()| processor.faults - before)
    }

    /// Makes the words of the guest's pages zero.
    fn clear(&self) {
        self.words().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Tells whether each page has what the guest did, in its frame.
    fn is_filled(&self, times: u32) -> bool {
        self.words().all(|word| word.load(Ordering::Relaxed) == times)
    }

    fn words(&self) -> impl Iterator<Item = &'static core::sync::atomic::AtomicU32> {
        (self.first..self.first + self.count).map(|page| guest::word(self.frame(guest::page(page))))
    }
}

pub(super) fn run<V: Virt>(machine: &Machine<V>) -> Outcome {
    let huge = (HUGE + GUEST.start - guest::DATA) / PAGE_BYTES;
    let rooms = [
        (Room::new(SMALL, guest::page(0), 512, 0, 512), 512),
        (Room::new(PageSize::Size2M, guest::page(LARGE), 4, LARGE, 2048), 4),
        (Room::new(PageSize::Size1G, Gpa::new(HUGE), 1, huge, 2048), 1),
    ];
    let mut claims = Claims::new("sizes");
    let mut skipped = 0;
    for (room, faults) in rooms {
        if machine.virt.format().supports(room.size) {
            filled(machine, &room, faults, &mut claims);
            refined(machine, &room, &mut claims);
        } else {
            skipped += 1;
            missing(machine, &room, &mut claims);
        }
    }
    claims.outcome(if skipped == 0 {
        "all sizes are there"
    } else {
        "1 GiB is refused, as it is not there"
    })
}

/// One fault a leaf, and all of the guest's pages are where they belong.
fn filled<V: Virt>(machine: &Machine<V>, room: &Room, faults: u64, claims: &mut Claims) {
    let (world, size) = (World::new(machine), room.size);
    let mut processor = Processor::new(&world);
    world.table.populate(room.range, size).expect("there are frames");
    room.clear();
    let came = room.fill(&mut processor, size);
    claim!(claims, came == Some(faults), "{size:?}: one fault a leaf: {came:?}");
    claim!(claims, room.fill(&mut processor, size) == Some(0), "{size:?}: and no more");
    claim!(claims, room.is_filled(2), "{size:?}: all pages are in their frames");
    let mapped = world.table.pin().mapped(room.range);
    claim!(claims, mapped == Ok(room.range.pages()), "{size:?}: all is mapped: {mapped:?}");
    let smaller = world.table.populate(guest::pages(room.first, 1), SMALL);
    claim!(claims, smaller.is_err(), "{size:?}: what is populated is so once");
}

/// Room for large leaves takes small ones when it is refined, and not before.
fn refined<V: Virt>(machine: &Machine<V>, room: &Room, claims: &mut Claims) {
    let Some(smaller) = room.size.smaller() else { return };
    let (world, size) = (World::new(machine), room.size);
    let mut processor = Processor::new(&world);
    world.table.populate(room.range, size).expect("there are frames");
    let gpa = guest::page(room.first);
    let refused = world.table.pin().map(gpa, room.frame(gpa), smaller, ALL_RIGHTS);
    claim!(
        claims,
        matches!(refused, Err(MapError::WrongSize { .. })),
        "{size:?}: it takes no smaller leaf: {refused:?}"
    );
    let done = world.table.refine(guest::pages(room.first, room.count), SMALL);
    claim!(claims, done.is_ok(), "{size:?}: it is refined: {done:?}");
    room.clear();
    let came = room.fill(&mut processor, SMALL);
    claim!(claims, came == Some(room.count), "{size:?}: one fault a page: {came:?}");
    claim!(claims, room.is_filled(1), "{size:?}: all pages are in their frames, one by one");
}

/// A size that the processor does not have is an error.
fn missing<V: Virt>(machine: &Machine<V>, room: &Room, claims: &mut Claims) {
    let (world, size) = (World::new(machine), room.size);
    let populated = world.table.populate(room.range, size);
    claim!(
        claims,
        matches!(populated, Err(PopulateError::BadGranule { .. })),
        "{size:?}: there is no room for such leaves: {populated:?}"
    );
    let start = room.range.start();
    let mapped = world.table.pin().map(start, room.frame(start), size, ALL_RIGHTS);
    let refused = matches!(mapped, Err(MapError::Unencodable(EncodeError::BadSize(_))));
    claim!(claims, refused, "{size:?}: and there are none: {mapped:?}");
}
