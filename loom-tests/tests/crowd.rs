//! Crowds on a few pages: many threads, of which each does many things. Frames are in one hand at a time, the
//! table's or a member's, and bear a stamp that says for which page; who still reaches a frame that is
//! somebody else's reads another one, or what nobody ordered.

use std::sync::Arc as StdArc;

use loom_tests::{
    Arc, Frames, Guest, Page, RWX, Table, World,
    crowd::{Clock, MEMBERS, Member, Part, STEPS, Wanted, crowd, explore},
    frame, gpa, no_kick, pages,
    sizes::{SMALL, TABLE},
    space::{Processor, Site, Stopped},
};
use slat::{
    Bitmap, Ept, GpaRange, HoldEnd, HostPfn, MapError, Mapped, Mark, OnDemand, Prot, Reader,
    mmu::Access,
};

/// The pages that all are about: of three leaf tables, of which two are there at a time.
const PAGES: [u64; 4] = [0, TABLE, TABLE + 1, 2 * TABLE];

/// The stamp of a frame that nobody has for a page.
const FREE: u64 = u64::MAX;

/// How many frames there are: one for each member, and two that are mapped.
const COUNT: u64 = MEMBERS + 2;

/// A table, and what is in the frames behind it.
#[derive(Debug)]
struct Memory {
    world: World,
    stamps: Vec<Page>,
}

impl Memory {
    /// Makes room for some pages, of which two are mapped, and a frame for each member.
    fn new() -> Arc<Self> {
        // A table that is vacated is the next one that is populated.
        let world = World::new(2);
        world.table.populate(pages(0, 2 * TABLE), SMALL).unwrap();
        let stamps: Vec<_> = (0..COUNT).map(|_| Page::new()).collect();
        for (page, own) in PAGES.into_iter().zip(MEMBERS..COUNT) {
            stamps[own as usize].write(page);
            world.table.pin().map(gpa(page), frame(own), SMALL, RWX).unwrap();
        }
        Arc::new(Self { world, stamps })
    }

    fn stamp(&self, pfn: HostPfn) -> &Page {
        &self.stamps[number(pfn) as usize]
    }

    /// Says that each frame is in one hand, and that what is mapped is what its mapper wrote.
    fn audit(&self, hands: Vec<Vec<u64>>) {
        let mut all: Vec<u64> = hands.into_iter().flatten().collect();
        for leaf in PAGES.into_iter().filter_map(|page| self.world.lookup(page)) {
            assert_eq!(gpa(self.stamp(leaf.pfn).read()), leaf.gpa);
            all.push(number(leaf.pfn));
        }
        all.sort_unstable();
        assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    }
}

fn number(pfn: HostPfn) -> u64 {
    pfn.get() - frame(0).get()
}

/// When a frame that was unmapped is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    /// At once: no MMU walks.
    AtOnce,
    /// When it is shot down.
    ShotDown,
}

/// How many things a hand chooses from. The last two are for those who make many steps.
const CHOICES: u64 = if cfg!(loom) { 10 } else { 12 };

/// What a member changes memory with.
#[derive(Debug)]
struct Hand {
    memory: Arc<Memory>,
    reader: Reader<Ept, Frames>,
    frames: Vec<u64>,
    reuse: Reuse,
}

impl Hand {
    fn new(memory: &Arc<Memory>, frames: Vec<u64>, reuse: Reuse) -> Self {
        let reader = memory.world.table.reader();
        Self { memory: Arc::clone(memory), reader, frames, reuse }
    }

    /// Makes all steps; returns the frames that are left.
    fn play(mut self, member: &mut Member) -> Vec<u64> {
        for _ in 0..STEPS {
            let page = member.one_of(&PAGES);
            match member.choose(CHOICES) {
                0..=2 => self.map(member, page),
                3..=5 => self.unmap(member, page),
                6 => self.change_bits(member, page),
                7 => self.protect(member),
                8 => self.vacate(member, page),
                9 => self.populate(member, page),
                _ => self.move_table(member, page),
            }
        }
        self.frames
    }

