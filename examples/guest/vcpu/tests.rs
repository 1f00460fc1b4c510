//! A vCPU on a processor that does what the test says: also what a sound one never does.

use slat::{Ept, EptCaps, Gpa, HostPfn, Levels, PageSize, PhysWidth};

use super::*;
use crate::{
    backing::leaf,
    layout::Layout,
    manager::{Flushing, Turnover},
    memory::Stay,
    progress::Progress,
    visits::Visits,
    workload::{Touch, Workload},
};

const PAGES: u64 = 32;
const NOT_PRESENT: u32 = 0b100;
const WRITE_PROTECTED: u32 = 0b111;

/// What the guest does in one stay.
type Stayed<'t> = dyn FnMut(&Machine<'_>, &mut Batch) -> Result<Exit, Broken> + 't;

struct Scripted<'t, 'm> {
    machine: &'m Machine<'m>,
    vcpu: SpaceVcpu,
    stay: &'t mut Stayed<'t>,
}

impl Processor for Scripted<'_, '_> {
    fn vcpu(&self) -> &SpaceVcpu {
        &self.vcpu
    }

    fn stay(&mut self, batch: &mut Batch) -> Result<Exit, Broken> {
        (self.stay)(self.machine, batch)
    }
}

/// Accesses that are planned one batch after the other, and how often they were in vain.
struct Batches {
    ops: Vec<Vec<Op>>,
    absent: u32,
}

impl Batches {
    fn of<const N: usize>(ops: [Vec<Op>; N]) -> Self {
        Self { ops: ops.into_iter().rev().collect(), absent: 0 }
    }
}

impl Share for Batches {
    fn next(&mut self) -> Option<Op> {
        let ops = self.ops.last_mut()?;
        if ops.is_empty() {
            self.ops.pop();
            return None;
        }
        Some(ops.remove(0))
    }

    fn absent(&mut self) {
        self.absent += 1;
    }
}

fn touch() -> Touch {
    Touch { layout: Layout::linear(PAGES * 4096).unwrap(), seed: 1 }
}

fn visits(change: Change) -> Visits {
    let turnover = Turnover { change, rounds: 1, flushing: Flushing::Served };
    Visits::new(PAGES * 4096, PageSize::Size4K, 1, turnover).unwrap()
}

fn op(page: usize, act: Act) -> Op {
    Op { page, word: 0, act }
}

fn fault(page: usize, error_code: u32) -> Fault {
    Fault::PageFault { address: Gpa::new(page as u64 * 4096), error_code }
}

/// Runs a vCPU on a machine of which `prepare` has the first word.
fn run<'t>(
    workload: &dyn Workload,
    share: &mut Batches,
    prepare: impl FnOnce(&Machine<'_>),
    stay: &'t mut Stayed<'t>,
) -> Outcome {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = Machine::new(ept.into(), workload, 1, None).unwrap();
    let stage = Stage::new(machine.layout.regions().len(), 1, 0, 1);
    prepare(&machine);
    let (progress, begun) = (Progress::hidden(), Instant::now());
    let ticker = Ticker::new(&progress, begun);
    let vcpu = Vcpu { machine: &machine, stage: &stage, ticker, begun };
    vcpu.run(&mut Scripted { machine: &machine, vcpu: machine.space.vcpu(), stay }, share)
}

/// Gives a frame to `page`; returns what the words in it are then.
fn assign(machine: &Machine<'_>, page: usize) -> Word {
    let pfn = machine.memory.allocate(PageSize::Size4K).unwrap();
    machine.memory.assign(pfn, leaf(page as u64, PageSize::Size4K));
    machine.memory.frame(pfn).unwrap().load(0)
}

