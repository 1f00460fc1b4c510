//! The audit: what the table and the memory show in the end, against what the vCPUs did.
//!
//! Nothing here trusts the fault path. Resident pages and their accessed and dirty bits are read back
//! from the entries, contents from the frames that the entries name, and each is compared with the
//! vCPUs' logs.

use std::collections::HashSet;

use serde::Serialize;
use slat::{Format, FrameSource, Gpa, Mapping, PageSize};

use crate::{
    machine::{Machine, Outcome},
    memory::Page,
    vcpu::Deeds,
    workload::Workload,
};

/// Complaints beyond this many are counted, not listed.
const LISTED: usize = 20;

/// A number of pages, as the entries have it and as the workload does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pages {
    pub(crate) entries: u64,
    pub(crate) workload: u64,
}

/// What the audit found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Audit {
    /// Pages that are mapped, and that the workload touched.
    pub(crate) resident: Pages,
    pub(crate) accessed: Pages,
    pub(crate) dirty: Pages,
    /// Frames that the tables take.
    pub(crate) table_frames: u64,
    /// What is wrong; nothing, if all is well.
    pub(crate) wrong: Vec<String>,
    /// How much more is wrong than `wrong` lists.
    pub(crate) unlisted: u64,
}

impl Audit {
    /// Audits a machine whose vCPUs are done.
    pub(crate) fn of(machine: &Machine<'_>, workload: &dyn Workload, vcpus: &[Outcome]) -> Self {
        let mut audit = Self::default();
        audit.check_vcpus(vcpus);
        let resident = audit.check_entries(machine);
        let deeds = merge(machine, vcpus);
        audit.check_pages(machine, &resident, &deeds);
        audit.check_counts(machine, workload, vcpus);
        audit
    }

    /// Tells whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    fn check_vcpus(&mut self, vcpus: &[Outcome]) {
        for (number, vcpu) in vcpus.iter().enumerate() {
            if let Some(broken) = &vcpu.broken {
                self.complain(format!("vCPU {number} stopped: {broken}"));
            }
        }
    }

    /// Reads all entries; returns each page's mapping.
    fn check_entries(&mut self, machine: &Machine<'_>) -> Vec<Option<Mapping>> {
        let mut resident = vec![None; machine.layout.len()];
        let mut frames = HashSet::new();
        let reader = machine.table.reader();
        let pin = reader.pin();
        for region in machine.layout.regions() {
            for mapping in pin.mappings(*region).expect("populated, so it is input") {
                let Mapping { gpa, pfn, size, attr, .. } = mapping;
                if size != PageSize::Size4K || attr != machine.attr {
                    self.complain(format!("{gpa} is mapped as {size:?} with {attr:?}"));
                }
                if !frames.insert(pfn) {
                    self.complain(format!("{gpa} is mapped to frame {pfn}, as another page is"));
                }
                if pin.lookup(gpa) != Some(mapping) {
                    self.complain(format!("looking up {gpa} does not find its mapping"));
                }
                match machine.layout.page_at(gpa) {
                    Some(page) => resident[page] = Some(mapping),
                    None => self.complain(format!("{gpa} is mapped and was never touched")),
                }
            }
            self.resident.entries += pin.mapped(*region).expect("populated, so it is input");
        }
        resident
    }

    /// Compares each page's entry and contents with what was done to it.
    fn check_pages(
        &mut self,
        machine: &Machine<'_>,
        resident: &[Option<Mapping>],
        deeds: &[Deeds],
    ) {
        for (page, (mapping, deeds)) in resident.iter().zip(deeds).enumerate() {
            let gpa = machine.layout.gpa(page);
            let accessed = mapping.is_some_and(|mapping| mapping.accessed);
            let dirty = mapping.is_some_and(|mapping| mapping.dirty);
            self.resident.workload += u64::from(deeds.accessed);
            self.accessed.count(accessed, deeds.accessed);
            self.dirty.count(dirty, deeds.written);
            if mapping.is_some() != deeds.accessed {
                self.complain(differ(gpa, "mapped", mapping.is_some()));
            }
            if accessed != deeds.accessed {
                self.complain(differ(gpa, "accessed", accessed));
            }
            if dirty != deeds.written {
                self.complain(differ(gpa, "dirty", dirty));
            }
            let contents = mapping.and_then(|mapping| machine.memory.page(mapping.pfn));
            let sum = contents.map_or(0, Page::sum);
            if sum != deeds.sum {
                let expected = deeds.sum;
                self.complain(format!("{gpa} adds up to {sum:#x}, {expected:#x} was written"));
            }
        }
    }

    /// Checks that nothing was lost: every frame is in use or in a vCPU's hand, every fault was
    /// resolved by somebody, the tables take what they must.
    fn check_counts(&mut self, machine: &Machine<'_>, workload: &dyn Workload, vcpus: &[Outcome]) {
        let resident = self.resident.entries;
        let sum = |count: fn(&Outcome) -> u64| vcpus.iter().map(count).sum::<u64>();
        let spare = sum(|vcpu| vcpu.spare.iter().len() as u64);
        let mapped = sum(|vcpu| vcpu.tally.mapped);
        let (faults, lost) = (sum(|vcpu| vcpu.tally.faults), sum(|vcpu| vcpu.tally.lost));
        let arena = machine.table.frames();
        self.table_frames = arena.capacity() - arena.free_frames();
        let needed = machine.layout.tables(machine.table.format().levels());
        let pages = machine.layout.len() as u64;
        for (what, found, expected) in [
            ("frames that were handed out", machine.memory.allocated(), resident + spare),
            ("pages that the vCPUs mapped", mapped, resident),
            ("faults that were resolved", mapped + lost, faults),
            ("frames in tables", self.table_frames, needed),
            ("pages of the workload", if workload.touches_all() { resident } else { pages }, pages),
        ] {
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
    fn count(&mut self, in_entry: bool, in_workload: bool) {
        self.entries += u64::from(in_entry);
        self.workload += u64::from(in_workload);
    }
}

fn differ(gpa: Gpa, what: &str, in_entry: bool) -> String {
    let (entry, workload) =
        if in_entry { ("is", "should not be") } else { ("is not", "should be") };
    format!("{gpa} {entry} {what} and {workload}")
}

/// Returns what all vCPUs together did to each page.
fn merge(machine: &Machine<'_>, vcpus: &[Outcome]) -> Vec<Deeds> {
    let mut all = vec![Deeds::default(); machine.layout.len()];
    for vcpu in vcpus {
        for (all, one) in all.iter_mut().zip(&vcpu.deeds) {
            all.accessed |= one.accessed;
            all.written |= one.written;
            all.sum = all.sum.wrapping_add(one.sum);
        }
    }
    all
}

#[cfg(test)]
mod tests;
