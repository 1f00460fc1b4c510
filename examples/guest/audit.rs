//! The audit: what the table and the memory show in the end, against what the vCPUs did.
//!
//! Nothing here trusts the fault path. Resident pages and their accessed and dirty bits are read back
//! from the entries, contents from the frames that the entries name, and each is compared with the
//! vCPUs' logs. Pages that were taken away are compared in the same way: by what their entries and
//! frames showed then; and pages that were moved by what all their entries showed. Where memory came and
//! went, all of it is then taken away, and every frame must be back.
//!
//! No bit may be missing. On KVM some may be there for nothing: a processor that looks ahead sets accessed
//! bits (Intel SDM vol. 3A, 4.8); and a KVM that walks the tables itself sets both kinds, and then lets the
//! guest try again, which may find that its page has just been taken away.

mod changed;
mod levels;
mod precopied;

use std::{
    collections::{HashMap, HashSet},
    iter,
};

use serde::Serialize;
use slat::{Format, FrameSource, Gpa, GpaRange, Mapping, ObserverId, PageSize};

use self::changed::unmapped;
pub(crate) use self::{
    changed::{Churned, Migrated, Resizing},
    levels::LevelBits,
    precopied::Precopied,
};
use crate::{
    deeds::{Bits, Deeds, Life, merge},
    frame::{Frame, Word},
    layout::tables,
    machine::{Machine, Run},
    manager::{Account, Change},
    memory::{self, Stay},
    outcome::Tally,
    workload::Workload,
};

/// Complaints beyond this many are counted, not listed.
const LISTED: usize = 20;

/// A number of 4 KiB pages, as the entries have it and as the workload does. A page counts once for each
/// time that it was mapped; and all that a leaf maps count, if any of them was accessed or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pages {
    pub(crate) entries: u64,
    pub(crate) workload: u64,
}

/// What the audit found.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Audit {
    /// Pages that are mapped, and that the workload mapped and did not unmap.
    pub(crate) resident: Pages,
    pub(crate) accessed: Pages,
    pub(crate) dirty: Pages,
    /// The sums of all words of all pages, added up: what is there, or was there in the end, and what was
    /// written. Those of a page are modulo 2^24.
    pub(crate) sums: Pages,
    /// What the entries of each level say, the root's first: of those that lead to the pages.
    pub(crate) levels: Vec<LevelBits>,
    /// Frames that the tables take.
    pub(crate) table_frames: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) churn: Option<Churned>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) migrate: Option<Migrated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resize: Option<Resizing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) precopy: Option<Precopied>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kvm: Option<Forgotten>,
    /// What is wrong; nothing, if all is well.
    pub(crate) wrong: Vec<String>,
    /// How much more is wrong than `wrong` lists.
    pub(crate) unlisted: u64,
}

/// What KVM was made to forget of its translations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Forgotten {
    /// How many times all of them.
    pub(crate) zaps: u64,
}

impl Audit {
    /// Audits a machine whose vCPUs and managers are done.
    pub(crate) fn of(machine: &Machine<'_>, workload: &dyn Workload, run: &Run) -> Self {
        let mut audit = Self::default();
        audit.check_threads(run);
        reclaim(machine);
        audit.check_resize(machine, run);
        let mut lives = audit.check_entries(machine, run);
        lives.extend(machine.memory.journal().lives.iter().copied());
        let deeds = merge(run.vcpus.iter().map(|vcpu| &vcpu.log));
        add_bits(&mut lives, machine.memory.journal().moved.iter().copied());
        audit.check_lives(machine, &together(machine, lives), deeds, spare_bits(machine));
        audit.levels = LevelBits::of(machine);
        audit.check_counts(machine, workload, run);
        match workload.turnover() {
            Some(turnover) if turnover.change.takes_away() => {
                audit.check_churn(machine, run, turnover.rounds);
            }
            Some(turnover) => audit.check_migrate(machine, run, turnover.rounds),
            None => {}
        }
        if let Some(copied) = &run.copied {
            audit.check_precopy(machine, copied);
        }
        let vm = machine.vm.as_ref();
        audit.kvm = vm.map(|vm| Forgotten { zaps: vm.zaps() });
        audit
    }

