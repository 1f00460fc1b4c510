//! What does a fault in a space cost beside the bare walk and compare-exchange? Besides these it enters the
//! epoch, finds the region, asks the backing, encodes the leaf, and counts. Between the two stand
//! `Pinned::map`s of a kept reader: with a pin that is taken anew for each, as a fault takes it, and with one that is
//! repinned.
//!
//! Each runs by turns with the baseline, over the same tables, and the ratio is printed behind it.
//! `docs/PERFORMANCE.md` has the ratios.

use std::{
    cell::Cell,
    collections::HashSet,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use slat::{
    Arena, Backing, Contiguous, Ept, Fault, Format, FramePool, Gpa, GpaRange, HostPfn, ObserverId,
    OnDemand, PageSize, Prot, Reader, Space, Vcpu,
};
use slat_benches::{Bare, Beside, Numbers, RWX, Table, empty_table, ept, runs_once};

/// Odd, so that consecutive frames do not make larger leaves.
const FRAME: HostPfn = HostPfn::new(0x10_0001);

/// Pages of one round: so few that most rounds end before another process gets the processor, the longer
/// ones as well as those of the baseline.
const ROUND: usize = 1 << 12;

/// Which pages fault.
#[derive(Clone, Copy)]
enum Order {
    /// Neighbours, whose slots stay in a second-level cache.
    InOrder,
    /// At random over 64 GiB: the lines of their slots do not.
    Scattered,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in order",
            Self::Scattered => "scattered",
        }
    }

    /// Returns how many pages the space has, and those that fault, each once.
    fn pages(self) -> (u64, Vec<Gpa>) {
        let (all, some) = match self {
            Self::InOrder => (1 << 16, 1 << 16),
            Self::Scattered if runs_once() => (64 << 9, 1 << 9),
            Self::Scattered => (64 << 18, 1 << 19),
        };
        let mut seen = HashSet::new();
        let whole_rounds = |mut gpas: Vec<Gpa>| {
            gpas.truncate((gpas.len() / ROUND).max(1) * ROUND);
            gpas
        };
        let page = |number: u64| Gpa::new(number % all * 4096);
        let gpas = match self {
            Self::InOrder => (0..some).map(page).collect(),
            Self::Scattered => Numbers(1)
                .take(some as usize)
                .map(page)
                .filter(|gpa| seen.insert(gpa.get()))
                .collect(),
        };
        (all, whole_rounds(gpas))
    }
}

/// The cheapest pool that there can be.
#[derive(Debug)]
struct OneFrame;

impl FramePool for OneFrame {
    fn take(&self, _: PageSize) -> Option<HostPfn> {
        Some(FRAME)
    }

    fn give_back(&self, _: HostPfn, _: PageSize) {}
}

#[derive(Clone, Copy)]
enum Kind {
    Contiguous,
    OnDemand,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::OnDemand => "on demand",
        }
    }

    fn backing(self, first: u64, pages: u64) -> Arc<dyn Backing> {
        match self {
            Self::Contiguous => {
                let frame = FRAME.checked_add(first).unwrap();
                Arc::new(Contiguous::new(frame, pages).unwrap())
            }
            Self::OnDemand => Arc::new(OnDemand::new(Arc::new(OneFrame), pages, PageSize::Size4K)),
        }
    }
}

/// A space of equal regions, in which nothing is resident.
struct Scene {
    space: Space<Ept, Arc<Arena>>,
    arena: Arc<Arena>,
    vcpu: Vcpu<Ept, Arc<Arena>>,
    gpas: Vec<Gpa>,
    /// Where in `gpas` the next round begins, in rounds. None begins where the one before did, so it finds in
    /// the caches what all of them leave there.
    next: Cell<usize>,
    /// What the baseline maps.
    leaf: u64,
}