    fn table(&self) -> &Table {
        &self.memory.world.table
    }

    fn map(&mut self, member: &mut Member, page: u64) {
        let Some(own) = self.frames.pop() else { return };
        self.memory.stamps[own as usize].write(page);
        let mapped = self.reader.pin().map(gpa(page), frame(own), SMALL, RWX);
        match mapped {
            Ok(Mapped::New) => return member.did("map"),
            Err(MapError::Vacated { .. }) => {
                member.did("map too late");
                if self.reuse == Reuse::ShotDown {
                    // It was there for a moment.
                    self.table().flush_all().shootdown().wait(&no_kick).unwrap();
                }
            }
            Err(MapError::Occupied(_)) => member.did("find it occupied"),
            Err(MapError::NotPopulated { .. }) => member.did("find no room"),
            other => panic!("{other:?}"),
        }
        self.frames.push(own);
    }

    fn unmap(&mut self, member: &mut Member, page: u64) {
        let unmapped = self.reader.pin().unmap(gpa(page));
        let Ok((old, flush)) = unmapped else { return };
        let stamp = self.memory.stamp(old.pfn);
        assert_eq!(stamp.read(), page);
        if self.reuse == Reuse::ShotDown {
            flush.shootdown().wait(&no_kick).unwrap();
        }
        stamp.write(FREE);
        self.frames.push(number(old.pfn));
        member.did("unmap");
    }

    fn protect(&self, member: &mut Member) {
        let (changed, _flush) = self.reader.pin().protect(pages(0, 3 * TABLE), Prot::R).unwrap();
        if changed > 0 {
            member.did("protect");
        }
    }

    fn change_bits(&self, member: &mut Member, page: u64) {
        let pin = self.reader.pin();
        let slot = pin.slot(gpa(page)).unwrap();
        slot.set_dirty();
        if slot.clear_dirty() {
            member.did("clear a bit");
        }
        let leaf = pin.lookup(gpa(page));
        assert!(leaf.is_none_or(|leaf| number(leaf.pfn) < COUNT), "{leaf:?}");
    }

    fn vacate(&self, member: &mut Member, page: u64) {
        // It is mapped, or not there.
        if self.table().vacate(around(member, page)).is_ok() {
            member.did("vacate");
        }
    }

    fn populate(&self, member: &mut Member, page: u64) {
        // It is there already, or no table is free.
        if self.table().populate(around(member, page), SMALL).is_ok() {
            member.did("populate");
        }
    }

    /// Takes a table away and makes one of another range, perhaps in the same frame, with a page mapped there.
    fn move_table(&mut self, member: &mut Member, page: u64) {
        let from = page / TABLE * TABLE;
        if self.table().vacate(pages(from, from + TABLE)).is_err() {
            return;
        }
        for first in [0, TABLE, 2 * TABLE].into_iter().filter(|&first| first != from) {
            if self.table().populate(pages(first, first + TABLE), SMALL).is_ok() {
                member.did("move a table");
                return self.map(member, first);
            }
        }
    }
}

/// Returns the page, or all of its leaf table.
fn around(member: &mut Member, page: u64) -> GpaRange {
    let first = page / TABLE * TABLE;
    member.one_of(&[pages(page, page + 1), pages(first, first + TABLE)])
}

/// What many hands do; under shuttle some come too late for a vacate as well.
const CHANGES: [&str; 10] = [
    "map",
    if cfg!(shuttle) { "map too late" } else { "map" },
    "find it occupied",
    "find no room",
    "unmap",
    "protect",
    "clear a bit",
    "vacate",
    "populate",
    "move a table",
];

/// What comes of faults and holds beside changes, and of these.
const REACHES: [&str; 8] = [
    "read",
    "fault again",
    "find no region",
    "hold",
    "hold what went",
    "discard",
    "replace",
    "unmap",
];

