//! What does a harvest cost beside the bare read of the tables? Baselines: a wide read of every leaf
//! table, which is the least that any scan can cost; a read with a locked operation on every entry, which
//! is the plain way at 100 % dirty; and the kernel's own way for a process's pages (PAGEMAP_SCAN).
//!
//! A round runs each of them once, one behind the other, so that what the machine does beside hits all
//! alike; the medians of the rounds are compared. Times are per 4 KiB page. `docs/PERFORMANCE.md` has the
//! ratios. With `--test` it runs once, over little memory, and times nothing.

#![expect(clippy::disallowed_types, reason = "the bare operation uses the bare atomic")]

mod pagemap;

use std::{
    env,
    hint::black_box,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use pagemap::Pagemap;
use slat::{
    Arena, ArenaOptions, Attr, Bitmap, Ept, EptCaps, Gpa, GpaRange, HostPfn, Levels, Mark,
    PageSize, PageTable, PhysWidth, Prot,
};
use slat_benches::{Bare, read};

const DIRTY: u64 = 1 << 9;
/// How many pages in 10,000 are dirty.
const SHARES: [u64; 4] = [0, 100, 1000, 10_000];

fn main() {
    let once = env::args().any(|arg| arg == "--test");
    let (wide, narrow, rounds) = if once { (64 << 9, 64, 1) } else { (64 << 18, 2 << 18, 25) };
    Bench::new(wide).compare(rounds, "64 GiB of guest memory");
    Bench::new(narrow).compare(rounds, "2 GiB of guest memory");
    match Pagemap::new(narrow as usize) {
        Ok(pagemap) => pagemap.compare(rounds),
        Err(why) => println!("skipped: PAGEMAP_SCAN: {why}"),
    }
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

    /// Makes the same scattered pages dirty every time.
    fn dirty(&self, share: u64) {
        let mut numbers = Numbers(share);
        for word in self.words() {
            if share == 10_000 || (share > 0 && numbers.next() % 10_000 < share) {
                word.fetch_or(DIRTY, Ordering::Relaxed);
            }
        }
    }

    fn compare(&self, rounds: usize, what: &str) {
        let reader = self.table.reader();
        let mut found = Bitmap::new(self.area);
        let (mut reads, mut locked) = (Vec::new(), Vec::new());
        let mut harvests = SHARES.map(|_| Vec::new());
        for _ in 0..rounds {
            reads.push(timed(|| black_box(read(black_box(self.words())))));
            for (share, times) in SHARES.into_iter().zip(&mut harvests) {
                self.dirty(share);
                found.clear();
                let pin = reader.pin();
                let mut count = 0;
                times.push(timed(|| {
                    let (pages, flush) = pin.harvest(self.area, Mark::Dirty, &mut found).unwrap();
                    count = pages;
                    flush
                }));
                assert_eq!(count, found.count());
            }
            self.dirty(10_000);
            locked.push(timed(|| take_each(self.words(), found.words_mut())));
        }
        let pages = self.area.pages() as f64;
        let per_page = |times: &mut Vec<Duration>| median(times).as_secs_f64() * 1e9 / pages;
        let (limit, plain) = (per_page(&mut reads), per_page(&mut locked));
        println!("{what}, its tables in huge pages, ns a page (median of {rounds}):");
        println!("  bare read                            {limit:7.3}");
        println!("  read and a locked operation on each  {plain:7.3}");
        for (share, times) in SHARES.into_iter().zip(&mut harvests) {
            let time = per_page(times);
            let (share, bandwidth) = (share / 100, 100.0 * limit / time);
            println!(
                "  harvest, {share:3} % dirty               {time:7.3}  {bandwidth:5.1} % of the read's \
                 bandwidth, {:.2} x read and locked",
                time / plain
            );
        }
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

/// Times `work`; what it returns is dropped afterwards.
fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    let result = work();
    let took = began.elapsed();
    drop(result);
    took
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
