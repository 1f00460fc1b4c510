//! Leaves that are split and collapsed, again and again, beside everybody: software vCPUs with caches that go
//! stale, threads that map, unmap and protect, one that clears dirty bits round by round, and one that looks.

mod granule;
mod hand;
mod round;
mod stop;

use std::thread;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slat::{
    Format, FrameSource, ObserverId, RefineError, SplitError, Tracking,
    mmu::{CacheConfig, Cause, TranslationCache},
};

use self::{
    granule::{PAGES, SIZE, World},
    hand::{Hand, Tally, Told},
    round::{Pending, Rounds},
};
use crate::{
    READ, WRITE,
    common::{Frames, SMALL, dump, every_format, scaled},
    crew::{Crew, Working, rounds},
    removal::jolts,
};

/// What a thread has to tell at the end.
#[derive(Debug, Default)]
struct Report {
    told: Vec<Told>,
    tally: Tally,
    pending: Vec<Pending>,
    split: u64,
    collapsed: u64,
    written: u64,
    rounds: u64,
}

impl Report {
    fn join(mut self, other: Self) -> Self {
        self.told.extend(other.told);
        self.pending.extend(other.pending);
        self.tally = self.tally.join(other.tally);
        self.split += other.split;
        self.collapsed += other.collapsed;
        self.written += other.written;
        self.rounds += other.rounds;
        self
    }
}

/// Splits and collapses.
fn manage<F: Format>(world: &World<F>, mut rng: SmallRng, working: &Working) -> Report {
    let table = &world.table;
    let mut report = Report::default();
    let kick = |id| world.kick(id);
    while working.go_on() {
        let granule = &world.granules[rng.random_range(0..world.granules.len())];
        match rng.random_range(0..8) {
            0 => match table.split_range(world.all(), SMALL, &kick, |_| ()) {
                Ok(leaves) => report.split += leaves,
                // What waits to be freed has used them up.
                Err(error) => {
                    assert!(
                        matches!(error.source, SplitError::OutOfFrames(few) if few.waiting > 0)
                    );
                    table.reclaim(&kick);
                }
            },
            1 | 2 => match table.split(granule.gpa(rng.random_range(0..PAGES)), SMALL, &kick) {
                Ok(()) => report.split += 1,
                Err(SplitError::NotMapped { .. }) => assert!(!granule.stays, "hidden"),
                Err(SplitError::OutOfFrames(few)) => assert!(few.waiting > 0, "{few}"),
                Err(error) => panic!("{error:?}"),
            },
            3 => match table.refine(granule.whole(), SMALL) {
                Ok(()) | Err(RefineError::Mapped { .. }) => {}
                Err(RefineError::OutOfFrames(few)) => assert!(few.waiting > 0, "{few}"),
                Err(error) => panic!("{error:?}"),
            },
            4 | 5 => {
                let done = table.collapse_range(world.all(), SIZE, &kick, |_| ()).unwrap();
                report.collapsed += done.leaves;
            }
            _ => {
                let done = table.collapse(granule.gpa(rng.random_range(0..PAGES)), SIZE, &kick);
                report.collapsed += u64::from(done.is_ok());
            }
        }
        world.table.source().turn();
    }
    report
}

/// How a vCPU answers a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Leaves,
    Acknowledges,
}

/// Reads and writes as a guest does, through caches that go stale.
fn run<F: Format>(
    world: &World<F>,
    mut rng: SmallRng,
    manner: Manner,
    working: &Working,
) -> Report {
    use std::sync::atomic::Ordering;
    let mut report = Report::default();
    let mut observer = world.table.observer();
    let flag = world.enlist(observer.id());
    let mut cache = TranslationCache::new(CacheConfig { tlb_entries: 16, walk_entries: 32 });
    while working.go_on() {
        let mut inside = observer.enter(Tracking::On);
        inside.refresh(&mut cache);
        for _ in 0..rng.random_range(1..80) {
            if flag.load(Ordering::Acquire) {
                if manner == Manner::Leaves {
                    break;
                }
                // First the flag: a kick after this is answered again.
                flag.swap(false, Ordering::AcqRel);
                inside.acknowledge(|_| ());
                inside.refresh(&mut cache);
            }
            if rng.random_range(0..64) == 0 {
                // What it walks after this it remembers from before.
                world.table.source().linger();
            }
            let granule = &world.granules[rng.random_range(0..world.granules.len())];
            // A few pages, often, so that they are in its caches.
            let page = rng.random_range(0..PAGES / 32) * 32;
            let access = if rng.random() { WRITE } else { READ };
            let before = world.now();
            match inside.mmu().translate_cached(&mut cache, granule.gpa(page), access) {
                Ok(reached) => {
                    // Invariants 3 and 8, before it leaves.
                    granule.reach(page, reached.pfn);
                    if access == WRITE {
                        report.written += 1;
                        granule.written[page].fetch_max(before, Ordering::Relaxed);
                    }
                }
                // Invariant 7.
                Err(fault) => match fault.cause() {
                    Cause::NotPresent => assert!(!granule.stays, "hidden: {fault:?}"),
                    Cause::Rights if access == WRITE => {}
                    _ => panic!("{fault:?}"),
                },
            }
        }
        drop(inside);
        // Only now: a kick from here on finds it outside.
        flag.swap(false, Ordering::AcqRel);
    }
    report
}

