//! The machine: a space, the memory behind it, and the threads that run on both.

use std::{
    fs, io,
    sync::{Arc, OnceLock},
    thread::{self, Scope, ScopedJoinHandle},
    time::Instant,
};

use anyhow::Context;
use slat::{
    AnyFormat, Arena, ArenaOptions, Attr, Backing, Format, Gpa, GpaRange, Kick, LeafFlags, Levels,
    MapRegionError, ObserverId, PageSize, PageTable, PopulateError, Prot, Space,
};

use crate::{
    backing::Fresh,
    deeds::Deeds,
    frame::WORDS,
    kvm::{self, TABLES, Vm, VmError},
    layout::{self, Layout},
    manager::{Account, Change, Flushing, LOOK, MANAGERS, MOST_LOOKS, Manager},
    memory::{GuestMemory, PAGE_COST},
    mover::Movable,
    outcome::{Outcome, Tally},
    precopy::{Copied, Copier},
    progress::{Progress, Ticker},
    resizer,
    soft::SoftCpu,
    stage::{Kicks, Stage},
    vcpu::Vcpu,
    workload::{Part, Workload},
};

/// A guest's memory and its translation, and what runs the guest.
pub(crate) struct Machine<'w> {
    /// The guest's memory as regions: those of the layout, and with KVM the guest's own.
    pub(crate) space: Space<AnyFormat, Arena>,
    pub(crate) kicks: Arc<Kicks>,
    pub(crate) memory: Arc<GuestMemory>,
    /// What the regions of the layout are made of; if pages are to move, as such.
    backing: Arc<dyn Backing>,
    /// What decoys are made of.
    small: Arc<dyn Backing>,
    pub(crate) movable: Option<Arc<Movable>>,
    pub(crate) layout: &'w Layout,
    /// The attributes of every page: a guest may do anything with its memory.
    pub(crate) attr: Attr,
    /// What happens to memory; `None` if a page that was faulted in is there for good.
    pub(crate) change: Option<Change>,
    pub(crate) flushing: Flushing,
    /// KVM, if its processors are to run the guest; else software MMUs do.
    pub(crate) vm: Option<Vm>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) vcpus: Vec<Outcome>,
    pub(crate) managers: Vec<Account>,
    /// What the copier did, if there was one.
    pub(crate) copied: Option<Copied>,
    pub(crate) stage: Stage,
}

impl Run {
    /// Returns what all vCPUs counted together.
    pub(crate) fn total(&self) -> Tally {
        self.vcpus.iter().map(|vcpu| vcpu.tally).fold(Tally::default(), Tally::plus)
    }

    /// Returns the regions that are populated in the end, in ascending order.
    pub(crate) fn present(&self) -> impl Iterator<Item = usize> {
        let regions = 0..self.stage.places.len();
        regions.filter(|region| self.managers.iter().all(|manager| !manager.away.contains(region)))
    }
}

impl<'w> Machine<'w> {
    /// Makes the memory that a workload needs for `vcpus` vCPUs, none of it mapped yet; `host` is the
    /// KVM that shall run them, if it shall.
    pub(crate) fn new(
        format: AnyFormat,
        workload: &'w dyn Workload,
        vcpus: usize,
        host: Option<&kvm::Host>,
    ) -> anyhow::Result<Self> {
        let layout = workload.layout();
        let granule = layout.granule();
        let system = host.map(|host| (host.region(vcpus), PageSize::Size4K));
        let tables = tables(workload, system, format.levels());
        let arena = ArenaOptions::new(tables).with_base(TABLES).with_memfd().create();
        let table = PageTable::new(format, arena.context("no memory for the tables")?)
            .context("making the table failed")?;
        let kicks = match host {
            Some(_) => Kicks::by_signal(kvm::signal_kicks().context("cannot kick vCPUs")?),
            None => Kicks::default(),
        };
        let kicks = Arc::new(kicks);
        let kicker = Arc::clone(&kicks);
        let space = Space::new(table, move |vcpu: ObserverId| kicker.kick(vcpu));
        let user = match format {
            AnyFormat::LongMode(_) => LeafFlags::USER,
            _ => LeafFlags::empty(),
        };
        let turnover = workload.turnover();
        let change = turnover.map(|turnover| turnover.change);
        let moves = change == Some(Change::Migrate);
        let memory = GuestMemory::new(frames(layout, vcpus, change));
        let memory = Arc::new(memory.context("no memory for the guest")?);
        let vm = host.map(|host| Vm::new(host, &space, Arc::clone(memory.mapping()), vcpus));
        let vm = vm.transpose().context("making the guest failed")?;
        let movable = moves.then(|| Arc::new(Movable::new(Arc::clone(&memory), granule)));
        let backing: Arc<dyn Backing> = match &movable {
            Some(movable) => Arc::clone(movable) as _,
            None => Arc::new(Fresh::new(Arc::clone(&memory), granule)),
        };
        let small = Arc::new(Fresh::new(Arc::clone(&memory), PageSize::Size4K));
        let attr = Attr::new(Prot::RWX).with_flags(user);
        let flushing = turnover.map(|turnover| turnover.flushing);
        let flushing = flushing.or(workload.precopy().map(|precopy| precopy.flushing));
        let flushing = flushing.unwrap_or(Flushing::Served);
        let machine = Self {
            space,
            kicks,
            memory,
            backing,
            small,
            movable,
            layout,
            attr,
            change,
            flushing,
            vm,
        };
        for region in there_at_first(layout) {
            let mapped = machine.map_region(region);
            let range = layout.regions()[region];
            mapped.with_context(|| format!("making the region {range} failed"))?;
        }
        Ok(machine)
    }