/// Runs one batch to its end, in which each access finds what `words` makes for it.
fn find(
    ops: &[Op],
    words: impl FnOnce(&Machine<'_>) -> Vec<Word>,
) -> (Outcome, Vec<(usize, Stay, u64)>) {
    let mut words = Some(words);
    let outcome = run(&touch(), &mut Batches::of([ops.to_vec()]), |_| (), &mut |machine, batch| {
        let words = words.take().expect("it is one batch");
        words(machine).into_iter().for_each(|word| batch.found(word));
        Ok(Exit::Done)
    });
    let mut deeds: Vec<_> = outcome.log.iter().map(|(page, d)| (page, d.stay, d.sum)).collect();
    deeds.sort_unstable();
    (outcome, deeds)
}

#[test]
fn words_of_nobody_or_of_another_page_are_stale() {
    let (outcome, _) = find(&[op(3, Act::Load); 4], |machine| {
        vec![Word::FREE, assign(machine, 3), assign(machine, 4), assign(machine, 3)]
    });
    assert!(outcome.broken.is_none(), "{outcome:?}");
    assert_eq!((outcome.tally.accesses, outcome.tally.stale), (4, 2));
    assert_eq!(outcome.stale.unwrap().tenant, None, "that is the first");
    let (outcome, _) = find(&[op(3, Act::Load)], |machine| vec![assign(machine, 4)]);
    assert_eq!(outcome.stale.unwrap().tenant, Some(Gpa::new(0x4000)));
}

#[test]
fn what_is_written_to_a_stale_frame_is_missed_in_the_page() {
    let mut stays = Vec::new();
    let (outcome, deeds) = find(&[op(3, Act::Add(5)), op(3, Act::Add(6))], |machine| {
        let words = vec![assign(machine, 3), assign(machine, 4)];
        stays.extend(words.iter().map(|word| word.stay.unwrap()));
        words
    });
    assert_eq!(outcome.tally.stale, 1);
    assert_eq!(deeds, [(3, stays[0], 11)], "page 4 got the 6, and nobody says so");
}

#[test]
fn a_value_that_is_not_what_it_must_be_stops_the_vcpu() {
    for (act, is_right) in [
        (Act::Expect(0), true),
        (Act::Expect(1), false),
        (Act::Recall, false),
        (Act::Load, true),
        (Act::Fetch, true),
        (Act::Add(1), true),
    ] {
        // It has added 1, and finds that it has not.
        let (outcome, _) = find(&[op(3, Act::Add(1)), op(3, act)], |machine| {
            let word = assign(machine, 3);
            vec![word, word]
        });
        assert_eq!(outcome.broken.is_none(), is_right, "{act:?}: {outcome:?}");
        let is_value = matches!(outcome.broken, Some(Broken::Value { found: 0, expected: 1, .. }));
        assert_eq!(is_value, !is_right);
    }
}

#[test]
fn what_was_done_before_a_crash_counts() {
    let mut share = Batches::of([vec![op(3, Act::Load); 2]]);
    let outcome = run(&touch(), &mut share, |_| (), &mut |machine, batch| {
        batch.found(assign(machine, 3));
        Err(Broken::Stray { gpa: Gpa::new(0), pfn: HostPfn::new(0) })
    });
    assert!(matches!(outcome.broken, Some(Broken::Stray { .. })));
    assert_eq!((outcome.tally.accesses, outcome.log.iter().count()), (1, 1));
}

#[test]
fn a_fault_that_comes_again_or_is_no_planned_one_stops_the_vcpu() {
    let faults = |fault| {
        let mut share = Batches::of([vec![op(3, Act::Load)]]);
        let stay = &mut |_: &Machine<'_>, _: &mut Batch| Ok(Exit::Fault(fault));
        let outcome = run(&touch(), &mut share, |_| (), stay);
        (outcome.tally.mapped, outcome.broken.unwrap())
    };
    assert!(matches!(faults(fault(3, NOT_PRESENT)), (1, Broken::FaultAgain(_))));
    assert!(matches!(faults(fault(3, WRITE_PROTECTED)), (0, Broken::Fault(_))));
    assert!(matches!(faults(fault(4, NOT_PRESENT)), (0, Broken::Fault(_))));
}

#[test]
fn where_there_is_no_memory_the_batch_is_given_up_and_its_share_told() {
    let first = vec![op(0, Act::Load), op(1, Act::Load)];
    let mut share = Batches::of([first, vec![op(20, Act::Load)]]);
    let leave = |machine: &Machine<'_>| {
        machine.space.unmap_region(machine.layout.regions()[0]).unwrap();
    };
    let mut tried = Vec::new();
    let outcome = run(&visits(Change::Churn), &mut share, leave, &mut |machine, batch| {
        let next = batch.next().unwrap();
        tried.push(next.page);
        if next.page == 0 {
            return Ok(Exit::Fault(fault(0, NOT_PRESENT)));
        }
        batch.found(assign(machine, next.page));
        Ok(Exit::Done)
    });
    assert!(outcome.broken.is_none(), "{outcome:?}");
    assert_eq!((tried, share.absent), (vec![0, 20], 1));
    assert_eq!((outcome.tally.faults, outcome.tally.away, outcome.tally.mapped), (1, 1, 0));
}

