//! What does a harvest cost beside the bare read of the tables? Baselines: a wide read of every leaf
//! table, which is the least that any scan can cost; a read with a locked operation on every entry, which
//! is the plain way at 100 % dirty; and the kernel's own way for a process's pages (PAGEMAP_SCAN).
//!
//! Each harvest runs by turns with its baseline, and the ratio is printed behind it. Times are per 4 KiB
//! page. `docs/PERFORMANCE.md` has the ratios.

#![expect(clippy::disallowed_types, reason = "the bare operation uses the bare atomic")]

mod pagemap;

use std::{
    cell::RefCell,
    hint::black_box,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pagemap::Pagemap;
use slat::{Arena, Bitmap, GpaRange, HostPfn, Mark};
use slat_benches::{Bare, Beside, Numbers, Table, area, read, runs_once, table, timed};

const DIRTY: u64 = 1 << 9;
/// How many pages in 10,000 are dirty.
const SHARES: [u64; 4] = [0, 100, 1000, 10_000];
/// Of these, all.
const ALL: u64 = 10_000;

struct Memory {
    table: Table,
    arena: Arc<Arena>,
    area: GpaRange,
    found: RefCell<Bitmap>,
}

impl Memory {
    fn new(pages: u64) -> Self {
        let (table, arena) = table(pages, Some(HostPfn::new(0x10_0000)));
        let area = area(pages);
        Self { table, arena, area, found: RefCell::new(Bitmap::new(area)) }
    }

    fn words(&self) -> &[AtomicU64] {
        Bare::of(&self.table, &self.arena).leaves(self.area)
    }

    /// Makes the same scattered pages dirty every time.
    fn dirty(&self, share: u64) {
        for (word, number) in self.words().iter().zip(Numbers(share)) {
            if number % ALL < share {
                word.fetch_or(DIRTY, Ordering::Relaxed);
            }
        }
    }

    /// Times a harvest of so many dirty pages.
    fn harvest(&self, share: u64) -> Duration {
        self.dirty(share);
        let found = &mut *self.found.borrow_mut();
        found.clear();
        let pin = self.table.pin();
        let (took, (count, _flush)) = timed(|| pin.harvest(self.area, Mark::Dirty, found).unwrap());
        assert_eq!(count, found.count());
        took
    }

    /// Times the bare read.
    fn read(&self) -> Duration {
        timed(|| black_box(read(black_box(self.words())))).0
    }

    /// Times the plain way to take what is dirty, if everything is.
    fn take(&self) -> Duration {
        self.dirty(ALL);
        let found = &mut *self.found.borrow_mut();
        timed(|| take_each(self.words(), found.words_mut())).0
    }
}

/// The plain way: an atomic operation on each entry, and its bit if it was there.
fn take_each(words: &[AtomicU64], found: &mut [u64]) {
    for (words, found) in words.chunks(64).zip(found) {
        for (word, bit) in words.iter().zip(0..) {
            if word.load(Ordering::Relaxed) & DIRTY != 0
                && word.fetch_and(!DIRTY, Ordering::Relaxed) & DIRTY != 0
            {
                *found |= 1 << bit;
            }
        }
    }
}

fn sum(turns: u64, turn: impl FnMut(u64) -> Duration) -> Duration {
    (0..turns).map(turn).sum()
}

fn tables(criterion: &mut Criterion, name: &str, pages: u64) {
    let memory = Memory::new(pages);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(pages));
    group.bench_function("bare read", |b| b.iter_custom(|n| sum(n, |_| memory.read())));
    group.bench_function("read and a locked operation on each", |b| {
        b.iter_custom(|n| sum(n, |_| memory.take()));
    });
    for share in SHARES {
        let what = format!("harvest, {} % dirty", share / 100);
        let (mut reads, mut takes) = (Beside::default(), Beside::default());
        group.bench_function(&what, |b| {
            b.iter_custom(|n| {
                sum(n, |_| {
                    let harvest = reads.turn(memory.read(), memory.harvest(share));
                    if share == ALL { takes.turn(memory.take(), harvest) } else { harvest }
                })
            });
        });
        reads.print(&format!("{name}: {what}"), "the bare read");
        takes.print(&format!("{name}: {what}"), "the read and a locked operation on each");
    }
    group.finish();
}

fn kernel(criterion: &mut Criterion, pages: u64) {
    let name = format!("harvest beside PAGEMAP_SCAN, {} MiB", pages / 256);
    let pagemap = match Pagemap::new(pages as usize) {
        Ok(pagemap) => pagemap,
        Err(why) => return println!("skipped: {name}: {why}"),
    };
    let memory = Memory::new(pages);
    let mut group = criterion.benchmark_group(&name);
    group.throughput(Throughput::Elements(pages));
    for share in SHARES {
        let what = format!("PAGEMAP_SCAN that clears, {} % dirty", share / 100);
        let mut scans = Beside::default();
        group.bench_function(&what, |b| {
            b.iter_custom(|n| {
                sum(n, |_| {
                    let scan = pagemap.scan_dirty(share);
                    scans.turn(memory.harvest(share), scan)
                })
            });
        });
        scans.print(&format!("{name}: {what}"), "the harvest");
    }
    group.finish();
}

fn harvest(criterion: &mut Criterion) {
    let (wide, narrow) = if runs_once() { (64 << 9, 64) } else { (64 << 18, 2 << 18) };
    tables(criterion, "harvest of 64 GiB", wide);
    tables(criterion, "harvest of 2 GiB", narrow);
    kernel(criterion, narrow);
}

criterion_group! {
    name = harvests;
    config = Criterion::default()
        .sample_size(25)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = harvest
}
criterion_main!(harvests);