    /// Makes a region of the layout; none of its pages is there yet. Tables are scarce: it waits, for some seconds, for
    /// those that others have just given up, and that somebody may still walk.
    pub(crate) fn map_region(&self, region: usize) -> Result<(), MapRegionError> {
        let range = self.layout.regions()[region];
        let backing = if self.layout.decoy(region).is_some() { &self.small } else { &self.backing };
        let map =
            || self.space.map_region(range, Arc::clone(backing), range.start().get(), self.attr);
        for _ in 0..MOST_LOOKS {
            match map() {
                Err(MapRegionError::Table(PopulateError::OutOfFrames(few))) if few.waiting > 0 => {
                    thread::sleep(LOOK);
                }
                mapped => return mapped,
            }
        }
        map()
    }

    /// Returns the space's table, to look at it.
    pub(crate) fn table(&self) -> &PageTable<AnyFormat, Arena> {
        self.space.table()
    }

    /// Returns all that is populated if those regions of the layout are, with the size of leaves there: KVM's
    /// guests have some memory besides.
    pub(crate) fn populated(
        &self,
        regions: impl IntoIterator<Item = usize>,
    ) -> Vec<(GpaRange, PageSize)> {
        let with_size = |region| (self.layout.regions()[region], self.layout.leaves_of(region));
        let layout = regions.into_iter().map(with_size);
        let system = self.vm.as_ref().map(|vm| (vm.region(), PageSize::Size4K));
        layout.chain(system).collect()
    }

    /// Returns the address of a word.
    pub(crate) fn gpa(&self, page: usize, word: usize) -> Gpa {
        debug_assert!(word < WORDS);
        Gpa::new(self.layout.gpa(page).get() + 8 * word as u64)
    }

    /// Runs the workload on `vcpus` threads until all of them are done, and the managers on theirs.
    pub(crate) fn run(
        &self,
        workload: &dyn Workload,
        vcpus: usize,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let regions = self.layout.regions().len();
        let turnover = workload.turnover();
        let most = MANAGERS.min(regions - self.layout.decoys());
        let managers = if turnover.is_some() { most } else { 0 };
        let rounds = turnover.map_or(0, |turnover| turnover.rounds);
        let copiers = usize::from(workload.precopy().is_some());
        let stage = Stage::new(regions, vcpus, managers + copiers, rounds);
        let copier = workload.precopy().map(|&how| Ok((how, Copier::buffer(self.layout)?)));
        let copier: Option<io::Result<_>> = copier;
        let copier = copier.transpose().context("no memory for the copy")?;

        let run_vcpu = |number, begun| {
            let _at_work = stage.vcpus.guard();
            let ticker = Ticker::new(progress, begun);
            let vcpu = Vcpu { machine: self, stage: &stage, ticker, begun };
            let part = Part { number, count: vcpus, begun, stage: &stage };
            let mut share = workload.share(part);
            match &self.vm {
                None => Ok(vcpu.run(&mut SoftCpu::new(self, &stage), &mut *share)),
                Some(vm) => kvm::run(vm, number, self, &stage, vcpu, &mut *share),
            }
        };
        let run_manager = |number| {
            let _at_work = stage.managers.guard();
            let manager = Manager::new(self, &stage, (number..regions).step_by(managers));
            turnover.map(|turnover| manager.run(turnover.change, progress))
        };
        // All begin together, so that they meet in the same pages; `None` if they shall not.
        let gate: OnceLock<Option<Instant>> = OnceLock::new();
        let gate = &gate;
        let (vcpus, managers, copier) = thread::scope(|scope| {
            let vcpus = (0..vcpus).map(|number| {
                let run = &run_vcpu;
                let run = move || gate.wait().map(|begun| run(number, begun));
                spawn(scope, format!("vcpu-{number}"), run)
            });
            let vcpus: anyhow::Result<Vec<_>> = vcpus.collect();
            let managers = (0..managers).map(|number| {
                let run = &run_manager;
                let run = move || gate.wait().and_then(|_| run(number));
                spawn(scope, format!("manager-{number}"), run)
            });
            let managers: anyhow::Result<Vec<_>> = managers.collect();
            let copier = copier.into_iter().map(|(how, target)| {
                let stage = &stage;
                let run = move || {
                    let _at_work = stage.managers.guard();
                    gate.wait().map(|_| Copier::new(self, stage, how, progress, target).run())
                };
                spawn(scope, "copier".to_owned(), run)
            });
            let copier: anyhow::Result<Vec<_>> = copier.collect();
            let is_complete = vcpus.is_ok() && managers.is_ok() && copier.is_ok();
            gate.get_or_init(|| is_complete.then(Instant::now));
            // All are waited for before anybody's failure is told: the scope would panic for the others'.
            let (vcpus, managers, copier) = (vcpus.map(join), managers.map(join), copier.map(join));
            anyhow::Ok((vcpus??, managers??, copier??))
        })?;
        let copied = copier.into_iter().next();
        let vcpus = vcpus.into_iter().collect::<Result<_, VmError>>();
        Ok(Run { vcpus: vcpus.context("making a vCPU failed")?, managers, copied, stage })
    }
}

