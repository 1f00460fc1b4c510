//! What the benchmarks share: the tables that they measure, and how two things are compared.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use slat::{
    Arena, ArenaOptions, Attr, Ept, EptCaps, Gpa, GpaRange, HostPfn, Levels, PageSize, PageTable,
    PhysWidth, Prot,
};

/// The tables that are measured.
pub type Table = PageTable<Ept, Arc<Arena>>;

/// How every page is mapped.
pub const RWX: Attr = Attr::new(Prot::RWX);

/// Returns the format of all tables.
#[must_use]
pub fn ept() -> Ept {
    Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL)
}

/// Makes a table with the first `pages` pages populated, and mapped to the frames from `first` on if there
/// is one.
///
/// # Panics
/// If there is not so much memory.
#[must_use]
pub fn table(pages: u64, first: Option<HostPfn>) -> (Table, Arc<Arena>) {
    let (table, arena) = empty_table(pages);
    let range = area(pages);
    match first {
        Some(first) => table.populate_mapped(range, PageSize::Size4K, first, RWX).unwrap(),
        None => table.populate(range, PageSize::Size4K).unwrap(),
    }
    (table, arena)
}

/// Makes a table that has the frames for so many pages, and nothing populated.
///
/// # Panics
/// If there is not so much memory.
#[must_use]
pub fn empty_table(pages: u64) -> (Table, Arc<Arena>) {
    let frames = pages / 512 + pages / (512 * 512) + 16;
    let arena =
        Arc::new(ArenaOptions::new(frames).with_huge_pages().with_prefault().create().unwrap());
    (PageTable::new(ept(), Arc::clone(&arena)).unwrap(), arena)
}

/// Returns the first `pages` pages.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn area(pages: u64) -> GpaRange {
    GpaRange::from_pages(Gpa::new(0), pages).unwrap()
}

/// The same numbers every time (splitmix64).
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl Iterator for Numbers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ z >> 31)
    }
}

/// Times `work`; what it returns is dropped afterwards, by the caller.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let result = work();
    (began.elapsed(), result)
}

/// Tells whether everything is to run once only, and nothing is timed.
#[must_use]
pub fn runs_once() -> bool {
    env::args().any(|argument| argument == "--test")
}

/// Times of something and of its baseline, which ran by turns: so what the machine does beside hits both
/// alike.
#[derive(Debug, Default)]
pub struct Beside {
    baseline: Vec<Duration>,
    work: Vec<Duration>,
}

impl Beside {
    /// Notes one turn; returns the time of the work.
    pub fn turn(&mut self, baseline: Duration, work: Duration) -> Duration {
        self.baseline.push(baseline);
        self.work.push(work);
        work
    }

    /// Prints how much the work costs beside its baseline: the ratio of the medians.
    pub fn print(self, work: &str, baseline: &str) {
        let turns = self.work.len();
        if runs_once() || turns == 0 {
            return;
        }
        let [baseline_time, time] = [self.baseline, self.work].map(median);
        let ratio = time.as_secs_f64() / baseline_time.as_secs_f64();
        println!("{work}: {ratio:.3} x {baseline} (medians of {turns} turns)");
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
