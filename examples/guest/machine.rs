//! The machine: a table, the memory behind it, and the vCPUs that run on both.

use std::{
    fs,
    sync::OnceLock,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::ProgressBar;
use slat::{
    AnyFormat, Arena, Attr, Format, Gpa, HostPfn, LeafFlags, PAGE_BYTES, PageSize, PageTable, Prot,
    Tracking,
};

use crate::{
    layout::Layout,
    memory::GuestMemory,
    vcpu::{Broken, Deeds, Tally, Vcpu},
    workload::Workload,
};

/// A guest's memory and its translation.
pub(crate) struct Machine<'w> {
    pub(crate) table: PageTable<AnyFormat, Arena>,
    pub(crate) memory: GuestMemory,
    pub(crate) layout: &'w Layout,
    /// The attributes of every page: a guest may do anything with its memory.
    pub(crate) attr: Attr,
}

/// What became of one vCPU.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) deeds: Vec<Deeds>,
    pub(crate) spare: Option<HostPfn>,
    pub(crate) elapsed: Duration,
    pub(crate) broken: Option<Broken>,
}

impl<'w> Machine<'w> {
    /// Makes the memory that `layout` describes for `vcpus` vCPUs, none of it mapped yet.
    pub(crate) fn new(format: AnyFormat, layout: &'w Layout, vcpus: usize) -> anyhow::Result<Self> {
        let arena =
            Arena::new(layout.tables(format.levels())).context("no memory for the tables")?;
        let table = PageTable::new(format, arena).context("making the table failed")?;
        for region in layout.regions() {
            table
                .populate(*region, PageSize::Size4K)
                .with_context(|| format!("populating {region} failed"))?;
        }
        let user = match format {
            AnyFormat::LongMode(_) => LeafFlags::USER,
            _ => LeafFlags::empty(),
        };
        // Each vCPU can hold one frame that a lost race left over.
        let memory = GuestMemory::new(layout.len() + vcpus);
        let attr = Attr::new(Prot::RWX).with_flags(user);
        Ok(Self { table, memory, layout, attr })
    }

    /// Runs the workload on `vcpus` threads until all of them are done.
    pub(crate) fn run(
        &self,
        workload: &dyn Workload,
        vcpus: usize,
        progress: &ProgressBar,
    ) -> anyhow::Result<Vec<Outcome>> {
        // The vCPUs begin together, so that they meet in the same pages; `None` if they shall not.
        let gate: OnceLock<Option<Instant>> = OnceLock::new();
        let vcpu = |number| {
            gate.wait().map(|begun| self.run_one(workload, number, vcpus, begun, progress))
        };
        thread::scope(|scope| {
            let spawn = |number| {
                let thread = thread::Builder::new().name(format!("vcpu-{number}"));
                let vcpu = &vcpu;
                thread.spawn_scoped(scope, move || vcpu(number))
            };
            let threads: Result<Vec<_>, _> = (0..vcpus).map(spawn).collect();
            gate.get_or_init(|| threads.is_ok().then(Instant::now));
            let threads = threads.with_context(|| format!("cannot start {vcpus} threads"))?;
            // All are waited for, also if one has panicked and said so.
            let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
            let ended: Result<Vec<_>, _> = ended.into_iter().collect();
            let outcomes = ended.map_err(|_| anyhow::anyhow!("a vCPU panicked"))?;
            Ok(outcomes.into_iter().flatten().collect())
        })
    }

    fn run_one(
        &self,
        workload: &dyn Workload,
        number: usize,
        count: usize,
        begun: Instant,
        progress: &ProgressBar,
    ) -> Outcome {
        let mut observer = self.table.observer();
        let inside = observer.enter(Tracking::On);
        let mut vcpu = Vcpu::new(self, inside, number, count, begun, progress);
        let broken = workload.run(&mut vcpu).err();
        let elapsed = vcpu.elapsed();
        let Vcpu { tally, deeds, spare, .. } = vcpu;
        Outcome { tally, deeds, spare, elapsed, broken }
    }
}

/// Fails if the machine that this runs on has no memory for `pages` pages of guest memory.
pub(crate) fn check_host(pages: u64, vcpus: u64) -> anyhow::Result<()> {
    let frame = PAGE_BYTES + size_of::<OnceLock<Box<[u64]>>>() as u64;
    let known = size_of::<Gpa>() as u64 + vcpus * size_of::<Deeds>() as u64;
    let needed = pages.saturating_mul(frame + known);
    if let Some(available) = available_memory() {
        anyhow::ensure!(
            needed <= available,
            "{pages} pages of guest memory need {} MiB of the host's, which has {} MiB available",
            needed >> 20,
            available >> 20
        );
    }
    Ok(())
}

/// Returns how many bytes the host can spare, if it says so.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
