//! What KVM's processors leave in the entries, beside what software MMUs leave there for the same
//! accesses: entry by entry, on the way to every page.
//!
//! It must be the same also where processors look ahead, and set accessed bits for it: on the way to a
//! page that was accessed all of them are set.

use std::thread;

use clap::Parser;
use slat::{Format, Gpa, Level, PAGE_BYTES, PageSize};

use super::*;

/// One entry on the way to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    page: Gpa,
    level: u32,
    is_present: bool,
    is_accessed: bool,
    is_dirty: bool,
}

/// Runs `test` with KVM, if there is one here, and the format of the tables that its guests walk.
fn with_kvm(test: impl FnOnce(&Host, AnyFormat)) {
    match Host::open() {
        Ok(host) => {
            let options = Options::parse_from(["guest"]);
            test(&host, options.table_format(Some(host.phys_width())).unwrap());
        }
        Err(reason) => {
            let thread = thread::current();
            println!("skipped: {}: {reason}", thread.name().unwrap_or("a test"));
        }
    }
}

/// Runs a workload on `host`, or on software MMUs, and returns the machine.
fn ran<'w>(
    format: AnyFormat,
    workload: &'w dyn Workload,
    vcpus: usize,
    host: Option<&Host>,
) -> Machine<'w> {
    let machine = Machine::new(format, workload, vcpus, host).unwrap();
    let untouched = entries(&machine);
    assert!(untouched.iter().all(|entry| !entry.is_accessed && !entry.is_dirty), "all by the MMUs");
    let run = machine.run(workload, vcpus, &Progress::hidden()).unwrap();
    let audit = Audit::of(&machine, workload, &run);
    assert!(audit.is_clean(), "{:#?}", audit.wrong);
    machine
}

/// Returns all entries on the way to every page of the layout's regions, page by page, the root's first.
fn entries(machine: &Machine<'_>) -> Vec<Found> {
    let format = machine.table().format();
    let reader = machine.table().reader();
    let pin = reader.pin();
    let pages = machine.layout.regions().iter().flat_map(|region| {
        (0..region.pages()).map(|page| Gpa::new(region.start().get() + page * PAGE_BYTES))
    });
    let mut entries = Vec::new();
    for page in pages {
        let walk = pin.walk(page, Level::L1);
        entries.extend((1..=format.levels().count()).rev().zip(walk.iter()).map(
            |(level, step)| Found {
                page,
                level,
                is_present: format.is_present(step.entry),
                is_accessed: step.entry.has(format.accessed_bit()),
                is_dirty: step.entry.has(format.dirty_bit()),
            },
        ));
    }
    entries
}

/// Returns the entries that differ.
fn differences(kvm: &Machine<'_>, soft: &Machine<'_>) -> Vec<(Found, Found)> {
    let (kvm, soft) = (entries(kvm), entries(soft));
    assert_eq!(kvm.len(), soft.len());
    kvm.into_iter().zip(soft).filter(|(kvm, soft)| kvm != soft).collect()
}

/// Runs a workload on both, with one vCPU and more, and expects the same entries.
fn agree(host: &Host, format: AnyFormat, workload: &dyn Workload) {
    for vcpus in [1, 2, 4] {
        let kvm = ran(format, workload, vcpus, Some(host));
        let soft = ran(format, workload, vcpus, None);
        let different = differences(&kvm, &soft);
        assert!(different.is_empty(), "{vcpus} vCPUs, KVM's and the other: {different:#x?}");
        for level in 1..=format.levels().count() {
            let mut entries = entries(&kvm).into_iter().filter(|entry| entry.level == level);
            let is_below = level < workload.layout().granule().level() as u32;
            let is_compared = entries.any(|entry| entry.is_accessed);
            assert!(is_compared || is_below, "L{level}: nothing was compared");
        }
    }
}

/// Pages in tables of their own at every level, the outermost of a guest's lower half among them.
fn scattered() -> Layout {
    let pages = [0, 0x3000, 0x20_0000, 0x4000_0000, 0x80_0000_0000, 0x7fff_ffff_f000];
    Layout::around(pages.map(Gpa::new).into()).unwrap()
}

fn touch(layout: Layout) -> Touch {
    Touch { layout, seed: 1 }
}

#[test]
fn private_touches_leave_the_same_entries_on_kvm() {
    with_kvm(|host, format| {
        agree(host, format, &touch(Layout::linear(200 * PAGE_BYTES).unwrap()));
        agree(host, format, &touch(scattered()));
    });
}

#[test]
fn shared_pages_leave_the_same_entries_on_kvm() {
    with_kvm(|host, format| {
        agree(host, format, &Shared { layout: Layout::linear(100 * PAGE_BYTES).unwrap() });
        agree(host, format, &Shared { layout: scattered() });
    });
}

/// A leaf that each of several vCPUs faults on, also where it reaches beyond what is used.
#[test]
fn large_leaves_leave_the_same_entries_on_kvm() {
    with_kvm(|host, format| {
        let large = |layout: Layout| layout.with_granule(PageSize::Size2M).unwrap();
        agree(host, format, &touch(large(Layout::linear(7 << 20).unwrap())));
        agree(host, format, &touch(large(scattered())));
        agree(host, format, &Shared { layout: large(scattered()) });
    });
}

#[test]
fn a_real_program_leaves_the_same_entries_on_kvm() {
    with_kvm(|host, format| {
        let (name, text) = TRUE;
        let options = Options::parse_from(["guest"]);
        agree(host, format, &replay(name, text, format, &options).unwrap());
    });
}

/// Else the tests above could not fail.
#[test]
fn a_bit_that_a_processor_did_not_set_makes_a_difference() {
    with_kvm(|host, format| {
        let workload = touch(scattered());
        let soft = ran(format, &workload, 1, None);
        let kvm = ran(format, &workload, 1, Some(host));
        let page = Gpa::new(0x20_0000);
        let reader = kvm.table().reader();
        let pin = reader.pin();
        pin.slot(page).unwrap().clear_dirty();
        let [(found, expected)] = differences(&kvm, &soft)[..] else { panic!("one entry") };
        assert_eq!((found.page, found.level), (page, 1));
        assert_eq!(found, Found { is_dirty: false, ..expected });
        pin.slot(page).unwrap().clear_accessed();
        let [(found, expected)] = differences(&kvm, &soft)[..] else { panic!("the same entry") };
        assert_eq!(found, Found { is_dirty: false, is_accessed: false, ..expected });
    });
}