/// Looks at what stays, in every way.
fn look<F: Format>(world: &World<F>, mut rng: SmallRng, working: &Working) {
    let reader = world.table.reader();
    while working.go_on() {
        let pin = reader.pin();
        for granule in world.granules.iter().filter(|granule| granule.stays) {
            let page = rng.random_range(0..PAGES);
            let (gpa, frame) = (granule.gpa(page), granule.pfn(0, page));
            // Invariant 7.
            assert_eq!(pin.lookup(gpa).and_then(|leaf| leaf.frame_of(gpa)), Some(frame), "hidden");
            let run = pin.translate(granule.gpa(0), SIZE.bytes(), slat::Prot::R).unwrap();
            assert_eq!((run.pfn, run.len), (granule.pfn(0, 0), SIZE.bytes()), "hidden");
            assert_eq!(pin.mapped(granule.whole()), Ok(PAGES as u64), "hidden");
            for step in pin.walk(gpa, slat::Level::L1).iter() {
                assert!(world.table.format().is_well_formed(step.level, step.entry), "{step:?}");
            }
        }
        drop(pin);
        thread::yield_now();
    }
}

fn race<F: Format>(world: &World<F>, seed: u64, steps: u64) -> Report {
    let rng = |thread| SmallRng::seed_from_u64(seed + thread);
    let mut crew = Crew::new();
    for thread in 0..2 {
        crew.worker(move || {
            jolts::stumble(seed + thread);
            let mut hand = Hand::new(world, rng(thread));
            (0..steps).for_each(|_| hand.step());
            Report { told: hand.told, tally: hand.tally, ..Report::default() }
        });
    }
    for (thread, manner) in [(2, Manner::Leaves), (3, Manner::Acknowledges)] {
        crew.meanwhile(move |working| {
            jolts::stumble(seed + thread);
            run(world, rng(thread), manner, working)
        });
    }
    crew.meanwhile(|working| manage(world, rng(4), working));
    crew.meanwhile(|working| {
        look(world, rng(5), working);
        Report::default()
    });
    crew.meanwhile(|working| {
        let mut all = Rounds::new(world);
        while working.go_on() {
            all.round();
            // A collapse does not come about while its leaves are being looked at.
            (0..50).for_each(|_| thread::yield_now());
        }
        (0..2).for_each(|_| all.round());
        Report { rounds: all.count, pending: all.pending, ..Report::default() }
    });
    crew.run().into_iter().fold(Report::default(), Report::join)
}

every_format! {
    /// Invariants 1 to 3, 5, 7 to 9, 11; each where it is checked.
    fn nothing_is_lost_hidden_or_reached_too_late_while_leaves_change_their_size(format: impl Format) {
        let seed = scaled("SLAT_STRESS_SEED", 0x51a7);
        // Shown if the test fails.
        println!("SLAT_STRESS_SEED={seed}");
        let world = World::new(format);
        let report = race(&world, seed, rounds(2000));
        // Invariant 2.
        for pending in &report.pending {
            assert!(report.told.iter().any(|told| pending.is_told(told)), "lost: {pending:?}");
        }
        // Invariant 11: the dump checks every bit of every entry.
        for (_, _, _, _, entry) in dump(&world.table) {
            let bits = format.accessed_bit() | format.dirty_bit();
            assert!(format.is_present(entry) || !entry.has(bits));
        }
        let mut hand = Hand::new(&world, SmallRng::seed_from_u64(seed));
        hand.clear();
        world.table.vacate(world.all()).unwrap();
        // Invariant 9. Each reader that went has left notes of the epoch, and a call looks through so many.
        let nobody = |id: ObserverId| panic!("{id} is left");
        let freed = (0..1_000_000).any(|_| world.table.reclaim(&nobody).waiting == 0);
        assert!(freed, "tables wait for nobody");
        let stats = world.table.stats();
        assert_eq!((stats.tables, stats.waiting, stats.observers), (1, 0, 0));
        let source: &Frames = &world.table.source().frames;
        assert_eq!(source.free_frames(), source.capacity() - 1);
        let Report { tally, split, collapsed, written, rounds, .. } = report;
        println!("{tally:?}, {split} split, {collapsed} collapsed, {written} written, {rounds} rounds");
        assert!(split > 0 && collapsed > 0 && tally.large > 0 && tally.small > 0);
    }
}