/// Returns how many tables a workload needs, and a guest's own memory: those of what is mapped, and no more, so
/// that what needs one has one that was another's.
fn tables(workload: &dyn Workload, system: Option<(GpaRange, PageSize)>, levels: Levels) -> u64 {
    let layout = workload.layout();
    let is_copied = workload.precopy().is_some();
    let size = |region| if is_copied { PageSize::Size4K } else { layout.leaves_of(region) };
    let regions = there_at_first(layout).map(|region| (layout.regions()[region], size(region)));
    layout::tables(regions.chain(system).collect(), levels) + resizer::tables(workload, levels)
}

/// Returns how many frames so many vCPUs need, and the managers.
fn frames(layout: &Layout, vcpus: usize, change: Option<Change>) -> usize {
    // Each vCPU can have frames for one leaf that another maps first.
    let spare = vcpus * layout.granule().pages() as usize;
    let more = match change {
        // A manager that moves a region has the old frames and the new ones.
        Some(Change::Migrate) => MANAGERS * layout.largest(),
        // Between leaves of two sizes there are gaps, each smaller than a large one.
        Some(Change::Resize) => layout.mapped(),
        Some(Change::Churn) | None => 0,
    };
    layout.mapped() + spare + more
}

/// Returns the regions that are there from the beginning: all but decoys, of which each manager has one.
fn there_at_first(layout: &Layout) -> impl Iterator<Item = usize> {
    (0..layout.regions().len()).filter(|&region| is_there_at_first(layout, region))
}

pub(crate) fn is_there_at_first(layout: &Layout, region: usize) -> bool {
    layout.decoy(region).is_none_or(|decoy| decoy < MANAGERS)
}

fn spawn<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    name: String,
    run: impl FnOnce() -> T + Send + 's,
) -> anyhow::Result<ScopedJoinHandle<'s, T>> {
    let context = format!("cannot start thread {name}");
    thread::Builder::new().name(name).spawn_scoped(scope, run).context(context)
}

/// Waits for all threads, also if one has panicked and said so.
fn join<T>(threads: Vec<ScopedJoinHandle<'_, Option<T>>>) -> anyhow::Result<Vec<T>> {
    let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    let ended: Result<Vec<_>, _> = ended.into_iter().collect();
    let results = ended.map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    Ok(results.into_iter().flatten().collect())
}

/// Fails if the machine that this runs on has no memory for `pages` pages of guest memory, which are mapped
/// by such leaves.
pub(crate) fn check_host(pages: u64, size: PageSize, vcpus: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        pages <= GuestMemory::PAGES,
        "{pages} pages of guest memory are more than the example tells apart"
    );
    let known = size_of::<Gpa>() as u64 + vcpus * size_of::<Option<Deeds>>() as u64;
    // What a lost race leaves over has been filled.
    let spare = vcpus * size.bytes();
    let needed = pages.saturating_mul(PAGE_COST + known).saturating_add(spare);
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

#[cfg(test)]
mod tests;
