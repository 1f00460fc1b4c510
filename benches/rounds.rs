//! What does a round cost that reads only what was touched? Baseline: the harvest of everything, over the
//! same tables with as much in them.
//!
//! In each of a few rounds some of the regions of 2 MiB are written to, other ones every time: by a software
//! MMU, which sets accessed bits above the leaf as hardware does, or by `set_dirty`. A round is timed; then
//! the same regions are made dirty again, in the leaves alone, and a plain harvest is timed. Where much was
//! touched a round may be plain itself, so the mean says more than the median. `docs/PERFORMANCE.md` has
//! the ratios. With `--test` it runs once, over little memory, and times nothing.

#![expect(clippy::disallowed_types, reason = "the leaves are made dirty by hand")]

use std::{
    env,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use slat::{
    Arena, ArenaOptions, Attr, Bitmap, Ept, EptCaps, Gpa, GpaRange, HostPfn, Levels, Mark,
    PAGE_BYTES, PageSize, PageTable, PhysWidth, Prot, Tracking, mmu::Access,
};
use slat_benches::Bare;

const DIRTY: u64 = 1 << 9;
/// Pages of a region.
const REGION: u64 = 512;
/// How many regions in 10,000 are touched.
const SHARES: [u64; 7] = [0, 100, 500, 1000, 2500, 5000, 10_000];

/// Who writes.
#[derive(Clone, Copy)]
enum By {
    Mmu,
    SetDirty,
}

fn main() {
    let once = env::args().any(|arg| arg == "--test");
    let (wide, narrow, rounds) = if once { (64 << 9, 64 << 9, 1) } else { (64 << 18, 2 << 18, 48) };
    Bench::new(wide).compare(rounds, "64 GiB of guest memory");
    Bench::new(narrow).compare(rounds, "2 GiB of guest memory");
}

struct Bench {
    table: PageTable<Ept, Arc<Arena>>,
    arena: Arc<Arena>,
    area: GpaRange,
}

impl Bench {
    fn new(pages: u64) -> Self {
        let frames = pages / 512 + pages / (512 * 512) + 16;
        let options = ArenaOptions::new(frames).with_huge_pages().with_prefault();
        let arena = Arc::new(options.create().unwrap());
        let ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
        let table = PageTable::new(ept, Arc::clone(&arena)).unwrap();
        let area = GpaRange::from_pages(Gpa::new(0), pages).unwrap();
        let (first, attr) = (HostPfn::new(0x10_0000), Attr::new(Prot::RWX));
        table.populate_mapped(area, PageSize::Size4K, first, attr).unwrap();
        Self { table, arena, area }
    }

    fn words(&self) -> &[AtomicU64] {
        Bare::of(&self.table, &self.arena).leaves(self.area)
    }

    /// Writes to the page in each of these regions.
    fn touch(&self, pages: &[u64], by: By) {
        match by {
            By::Mmu => {
                let mut observer = self.table.observer();
                let inside = observer.enter(Tracking::On);
                let mmu = inside.mmu();
                for page in pages {
                    mmu.translate(Gpa::new(page * PAGE_BYTES), Access::WRITE).unwrap();
                }
            }
            By::SetDirty => {
                let mut selection = Bitmap::new(self.area);
                for page in pages {
                    selection.set(Gpa::new(page * PAGE_BYTES)).unwrap();
                }
                self.table.pin().set_dirty(&selection).unwrap();
            }
        }
    }

    fn compare(&self, rounds: usize, what: &str) {
        println!("{what}, its tables in huge pages, {rounds} rounds:");
        for share in SHARES {
            self.share(rounds, share, By::Mmu);
        }
        self.share(rounds, 100, By::SetDirty);
    }

    fn share(&self, rounds: usize, share: u64, by: By) {
        let mut numbers = Numbers(share);
        let mut found = Bitmap::new(self.area);
        let (mut touched, mut all) = (Vec::new(), Vec::new());
        let reader = self.table.reader();
        // The first few still follow what was touched before.
        for number in 0..rounds + rounds / 2 {
            let regions = 0..self.area.pages() / REGION;
            let pages = regions.filter_map(|region| {
                let pick = numbers.next();
                (pick % 10_000 < share).then_some(region * REGION + (pick >> 32) % REGION)
            });
            let pages: Vec<u64> = pages.collect();
            self.touch(&pages, by);
            found.clear();
            let (round, count) = timed(|| {
                let done = self.table.harvest_round(self.area, Mark::Dirty, &mut found).unwrap();
                done.0
            });
            assert_eq!(count, pages.len() as u64);
            for &page in &pages {
                self.words()[page as usize].fetch_or(DIRTY, Ordering::Relaxed);
            }
            found.clear();
            let (plain, count) = timed(|| {
                let pin = reader.pin();
                pin.harvest(self.area, Mark::Dirty, &mut found).unwrap().0
            });
            assert_eq!(count, pages.len() as u64);
            if number >= rounds / 2 {
                touched.push(round);
                all.push(plain);
            }
        }
        let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() * 1e6;
        let by = match by {
            By::Mmu => "the MMU",
            By::SetDirty => "set_dirty",
        };
        let means = [&touched, &all].map(|times| mean(times) / times.len() as f64);
        let medians = [median(&mut touched), median(&mut all)];
        println!(
            "  {:5.1} % touched by {by:9}  a round {:9.1} us, all {:9.1} us: {:.3} x (medians {:.3} x)",
            share as f64 / 100.0,
            means[0],
            means[1],
            means[0] / means[1],
            medians[0].as_secs_f64() / medians[1].as_secs_f64(),
        );
    }
}

/// Times `work`, with what it drops.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let result = work();
    (began.elapsed(), result)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The same numbers every time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