impl Scene {
    fn new(order: Order, kind: Kind, regions: u64) -> Self {
        let (pages, gpas) = order.pages();
        let (table, arena) = empty_table(pages);
        let space = Space::new(table, |_: ObserverId| ());
        let each = pages / regions;
        for first in (0..regions).map(|index| index * each) {
            let range = GpaRange::from_pages(Gpa::new(first * 4096), each).unwrap();
            space.map_region(range, kind.backing(first, each), 0, RWX).unwrap();
        }
        let vcpu = space.vcpu();
        let leaf = ept().leaf(PageSize::Size4K, FRAME, RWX).unwrap().raw();
        Self { space, arena, vcpu, gpas, next: Cell::new(0), leaf }
    }

    fn table(&self) -> &Table {
        self.space.table()
    }

    /// Times a round, which maps its pages; and takes them out again.
    fn round(&self, mut map: impl FnMut(Gpa)) -> Duration {
        let bare = Bare::of(self.table(), &self.arena);
        let round = self.next.replace(self.next.get() + 1) % self.gpas.len().div_ceil(ROUND);
        let gpas = self.gpas.chunks(ROUND).nth(round).expect("there are so many");
        let began = Instant::now();
        gpas.iter().for_each(|&gpa| map(gpa));
        let took = began.elapsed();
        for &gpa in gpas {
            assert_ne!(bare.clear(gpa), 0, "every page of the round was mapped");
        }
        took
    }

    fn bare(&self) -> Duration {
        let bare = Bare::of(self.table(), &self.arena);
        self.round(|gpa| assert!(bare.exchange(gpa, 0, self.leaf)))
    }

    fn map_repinned(&self, reader: &Reader<Ept, Arc<Arena>>) -> Duration {
        let mut pin = reader.pin();
        self.round(|gpa| {
            pin.repin();
            black_box(pin.map(gpa, FRAME, PageSize::Size4K, RWX)).unwrap();
        })
    }

    fn map_pinned(&self, reader: &Reader<Ept, Arc<Arena>>) -> Duration {
        self.round(|gpa| {
            black_box(reader.pin().map(gpa, FRAME, PageSize::Size4K, RWX)).unwrap();
        })
    }

    fn fault(&self) -> Duration {
        self.round(|gpa| assert_eq!(self.vcpu.fault(gpa, Prot::W).unwrap(), Fault::Resolved))
    }
}

fn beside(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    what: &str,
    scene: &Scene,
    work: impl Fn(&Scene) -> Duration,
) {
    let mut turns = Beside::default();
    group.bench_function(what, |b| {
        b.iter_custom(|n| (0..n).map(|_| turns.turn(scene.bare(), work(scene))).sum());
    });
    turns.print(&format!("{name}: {what}"), "the bare walk and exchange");
}

fn maps(criterion: &mut Criterion, order: Order) {
    let scene = Scene::new(order, Kind::Contiguous, 1);
    let reader = scene.table().reader();
    let name = format!("map, {}", order.name());
    let mut group = criterion.benchmark_group(&name);
    group.throughput(Throughput::Elements(ROUND as u64));
    beside(&mut group, &name, "repinned for each", &scene, |scene| scene.map_repinned(&reader));
    beside(&mut group, &name, "a pin for each", &scene, |scene| scene.map_pinned(&reader));
    group.finish();
}

fn faults_of(criterion: &mut Criterion, order: Order, kind: Kind) {
    let name = format!("fault, {}, {}", kind.name(), order.name());
    for regions in [1, 8, 64] {
        let scene = Scene::new(order, kind, regions);
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Elements(ROUND as u64));
        beside(&mut group, &name, &format!("{regions} regions"), &scene, Scene::fault);
        group.finish();
    }
}

fn faults(criterion: &mut Criterion) {
    for order in [Order::InOrder, Order::Scattered] {
        maps(criterion, order);
        for kind in [Kind::Contiguous, Kind::OnDemand] {
            faults_of(criterion, order, kind);
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = faults
}
criterion_main!(all);