fn parts<T>(part: impl Fn(u64) -> Part<T>) -> Vec<Part<T>> {
    (0..MEMBERS).map(part).collect()
}

#[test]
fn each_frame_is_in_one_hand_whatever_a_crowd_does() {
    // A vacate of a table beside an unmap in it, and of a page beside a populate of it; a map beside an unmap.
    let wanted = Wanted {
        by_many: &CHANGES,
        by_two: &["map", "unmap", "vacate", "populate"],
        seeds: &[99, 135, 650],
    };
    explore(2, &wanted, |seed| {
        let memory = Memory::new();
        let hands = crowd(
            seed,
            parts(|own| {
                let hand = Hand::new(&memory, vec![own], Reuse::AtOnce);
                Box::new(move |member| hand.play(member))
            }),
        );
        memory.audit(hands);
    });
}

/// How often a guest reads at most, before it comes out.
const STAY: u64 = if cfg!(loom) { 6 } else { 20 };

/// Goes in and out, and while it is inside reads a page again and again.
fn visit(memory: &Memory, guest: &mut Guest, member: &mut Member) {
    for _ in 0..STEPS {
        let page = member.one_of(&PAGES);
        let mut stay = guest.enter();
        for _ in 0..=member.choose(STAY) {
            if let Ok(reached) = stay.access(page, Access::READ) {
                assert_eq!(memory.stamp(reached).read(), page);
                member.did("read");
            } else {
                member.did("fault");
            }
        }
    }
}

/// Tables and pages go and come, and guests are inside with caches that go stale.
#[test]
fn no_guest_of_a_crowd_reaches_what_was_shot_down() {
    // An unmap, a vacate and a map of the page that the guest reads again and again.
    let wanted = Wanted {
        by_many: &[&CHANGES[..], &["read", "fault"]].concat(),
        by_two: &["unmap", "vacate", "map", "read", "fault"],
        seeds: &[57, 117, 67],
    };
    explore(2, &wanted, |seed| {
        let memory = Memory::new();
        let hands = crowd(
            seed,
            parts(|own| -> Part<Vec<u64>> {
                if own % 2 == 0 {
                    let frames = (own..MEMBERS.min(own + 2)).collect();
                    let hand = Hand::new(&memory, frames, Reuse::ShotDown);
                    return Box::new(move |member| hand.play(member));
                }
                let memory = Arc::clone(&memory);
                // Half of them have caches of the way to leaves alone.
                let make = if own % 4 == 1 { Guest::forgetful } else { Guest::new };
                let mut guest = make(&memory.world);
                Box::new(move |member| {
                    visit(&memory, &mut guest, member);
                    Vec::new()
                })
            }),
        );
        memory.audit(hands);
    });
}

/// When each page was last written, and last reported.
#[derive(Debug, Default)]
struct Times {
    written: [u64; 4],
    reported: [u64; 4],
}

fn write(clock: &Clock, guest: &mut Guest, member: &mut Member) -> Times {
    let mut times = Times::default();
    for _ in 0..STEPS {
        let page = member.choose(4);
        let began = clock.tick();
        if guest.enter().access(page, Access::WRITE).is_ok() {
            times.written[page as usize] = began;
            member.did("write");
        }
    }
    times
}

/// Does rounds of harvests, each with its shoot-down.
fn harvest(world: &World, clock: &Clock, rounds: u64, mut tell: impl FnMut()) -> Times {
    let mut times = Times::default();
    for _ in 0..rounds {
        let mut found = Bitmap::new(pages(0, 4));
        let (_, flush) = world.table.harvest_round(pages(0, 4), Mark::Dirty, &mut found).unwrap();
        flush.shootdown().wait(&no_kick).unwrap();
        let over = clock.tick();
        for page in (0..4).filter(|&page| found.contains(gpa(page))) {
            times.reported[page as usize] = over;
            tell();
        }
    }
    times
}