    /// Tells whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    fn check_threads(&mut self, run: &Run) {
        for (number, vcpu) in run.vcpus.iter().enumerate() {
            if let Some(broken) = &vcpu.broken {
                self.complain(format!("vCPU {number} stopped: {broken}"));
            }
            if let Some(first) = &vcpu.stale {
                let count = vcpu.tally.stale;
                self.complain(format!(
                    "vCPU {number} used stale translations {count} times, first of {first}"
                ));
            }
        }
        for manager in &run.managers {
            self.check_manager(manager);
        }
    }

    fn check_manager(&mut self, manager: &Account) {
        if let Some(stuck) = &manager.stuck {
            self.complain(format!("a manager stopped: {stuck}"));
        }
    }

    /// Reads all entries; returns what is to be said of each leaf that is mapped.
    fn check_entries(&mut self, machine: &Machine<'_>, run: &Run) -> Vec<Life> {
        let mut lives = Vec::new();
        let mut frames = HashSet::new();
        let reader = machine.table().reader();
        let pin = reader.pin();
        for (number, region) in machine.layout.regions().iter().enumerate() {
            for mapping in pin.mappings(*region).expect("populated once, so it is input") {
                let Mapping { gpa, size, attr, .. } = mapping;
                let is_small = size == PageSize::Size4K && run.copied.is_some();
                let fits = size == machine.layout.leaves_of(number) || is_small;
                if !fits || attr != machine.attr {
                    self.complain(format!("{gpa} is mapped as {size:?} with {attr:?}"));
                }
                if let Some(twice) = memory::frames([&mapping]).find(|&pfn| !frames.insert(pfn)) {
                    self.complain(format!("{gpa} is mapped to frame {twice}, as another page is"));
                }
                if pin.lookup(gpa) != Some(mapping) {
                    self.complain(format!("looking up {gpa} does not find its mapping"));
                }
                if machine.layout.uses(mapping.range()) {
                    lives.extend(self.check_frames(machine, mapping));
                } else {
                    self.complain(format!("{gpa} is mapped and was never touched"));
                }
            }
            self.resident.entries += pin.mapped(*region).expect("populated once, so it is input");
        }
        if let Some(copied) = &run.copied {
            lives.iter_mut().for_each(|life| life.bits = life.bits.or(copied.said_of(life.leaf)));
        }
        lives
    }

    /// Looks at the frames that a leaf maps.
    fn check_frames(&mut self, machine: &Machine<'_>, mapping: Mapping) -> Vec<Life> {
        let memory = &machine.memory;
        let pages = memory::pages(&mapping);
        for (gpa, pfn) in iter::zip(pages, memory::frames([&mapping])) {
            let stay = memory.frame(pfn).and_then(Frame::stay);
            let tenant = stay.and_then(|stay| memory.tenant(stay));
            if !tenant.is_some_and(|pages| pages.contains(gpa)) {
                self.complain(format!(
                    "{gpa} is mapped to frame {pfn}, which was not meant for it"
                ));
            }
        }
        memory.lives(mapping)
    }

    /// Compares each leaf's entry and contents with what was done to its pages while it was mapped; the bits
    /// in `spare` may be set for nothing.
    fn check_lives(
        &mut self,
        machine: &Machine<'_>,
        lives: &[Life],
        mut deeds: HashMap<Stay, (usize, Deeds)>,
        spare: Bits,
    ) {
        for &Life { leaf, stay, bits, sum } in lives {
            let (gpa, pages) = (leaf.start(), leaf.pages());
            let done = deeds.remove(&stay).map(|(_, deeds)| deeds);
            let (accessed, written) = (done.is_some(), done.is_some_and(|deeds| deeds.written));
            self.accessed.count(pages, bits.accessed, accessed);
            self.dirty.count(pages, bits.dirty, written);
            // Memory that goes may be gone before the vCPU that faulted it in is back.
            if machine.change.is_none() && !accessed {
                self.complain(differ(gpa, "mapped", true));
            }
            if bits.accessed != accessed && (accessed || !spare.accessed) {
                self.complain(differ(gpa, "accessed", bits.accessed));
            }
            if bits.dirty != written && (written || !spare.dirty) {
                self.complain(differ(gpa, "dirty", bits.dirty));
            }
            let expected = done.map_or(0, |deeds| deeds.sum & Word::SUM);
            self.sums.entries += sum;
            self.sums.workload += expected;
            if sum != expected {
                self.complain(format!("{gpa} adds up to {sum:#x}, {expected:#x} was written"));
            }
        }
        let mut unmapped: Vec<_> = deeds.into_iter().collect();
        unmapped.sort_unstable_by_key(|&(stay, (page, _))| (page, stay));
        for (_, (page, deeds)) in unmapped {
            let pages = machine.layout.granule().pages();
            self.accessed.count(pages, false, true);
            self.dirty.count(pages, false, deeds.written);
            self.sums.workload += deeds.sum & Word::SUM;
            let gpa = machine.layout.gpa(page);
            self.complain(format!("{gpa} was used, and no entry says so"));
        }
    }

    /// Checks that nothing was lost: every frame is in use or was given back, every fault was
    /// resolved by somebody, the tables take what they must.
    fn check_counts(&mut self, machine: &Machine<'_>, workload: &dyn Workload, run: &Run) {
        let Tally { mapped, mapped_pages, lost, moving, away, faults, .. } = run.total();
        let unmapped = unmapped(machine);
        let resident = self.resident.entries;
        self.resident.workload = match machine.change {
            // Managers map what nobody touches.
            Some(Change::Resize) => resident,
            _ => resident_by_workload(machine, mapped_pages),
        };
        let system = machine.vm.as_ref().map_or(0, |vm| vm.region().pages());
        self.table_frames = table_frames(machine);
        let populated = populated(machine, run);
        let needed = tables(populated, machine.table().format().levels());
        let stats = machine.space.stats();
        let pages = machine.layout.mapped() as u64;
        self.compare(&[
            ("frames that are in use", machine.memory.traffic().in_use(), resident),
            ("pages that the vCPUs mapped", self.resident.workload + unmapped, resident + unmapped),
            ("pages that the space counts", stats.resident, resident + system),
            ("frames of nobody that came back", machine.memory.journal().strays, 0),
            ("faults that were resolved", mapped + lost + moving + away, faults),
            ("frames in tables", self.table_frames, needed),
            ("tables that are linked", stats.table.tables, needed),
            ("tables that wait", stats.table.waiting, 0),
            ("pages of the workload", if workload.touches_all() { resident } else { pages }, pages),
        ]);
    }

    /// Compares what was found with what was expected.
    fn compare(&mut self, counts: &[(&str, u64, u64)]) {
        for &(what, found, expected) in counts {
            if found != expected {
                self.complain(format!("{what}: {found}, expected {expected}"));
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.wrong.len() < LISTED {
            self.wrong.push(complaint);
        } else {
            self.unlisted += 1;
        }
    }
}

impl Pages {
    fn count(&mut self, pages: u64, in_entry: bool, in_workload: bool) {
        self.entries += pages * u64::from(in_entry);
        self.workload += pages * u64::from(in_workload);
    }
}

/// Returns how many pages are resident by what was done: the vCPUs mapped so many. Where pages move managers
/// map them as well; but each that was ever there is there.
fn resident_by_workload(machine: &Machine<'_>, mapped_pages: u64) -> u64 {
    let all = machine.layout.regions().iter();
    match &machine.movable {
        Some(movable) => {
            all.flat_map(|&region| movable.within(region)).map(|home| home.2.pages()).sum()
        }
        None => mapped_pages.saturating_sub(unmapped(machine)),
    }
}

/// Returns which bits an entry may have for nothing.
pub(crate) fn spare_bits(machine: &Machine<'_>) -> Bits {
    let is_native = machine.vm.is_some();
    Bits { accessed: is_native, dirty: is_native && machine.change.is_some() }
}

/// Returns what is populated, with the size of leaves there. Where memory was copied, it is by leaves of the
/// size that it has room for, or by small ones.
fn populated(machine: &Machine<'_>, run: &Run) -> Vec<(GpaRange, PageSize)> {
    if run.copied.is_none() {
        return machine.populated(run.present());
    }
    let regions = run.present().map(|region| machine.layout.regions()[region]);
    let reader = machine.table().reader();
    let pin = reader.pin();
    let leaves = regions.flat_map(|region| pin.mappings(region).expect("it is populated"));
    let leaves = leaves.map(|leaf| (leaf.range(), leaf.size));
    leaves.chain(machine.populated([])).collect()
}

/// Takes together what is said of the leaves of one stay: one large leaf may have become many small ones.
/// What is mapped where it does not belong is left alone, and found out.
fn together(machine: &Machine<'_>, lives: Vec<Life>) -> Vec<Life> {
    let mut all: Vec<Life> = Vec::with_capacity(lives.len());
    let mut places = HashMap::new();
    for life in lives {
        let pages = machine.memory.tenant(life.stay);
        if !pages.is_some_and(|pages| pages.covers(life.leaf)) {
            all.push(life);
            continue;
        }
        let place = *places.entry(life.stay).or_insert(all.len());
        match all.get_mut(place) {
            Some(first) => first.take_in(life),
            None => all.push(life),
        }
    }
    all
}

/// Frees the tables that were unlinked: there is no vCPU any more that could walk them.
fn reclaim(machine: &Machine<'_>) {
    machine.table().reclaim(&|_: ObserverId| ());
}

/// Adds what was said of pages when they were moved to what is said of them in the end.
fn add_bits(lives: &mut [Life], moved: impl Iterator<Item = (Stay, Bits)>) {
    let mut before: HashMap<Stay, Bits> = HashMap::new();
    for (stay, bits) in moved {
        let all = before.entry(stay).or_default();
        *all = all.or(bits);
    }
    for life in lives {
        life.bits = life.bits.or(before.get(&life.stay).copied().unwrap_or_default());
    }
}

/// Returns how many frames the tables have taken from their source.
fn table_frames(machine: &Machine<'_>) -> u64 {
    let arena = machine.table().frames();
    arena.capacity() - arena.free_frames()
}

fn differ(gpa: Gpa, what: &str, in_entry: bool) -> String {
    let (entry, workload) =
        if in_entry { ("is", "should not be") } else { ("is not", "should be") };
    format!("{gpa} {entry} {what} and {workload}")
}

#[cfg(test)]
mod tests;
