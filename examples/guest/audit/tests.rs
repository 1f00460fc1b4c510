//! The audit must notice whatever goes wrong: each test damages a machine that was sound.

use indicatif::ProgressBar;
use slat::{Gpa, GpaRange, HostPfn, Prot};

use super::*;
use crate::{
    layout::Layout,
    options::Options,
    vcpu::Broken,
    workload::{Shared, Touch},
};

const PAGES: u64 = 64;
const VCPUS: usize = 2;
/// A page that `touch` writes, and one that it only reads.
const WRITTEN: Gpa = Gpa::new(0x8000);
const READ: Gpa = Gpa::new(0x7000);

/// Runs a workload, then `damage`, then the audit.
fn audit(
    workload: &dyn Workload,
    damage: impl FnOnce(&Machine<'_>, &mut Vec<Outcome>),
) -> Vec<String> {
    let options = <Options as clap::Parser>::parse_from(["guest"]);
    let format = options.table_format().unwrap();
    let machine = Machine::new(format, workload.layout(), VCPUS).unwrap();
    let mut outcomes = machine.run(workload, VCPUS, &ProgressBar::hidden()).unwrap();
    damage(&machine, &mut outcomes);
    Audit::of(&machine, workload, &outcomes).wrong
}

fn touch() -> Touch {
    Touch { layout: Layout::linear(PAGES * 4096).unwrap(), seed: 1 }
}

/// Expects complaints that contain these texts, in this order.
fn expect(wrong: &[String], texts: &[&str]) {
    assert_eq!(wrong.len(), texts.len(), "{wrong:#?}");
    for (complaint, text) in wrong.iter().zip(texts) {
        assert!(complaint.contains(text), "`{complaint}` lacks `{text}`");
    }
}

#[test]
fn a_sound_machine_passes() {
    expect(&audit(&touch(), |_, _| ()), &[]);
    let shared = Shared { layout: Layout::linear(PAGES * 4096).unwrap() };
    expect(&audit(&shared, |_, _| ()), &[]);
}

#[test]
fn a_lost_accessed_bit_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table.reader().pin().slot(READ).unwrap().clear_accessed();
    });
    expect(&wrong, &["0x7000 is not accessed and should be"]);
}

#[test]
fn a_lost_dirty_bit_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table.reader().pin().slot(WRITTEN).unwrap().clear_dirty();
    });
    expect(&wrong, &["0x8000 is not dirty and should be"]);
}

#[test]
fn a_dirty_bit_without_a_write_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.table.reader().pin().slot(READ).unwrap().set_dirty();
    });
    expect(&wrong, &["0x7000 is dirty and should not be"]);
}

#[test]
fn a_lost_page_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let _ = machine.table.reader().pin().unmap(WRITTEN).unwrap();
    });
    let texts = ["0x8000 is not mapped", "not accessed", "not dirty", "adds up to 0x0"];
    expect(&wrong[..4], &texts);
    expect(&wrong[4..], &["frames that were handed out", "vCPUs mapped", "pages of the workload"]);
}

#[test]
fn a_page_in_the_wrong_frame_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let reader = machine.table.reader();
        let pin = reader.pin();
        let (other, _) = pin.unmap(WRITTEN).unwrap();
        let frame = pin.lookup(READ).unwrap().pfn;
        assert_ne!(frame, other.pfn);
        pin.map(WRITTEN, frame, PageSize::Size4K, machine.attr).unwrap();
        let slot = pin.slot(WRITTEN).unwrap();
        slot.set_accessed();
        slot.set_dirty();
    });
    expect(&wrong, &["as another page is", "0x8000 adds up to 0x0"]);
}

#[test]
fn other_attributes_are_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let range = GpaRange::new(READ, 4096).unwrap();
        let _ = machine.table.reader().pin().protect(range, Prot::R).unwrap();
    });
    expect(&wrong, &["0x7000 is mapped as Size4K"]);
}

#[test]
fn a_page_that_nobody_touched_is_noticed() {
    let sparse = Touch { layout: Layout::around(vec![READ, WRITTEN]).unwrap(), seed: 1 };
    let wrong = audit(&sparse, |machine, _| {
        let reader = machine.table.reader();
        let frame = HostPfn::new(0x99);
        reader.pin().map(Gpa::new(0), frame, PageSize::Size4K, machine.attr).unwrap();
    });
    expect(&wrong[..1], &["0x0 is mapped and was never touched"]);
}

#[test]
fn a_lost_write_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        let mapping = machine.table.reader().pin().lookup(READ).unwrap();
        machine.memory.page(mapping.pfn).unwrap().add(3, 1);
    });
    expect(&wrong, &["0x7000 adds up to 0x1, 0x0 was written"]);
}

#[test]
fn a_lost_frame_is_noticed() {
    let wrong = audit(&touch(), |machine, _| {
        machine.memory.allocate().unwrap();
    });
    expect(&wrong, &["frames that were handed out"]);
}

#[test]
fn a_lost_fault_is_noticed() {
    let wrong = audit(&touch(), |_, outcomes| outcomes[1].tally.faults += 1);
    expect(&wrong, &["faults that were resolved: 64, expected 65"]);
}

#[test]
fn a_stopped_vcpu_is_reported() {
    let wrong = audit(&touch(), |_, outcomes| {
        outcomes[1].broken = Some(Broken::OutOfFrames { gpa: READ });
    });
    expect(&wrong, &["vCPU 1 stopped: no frame is left for 0x7000"]);
}

#[test]
fn a_flood_of_complaints_is_counted() {
    let options = <Options as clap::Parser>::parse_from(["guest"]);
    let touch = touch();
    let machine = Machine::new(options.table_format().unwrap(), &touch.layout, VCPUS).unwrap();
    let mut outcomes = machine.run(&touch, VCPUS, &ProgressBar::hidden()).unwrap();
    for deeds in &mut outcomes[0].deeds {
        deeds.sum += 1;
    }
    let audit = Audit::of(&machine, &touch, &outcomes);
    assert_eq!((audit.wrong.len(), audit.unlisted), (LISTED, PAGES - LISTED as u64));
}