#[test]
fn where_there_should_be_memory_and_is_none_the_vcpu_stops() {
    let mut share = Batches::of([vec![op(0, Act::Load)]]);
    let leave = |machine: &Machine<'_>| {
        machine.space.unmap_region(machine.layout.regions()[0]).unwrap();
    };
    let stay = &mut |_: &Machine<'_>, _: &mut Batch| Ok(Exit::Fault(fault(0, NOT_PRESENT)));
    let outcome = run(&touch(), &mut share, leave, stay);
    let is_refused = |broken| matches!(broken, Broken::Unresolved(FaultError::NoRegion { .. }));
    assert!(outcome.broken.is_some_and(is_refused));
}

#[test]
fn where_pages_move_a_fault_is_tried_again_until_the_page_is_back() {
    let mut share = Batches::of([vec![op(0, Act::Add(1))]]);
    let freeze = |machine: &Machine<'_>| {
        machine.space.protect_region(machine.layout.regions()[0], Prot::RX).unwrap();
    };
    let mut faults = 0;
    let outcome = run(&visits(Change::Migrate), &mut share, freeze, &mut |machine, batch| {
        faults += 1;
        if faults == 3 {
            machine.space.protect_region(machine.layout.regions()[0], Prot::RWX).unwrap();
            machine.space.vcpu().fault(Gpa::new(0), Prot::R).unwrap();
        }
        if faults < 4 {
            return Ok(Exit::Fault(fault(0, WRITE_PROTECTED)));
        }
        batch.found(assign(machine, 0));
        Ok(Exit::Done)
    });
    assert!(outcome.broken.is_none(), "{outcome:?}");
    assert_eq!((outcome.tally.faults, outcome.tally.moving, outcome.tally.mapped), (3, 3, 0));
}

#[test]
fn who_is_not_the_first_at_a_page_takes_that_of_who_was() {
    let mut share = Batches::of([vec![op(0, Act::Load)]]);
    let map = |machine: &Machine<'_>| {
        machine.space.vcpu().fault(Gpa::new(0), Prot::R).unwrap();
    };
    let mut faults = 0;
    let outcome = run(&touch(), &mut share, map, &mut |machine, batch| {
        faults += 1;
        if faults == 1 {
            return Ok(Exit::Fault(fault(0, NOT_PRESENT)));
        }
        batch.found(assign(machine, 0));
        Ok(Exit::Done)
    });
    assert!(outcome.broken.is_none(), "{outcome:?}");
    assert_eq!((outcome.tally.faults, outcome.tally.lost, outcome.tally.mapped), (1, 1, 0));
}

#[test]
fn what_the_host_filled_while_writes_are_tracked_is_dirty() {
    let touch = touch();
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = Machine::new(ept.into(), &touch, 1, None).unwrap();
    let stage = Stage::new(1, 1, 0, 0);
    stage.phase.track();
    let (progress, begun) = (Progress::hidden(), Instant::now());
    let ticker = Ticker::new(&progress, begun);
    let vcpu = Vcpu { machine: &machine, stage: &stage, ticker, begun };
    let mut share = Batches::of([vec![op(3, Act::Load)]]);
    let mut faulted = false;
    let stay: &mut Stayed<'_> = &mut |machine, batch| {
        if !std::mem::replace(&mut faulted, true) {
            return Ok(Exit::Fault(fault(3, NOT_PRESENT)));
        }
        let leaf = machine.table().pin().lookup(machine.layout.gpa(3)).unwrap();
        assert!(leaf.dirty && !leaf.accessed);
        batch.found(machine.memory.frame(leaf.pfn).unwrap().load(0));
        Ok(Exit::Done)
    };
    let mut processor = Scripted { machine: &machine, vcpu: machine.space.vcpu(), stay };
    let outcome = vcpu.run(&mut processor, &mut share);
    assert!(outcome.broken.is_none(), "{outcome:?}");
    let deeds: Vec<_> = outcome.log.iter().map(|(page, deeds)| (page, deeds.written)).collect();
    assert_eq!(deeds, [(3, true)]);
}
