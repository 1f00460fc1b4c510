//! Memory stays flat: however often tables come and go, no frame and no byte more is in use.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "counts allocations, and reads tables through the frame source")]
#![expect(clippy::disallowed_types, reason = "no model runs this")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use common::{Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at, every_format, pfn, range, scaled};
use slat::{
    Format, FrameSource, ObserverId, PopulateError, Reader, Tracking, VacateError,
    mmu::{Access, Mode, TranslationCache},
};

/// Bytes of the heap in use.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with a count.
struct CountingAllocator;

// SAFETY: every promise is kept by the allocator behind; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// All count in one heap: one at a time.
static TURN: Mutex<()> = Mutex::new(());

const WRITE: Access = Access::WRITE.in_mode(Mode::Supervisor);

/// What the runner of the tests may add on its own.
const SLACK: u64 = 16 << 10;

/// A whole leaf table, and one that goes with the last page in it.
const START: u64 = GIB - 2 * MIB;
const BYTES: u64 = 2 * MIB + 7 * PAGE;

/// What was in use, in one part of the test.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// Bytes of the heap, after the part. While it goes on, each reader keeps some for a while.
    heap: u64,
    /// The most.
    peak: u64,
    /// The most.
    frames: u64,
}

/// Faults, as vCPUs do, in what comes and goes.
fn fault<F: Format>(
    table: &Checked<F>,
    come_out: &AtomicBool,
    done: &AtomicBool,
    vcpu: u64,
) -> u64 {
    let reader = table.reader();
    let mut observer = table.observer();
    let mut cache = TranslationCache::default();
    let mut faults = 0;
    while !done.load(Ordering::Acquire) {
        let inside = observer.enter(Tracking::On);
        inside.refresh(&mut cache);
        let mut fault = None;
        for page in (0..8).map(|page| at(START + BYTES - (page + 1) * PAGE)) {
            if come_out.load(Ordering::Acquire) {
                break;
            }
            if inside.mmu().translate_cached(&mut cache, page, WRITE).is_err() {
                fault = Some(page);
                break;
            }
        }
        drop(inside);
        come_out.store(false, Ordering::Release);
        if let Some(gpa) = fault {
            let _ = reader.pin().map(gpa, pfn(vcpu), SMALL, RWX);
            faults += 1;
        }
        // Rather here than inside, where others would wait for it.
        thread::yield_now();
    }
    faults
}

/// Does one round; returns how often a step of it had to be tried again.
fn come_and_go<F: Format>(
    table: &Checked<F>,
    reader: &Reader<F, Arc<Frames>>,
    kick: &impl Fn(ObserverId),
) -> u64 {
    let area = range(START, BYTES);
    let mut again = 0;
    while let Err(error) = table.populate(area, SMALL) {
        assert!(matches!(error, PopulateError::OutOfFrames(_)), "{error:?}");
        table.reclaim(kick);
        thread::yield_now();
        again += 1;
    }
    loop {
        let (_, flush) = reader.pin().unmap_range(area, drop).unwrap();
        let vacated = table.vacate(area);
        flush.shootdown().wait(kick).unwrap();
        match vacated {
            Ok(()) => return again,
            Err(VacateError::StillMapped { .. } | VacateError::Busy) => again += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Lets tables come and go beside vCPUs; returns how often a step was tried again, and the faults.
fn run<F: Format>(table: &Checked<F>, rounds: u64, part: &mut Use) -> (u64, u64) {
    let flags = &[AtomicBool::new(false), AtomicBool::new(false)];
    let done = &AtomicBool::new(false);
    let kick = |_: ObserverId| flags.iter().for_each(|flag| flag.store(true, Ordering::Release));
    let reader = table.reader();
    let source = table.source();
    thread::scope(|scope| {
        let vcpus = [1, 2].map(|vcpu| {
            let flag = &flags[vcpu as usize - 1];
            scope.spawn(move || fault(table, flag, done, vcpu))
        });
        let mut again = 0;
        for _ in 0..rounds {
            again += come_and_go(table, &reader, &kick);
            part.peak = part.peak.max(IN_USE.load(Ordering::Relaxed));
            part.frames = part.frames.max(source.capacity() - source.free_frames());
        }
        done.store(true, Ordering::Release);
        (again, vcpus.into_iter().map(|vcpu| vcpu.join().unwrap()).sum())
    })
}

/// Frees what waits for readers and observers that are gone.
fn settle<F: Format>(table: &Checked<F>) {
    // Each of these looks through some of what the epoch keeps.
    (0..200).for_each(|_| drop(table.pin()));
    let nobody = |id: ObserverId| panic!("{id} is gone");
    assert!((0..1000).any(|_| table.reclaim(&nobody).waiting == 0), "tables wait for nobody");
    assert_eq!(table.source().free_frames(), table.source().capacity() - 1);
}

every_format! {
    /// O5.
    fn tables_come_and_go_beside_faulting_vcpus_in_the_same_memory(format: impl Format) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let release = if cfg!(debug_assertions) { 200 } else { 1000 };
        let rounds = release * scaled("SLAT_STRESS_SCALE", 1);
        // For the area a few times over, not more.
        let table = &Checked::new(format, 40);
        let began = Instant::now();
        let (mut parts, mut again, mut faults) = ([Use::default(); 4], 0, 0);
        for part in &mut parts {
            let (tried, faulted) = run(table, rounds / 4, part);
            again += tried;
            faults += faulted;
            settle(table);
            part.heap = IN_USE.load(Ordering::Relaxed);
        }
        let (name, time) = (format.name(), began.elapsed());
        println!("{name}: {rounds} rounds, {again} again, {faults} faults, {time:?}, {parts:?}");
        // In the first part there is something to get used to.
        let [_, early, _, late] = parts;
        assert!(late.heap <= early.heap + SLACK, "the heap grows: {parts:?}");
        assert_eq!((table.stats().tables, table.stats().waiting), (1, 0));
    }
}
