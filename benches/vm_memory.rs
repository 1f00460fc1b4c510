//! What does a device's access to a space cost beside vm-memory's own IOMMU? Baseline: `IommuMemory` over an
//! `Iotlb` in a lock, filled before, whose writes are tracked in an `AtomicBitmap`; over host memory of its own that
//! lies the same way. All pages are resident, and every access is translated anew, as a queue's are.
//!
//! Each runs by turns with the baseline, and the ratio is printed behind it. `docs/PERFORMANCE.md` has the
//! ratios.

#![expect(clippy::disallowed_types, reason = "the baseline has a lock, as an IOMMU's user would")]

use std::{
    iter,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, Barrier, RwLock, RwLockReadGuard},
    thread,
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slat::{
    Answer, Arena, Attr, Backing, Ept, HostPfn, ObserverId, Prot, Space, SpaceBitmap, SpaceMemory,
    Want,
};
use slat_benches::{Beside, Numbers, area, empty_table, runs_once, timed};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Iommu, IommuMemory, Iotlb, Permissions,
    bitmap::AtomicBitmap, iommu,
};

const PAGE: u64 = 4096;
/// 64 MiB.
const PAGES: u64 = 1 << 14;
/// Accesses in one turn, of each thread: so few that most turns end before another process gets the processor.
const ACCESSES: usize = 1 << 11;

/// Where pages lie in host memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// Each anywhere.
    Scattered,
    /// All in one run.
    Consecutive,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Scattered => "scattered pages",
            Self::Consecutive => "one run",
        }
    }

    fn frame(self, page: u64) -> u64 {
        match self {
            Self::Scattered => page * 0x2b5b % PAGES,
            Self::Consecutive => page,
        }
    }
}

impl Backing for Layout {
    fn pages(&self) -> u64 {
        PAGES
    }

    fn frame(&self, want: &Want) -> Answer {
        Answer::Frame(HostPfn::new(Self::frame(*self, want.page)), Prot::RW)
    }
}

type OfSpace = SpaceMemory<Ept, Arc<Arena>, GuestMemoryMmap<SpaceBitmap>>;
type OfIommu = IommuMemory<GuestMemoryMmap<AtomicBitmap>, Locked>;

fn host<B: vm_memory::bitmap::NewBitmap>() -> GuestMemoryMmap<B> {
    let bytes = (PAGES * PAGE) as usize;
    let host = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
    for page in 0..PAGES {
        host.write_obj(page, GuestAddress(page * PAGE)).unwrap();
    }
    host
}

fn of_space(layout: Layout) -> OfSpace {
    let (table, _) = empty_table(PAGES);
    let space = Space::new(table, |_: ObserverId| ());
    space.map_region(area(PAGES), Arc::new(layout), 0, Attr::new(Prot::RW)).unwrap();
    space.prefault(area(PAGES), |_| ControlFlow::Continue(())).unwrap();
    space.memory(host())
}

/// The IOTLB that has it all.
#[derive(Debug)]
struct Locked(RwLock<Iotlb>);

impl Iommu for Locked {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<iommu::IotlbIterator<Self::IotlbGuard<'_>>, iommu::Error> {
        Iotlb::lookup(self.0.read().unwrap(), iova, length, access).map_err(|_| {
            let iova_range = iommu::IovaRange { base: iova, length };
            iommu::Error::CannotResolve { iova_range, reason: String::new() }
        })
    }
}

fn of_iommu(layout: Layout) -> OfIommu {
    let mut iotlb = Iotlb::new();
    for page in 0..PAGES {
        let (iova, to) = (GuestAddress(page * PAGE), GuestAddress(layout.frame(page) * PAGE));
        iotlb.set_mapping(iova, to, PAGE as usize, Permissions::ReadWrite).unwrap();
    }
    let page = NonZeroUsize::new(PAGE as usize).unwrap();
    let bitmap = AtomicBitmap::new((PAGES * PAGE) as usize, page);
    IommuMemory::new(host(), Locked(RwLock::new(iotlb)), true, bitmap)
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// Does the accesses of one thread, of `len` bytes each, none across a page.
fn visit(memory: &impl GuestMemory, seed: u64, access: Access, len: usize) {
    let mut bytes = [0; PAGE as usize];
    let bytes = &mut bytes[..len];
    for number in Numbers(seed).take(ACCESSES) {
        let offset = (number >> 32) % (PAGE / len as u64) * len as u64;
        let at = GuestAddress(number % PAGES * PAGE + offset);
        match access {
            Access::Read => memory.read_slice(bytes, at).unwrap(),
            Access::Write => memory.write_slice(bytes, at).unwrap(),
        }
    }
}

/// Times a turn: as many threads as there are handles, until the last is done.
fn turn(memories: &[impl GuestMemory + Sync], seed: u64, access: Access, len: usize) -> Duration {
    let [one, others @ ..] = memories else { return Duration::ZERO };
    let start = &Barrier::new(memories.len());
    thread::scope(|scope| {
        let visit = move |memory, seed| {
            start.wait();
            timed(|| visit(memory, seed, access, len)).0
        };
        let other = |(memory, seed)| scope.spawn(move || visit(memory, seed));
        let others = others.iter().zip(seed + 1..).map(other).collect::<Vec<_>>();
        let took = visit(one, seed);
        others.into_iter().map(|other| other.join().unwrap()).fold(took, Duration::max)
    })
}

fn beside(criterion: &mut Criterion, layout: Layout, threads: usize) {
    let name = format!("device, {}, {threads} threads", layout.name());
    let space = vec![of_space(layout); threads];
    let iommu = vec![of_iommu(layout); threads];
    let mut group = criterion.benchmark_group(&name);
    group.throughput(Throughput::Elements((ACCESSES * threads) as u64));
    for len in [64, PAGE as usize] {
        for (access, verb) in [(Access::Read, "read"), (Access::Write, "write")] {
            let what = format!("{verb} of {len} bytes");
            let (mut turns, mut seed) = (Beside::default(), 0);
            group.bench_function(&what, |b| {
                b.iter_custom(|n| {
                    let one = || {
                        seed += threads as u64;
                        let baseline = turn(&iommu, seed, access, len);
                        turns.turn(baseline, turn(&space, seed, access, len))
                    };
                    iter::repeat_with(one).take(n as usize).sum()
                });
            });
            turns.print(&format!("{name}: {what}"), "IommuMemory");
        }
    }
    group.finish();
}

fn devices(criterion: &mut Criterion) {
    let most = if runs_once() { 1 } else { 2 };
    for layout in [Layout::Scattered, Layout::Consecutive] {
        for threads in 1..=most {
            beside(criterion, layout, threads);
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = devices
}
criterion_main!(all);
