//! What does a round cost that reads only what was touched? Baseline: the harvest of everything, over the
//! same tables with as much in them.
//!
//! In each turn some of the regions of 2 MiB are written to, other ones every time: by a software MMU, which
//! sets accessed bits above the leaf as hardware does, or by `set_dirty`. A round is timed; then the same
//! regions are made dirty again, in the leaves alone, and a plain harvest is timed. Where much was touched
//! seven of eight rounds are plain themselves, so eight in a row are taken together. The ratio is printed
//! behind each; `docs/PERFORMANCE.md` has them.

#![expect(clippy::disallowed_types, reason = "the leaves are made dirty by hand")]

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slat::{Arena, Bitmap, Gpa, GpaRange, HostPfn, Mark, PAGE_BYTES, Tracking, mmu::Access};
use slat_benches::{Bare, Beside, Numbers, Table, area, runs_once, table, timed};

const DIRTY: u64 = 1 << 9;
/// Rounds that are taken together.
const EIGHT: u64 = 8;
/// Pages of a region.
const REGION: u64 = 512;
/// How many regions in 10,000 are touched, and by whom.
const TOUCHES: [(u64, By); 8] = [
    (0, By::Mmu),
    (100, By::Mmu),
    (100, By::SetDirty),
    (500, By::Mmu),
    (1000, By::Mmu),
    (2500, By::Mmu),
    (5000, By::Mmu),
    (10_000, By::Mmu),
];

/// Who writes.
#[derive(Clone, Copy)]
enum By {
    Mmu,
    SetDirty,
}

struct Memory {
    table: Table,
    arena: Arc<Arena>,
    area: GpaRange,
    found: Bitmap,
    numbers: Numbers,
}

impl Memory {
    fn new(pages: u64) -> Self {
        let (table, arena) = table(pages, Some(HostPfn::new(0x10_0000)));
        let area = area(pages);
        Self { table, arena, area, found: Bitmap::new(area), numbers: Numbers(1) }
    }

    fn words(&self) -> &[AtomicU64] {
        Bare::of(&self.table, &self.arena).leaves(self.area)
    }

    /// Returns a page in each of so many regions, other ones every time.
    fn scattered(&mut self, share: u64) -> Vec<u64> {
        let regions = (0..self.area.pages() / REGION).zip(&mut self.numbers);
        let touched = regions.filter(|(_, pick)| pick % 10_000 < share);
        touched.map(|(region, pick)| region * REGION + (pick >> 32) % REGION).collect()
    }

    /// Writes to the pages.
    fn touch(&self, pages: &[u64], by: By) {
        let gpas = pages.iter().map(|page| Gpa::new(page * PAGE_BYTES));
        match by {
            By::Mmu => {
                let mut observer = self.table.observer();
                let inside = observer.enter(Tracking::On);
                let mmu = inside.mmu();
                gpas.for_each(|gpa| assert!(mmu.translate(gpa, Access::WRITE).is_ok()));
            }
            By::SetDirty => {
                let mut selection = Bitmap::new(self.area);
                gpas.for_each(|gpa| assert_eq!(selection.set(gpa), Ok(false)));
                self.table.pin().set_dirty(&selection).unwrap();
            }
        }
    }

    /// Times a round and a harvest of everything, with as much to find.
    fn turn(&mut self, share: u64, by: By) -> [Duration; 2] {
        let pages = self.scattered(share);
        self.touch(&pages, by);
        let found = &mut self.found;
        found.clear();
        let (round, (count, _flush)) =
            timed(|| self.table.harvest_round(self.area, Mark::Dirty, found).unwrap());
        assert_eq!(count, pages.len() as u64);
        found.clear();
        for &page in &pages {
            self.words()[page as usize].fetch_or(DIRTY, Ordering::Relaxed);
        }
        let pin = self.table.pin();
        let (plain, (count, _flush)) =
            timed(|| pin.harvest(self.area, Mark::Dirty, &mut self.found).unwrap());
        assert_eq!(count, pages.len() as u64);
        [round, plain]
    }

    /// Times eight of them.
    fn turns(&mut self, share: u64, by: By) -> [Duration; 2] {
        (0..EIGHT).fold([Duration::ZERO; 2], |sums, _| {
            let [round, plain] = self.turn(share, by);
            [sums[0] + round, sums[1] + plain]
        })
    }
}

fn compare(criterion: &mut Criterion, name: &str, pages: u64) {
    let mut memory = Memory::new(pages);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(EIGHT));
    group.bench_function("harvest of everything, 1 % touched", |b| {
        b.iter_custom(|n| (0..n).map(|_| memory.turns(100, By::Mmu)[1]).sum());
    });
    for (share, by) in TOUCHES {
        let who = match by {
            By::Mmu => "the MMU",
            By::SetDirty => "set_dirty",
        };
        let what = format!("round, {} % touched by {who}", share / 100);
        let mut beside = Beside::default();
        // What was touched before is still carried.
        memory.turns(share, by);
        group.bench_function(&what, |b| {
            b.iter_custom(|n| {
                let turn = |_| {
                    let [round, plain] = memory.turns(share, by);
                    beside.turn(plain, round)
                };
                (0..n).map(turn).sum()
            });
        });
        beside.print(&format!("{name}: {what}"), "the harvest of everything");
    }
    group.finish();
}

fn round(criterion: &mut Criterion) {
    let (wide, narrow) = if runs_once() { (64 << 9, 64 << 9) } else { (64 << 18, 2 << 18) };
    compare(criterion, "rounds over 64 GiB", wide);
    compare(criterion, "rounds over 2 GiB", narrow);
}

criterion_group! {
    name = rounds;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = round
}
criterion_main!(rounds);