/// A page that was written after the shoot-down of a round is reported by a later one.
#[test]
fn what_a_crowd_writes_is_reported_by_a_round_that_was_not_over() {
    // One page is like another.
    let deeds = ["write", "report"];
    explore(2, &Wanted { by_many: &deeds, by_two: &deeds, seeds: &[0] }, |seed| {
        let world = Arc::new(World::new(4).filled(SMALL));
        let clock = Arc::new(Clock::new());
        let mut all = crowd(
            seed,
            parts(|own| -> Part<Times> {
                let (world, clock) = (Arc::clone(&world), Arc::clone(&clock));
                if own == 0 {
                    return Box::new(move |member| {
                        harvest(&world, &clock, STEPS, || member.did("report"))
                    });
                }
                let mut guest = Guest::new(&world);
                Box::new(move |member| write(&clock, &mut guest, member))
            }),
        );
        all.push(harvest(&world, &clock, 3, || ()));
        for page in 0..4 {
            let last = |times: fn(&Times) -> &[u64; 4]| {
                all.iter().map(|one| times(one)[page]).max().unwrap()
            };
            let (written, reported) = (last(|one| &one.written), last(|one| &one.reported));
            assert!(written <= reported, "page {page} was written at {written}: {reported}");
        }
    });
}

/// Changes the region of the page, again and again.
fn change(site: &Site, member: &mut Member, backing: impl Fn() -> StdArc<OnDemand>) {
    for _ in 0..STEPS {
        match member.choose(3) {
            0 if site.discard() => member.did("discard"),
            0 => {}
            1 => {
                site.replace(backing());
                member.did("replace");
            }
            _ => {
                site.unmap();
                site.map(backing());
                member.did("unmap");
            }
        }
    }
}

/// Reads the page as a guest, or holds it and reads it as a device.
fn reach(site: &Site, processor: &mut Processor, member: &mut Member) {
    for _ in 0..STEPS {
        if member.choose(3) > 0 {
            // The frame is read while the guest is inside.
            member.did(match processor.touch(Access::READ) {
                Ok(_) => "read",
                Err(Stopped::Retry) => "fault again",
                Err(Stopped::NoRegion) => "find no region",
                Err(Stopped::Gone) => "fault for nothing",
            });
        } else if let Ok(hold) = processor.hold(Prot::R) {
            // However long that takes, the frame stays, and nobody else has it.
            let contents = site.ram.read(hold.frame());
            let _: Result<_, Stopped> = processor.touch(Access::READ);
            assert_eq!(site.ram.read(hold.frame()), contents);
            let end = hold.release();
            member.did(if end == HoldEnd::InPlace { "hold" } else { "hold what went" });
        }
    }
}

#[test]
fn no_fault_or_hold_of_a_crowd_reaches_a_frame_that_was_given_back() {
    // Each change, once beside a guest and twice beside a device.
    let by_two = ["read", "hold", "discard", "replace", "unmap"];
    explore(1, &Wanted { by_many: &REACHES, by_two: &by_two, seeds: &[0, 1, 6] }, |seed| {
        let site = Site::new();
        let pool = site.numbered_pool(0, 12);
        let backing = {
            let pool = pool.clone();
            move || StdArc::new(OnDemand::new(pool.clone(), 1, SMALL))
        };
        site.map(backing());
        let site = Arc::new(site);
        crowd(
            seed,
            parts(|own| -> Part<()> {
                let (site, backing) = (Arc::clone(&site), backing.clone());
                if own == 0 {
                    return Box::new(move |member| change(&site, member, backing));
                }
                let mut processor = site.processor();
                Box::new(move |member| reach(&site, &mut processor, member))
            }),
        );
        site.unmap();
        assert_eq!((site.space.resident(), pool.taken()), (0, 0));
    });
}
