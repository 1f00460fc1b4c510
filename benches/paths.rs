//! Where do lookup, map and populate stand against the bare operation? Baseline: the same walk (and
//! compare-exchange, and link stores) by hand, over the same tables.
//!
//! Times are per page, and per 2 MiB for populate. Compare the two sides of a group with each other,
//! not with another machine's: `docs/PERFORMANCE.md` has the ratios and how they were taken.

#![expect(clippy::disallowed_types, reason = "the bare operation uses the bare atomic")]

use std::{
    hint::black_box,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slat::{ArenaOptions, Format, Gpa, HostPfn, PageSize, PageTable};
use slat_benches::{Bare, Numbers, RWX, area, ept, link, table};

/// Pages visited in one round in order: their slots fit in a second-level cache.
const SEQUENTIAL: usize = 1 << 16;
/// Pages visited in one round at random: the lines of their slots, 64 MiB, do not fit in any.
const SCATTERED: usize = 1 << 20;

/// The same scattered pages every time.
fn scattered(pages: u64) -> Vec<Gpa> {
    let numbers = Numbers(1).take(SCATTERED);
    numbers.map(|number| Gpa::new(number % pages * 4096)).collect()
}

fn sequential() -> Vec<Gpa> {
    (0..SEQUENTIAL as u64).map(|page| Gpa::new(page * 4096)).collect()
}

fn lookups(criterion: &mut Criterion, name: &str, pages: u64, gpas: &[Gpa]) {
    let (table, arena) = table(pages, Some(HostPfn::new(0x10_0000)));
    let bare = Bare::of(&table, &arena);
    let reader = table.reader();
    let pin = reader.pin();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(gpas.len() as u64));
    group.bench_function("bare walk", |b| {
        b.iter(|| gpas.iter().filter_map(|&gpa| bare.lookup(gpa)).fold(0, |a, p| a ^ p.get()));
    });
    group.bench_function("lookup", |b| {
        b.iter(|| gpas.iter().filter_map(|&gpa| pin.lookup(gpa)).fold(0, |a, m| a ^ m.pfn.get()));
    });
    group.bench_function("lookup_many", |b| {
        b.iter(|| {
            let mut sum = 0;
            pin.lookup_many(gpas.iter().copied(), |_, found| {
                sum ^= found.map_or(0, |mapping| mapping.pfn.get());
            });
            sum
        });
    });
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let wide = 64 << 18;
    lookups(criterion, "lookup sequential", SEQUENTIAL as u64, &sequential());
    lookups(criterion, "lookup random 64 GiB", wide, &scattered(wide));
}

/// Times `round` only, and undoes it by `reset`.
fn rounds(iterations: u64, round: impl Fn(), reset: impl Fn()) -> Duration {
    (0..iterations)
        .map(|_| {
            let began = Instant::now();
            round();
            let took = began.elapsed();
            reset();
            took
        })
        .sum()
}

fn maps(criterion: &mut Criterion, name: &str, pages: u64, mut gpas: Vec<Gpa>) {
    let mut seen = std::collections::HashSet::new();
    gpas.retain(|gpa| seen.insert(gpa.get()));
    let (table, arena) = table(pages, None);
    let bare = Bare::of(&table, &arena);
    let reader = table.reader();
    let pin = reader.pin();
    let pfn = HostPfn::new(0x77);
    let leaf = ept().leaf(PageSize::Size4K, pfn, RWX).unwrap().raw();
    let clear = || {
        for &gpa in &gpas {
            assert!(bare.exchange(gpa, leaf, 0), "every page of the round was mapped");
        }
    };
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(gpas.len() as u64));
    group.bench_function("bare walk + CAS", |b| {
        let round = || gpas.iter().for_each(|&gpa| assert!(bare.exchange(gpa, 0, leaf)));
        b.iter_custom(|n| rounds(n, round, clear));
    });
    group.bench_function("map", |b| {
        let round = || {
            for &gpa in &gpas {
                black_box(pin.map(gpa, pfn, PageSize::Size4K, RWX)).unwrap();
            }
        };
        b.iter_custom(|n| rounds(n, round, clear));
    });
    group.bench_function("map_many", |b| {
        let round = || {
            pin.map_many(gpas.iter().map(|&gpa| (gpa, pfn)), RWX, |_, done| {
                black_box(done).unwrap();
            });
        };
        b.iter_custom(|n| rounds(n, round, clear));
    });
    group.bench_function("unmap", |b| {
        let round = || {
            for &gpa in &gpas {
                let (mapping, flush) = pin.unmap(gpa).unwrap();
                black_box((mapping, flush.range()));
            }
        };
        let fill = || gpas.iter().for_each(|&gpa| assert!(bare.exchange(gpa, 0, leaf)));
        fill();
        b.iter_custom(|n| rounds(n, round, fill));
        clear();
    });
    group.finish();
}

fn map(criterion: &mut Criterion) {
    let wide = 64 << 18;
    maps(criterion, "map sequential", SEQUENTIAL as u64, sequential());
    maps(criterion, "map random 64 GiB", wide, scattered(wide));
}

fn populate(criterion: &mut Criterion) {
    const TABLES: u64 = 4096;
    let range = area(TABLES * 512);
    let mut group = criterion.benchmark_group("populate, per 2 MiB");
    group.throughput(Throughput::Elements(TABLES));
    group.bench_function("bare link store", |b| {
        let links: Vec<AtomicU64> = (0..TABLES).map(|_| AtomicU64::new(0)).collect();
        b.iter(|| link(black_box(&links), TABLES));
    });
    group.bench_function("populate", |b| {
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    // A new arena each time: its frames are known to be zero. Not timed.
                    let arena = ArenaOptions::new(TABLES + 16).with_prefault().create().unwrap();
                    let table = PageTable::new(ept(), arena).unwrap();
                    let began = Instant::now();
                    table.populate(range, PageSize::Size4K).unwrap();
                    began.elapsed()
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group! {
    name = paths;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = lookup, map, populate
}
criterion_main!(paths);
