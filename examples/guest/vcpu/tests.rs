//! A vCPU on a processor that does what the test says: also what a sound one never does.

use std::sync::Barrier;

use slat::{Ept, EptCaps, Gpa, Levels, PageSize, PhysWidth, Tracking};

use super::*;
use crate::{
    layout::Layout,
    manager::Turnover,
    memory::Stay,
    progress::Progress,
    stage::{Kicks, Leaving},
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
    stay: &'t mut Stayed<'t>,
}

impl Processor for Scripted<'_, '_> {
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
    prepare: impl FnOnce(&Machine<'_>, &Stage),
    stay: &'t mut Stayed<'t>,
) -> Outcome {
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = Machine::new(ept.into(), workload, 1, None).unwrap();
    let stage = Stage::new(machine.layout.regions().len(), 1, 0, 1, Kicks::default());
    prepare(&machine, &stage);
    let (progress, begun) = (Progress::hidden(), Instant::now());
    let ticker = Ticker::new(&progress, begun);
    let flushing = Flushing::Served;
    let vcpu = Vcpu { machine: &machine, stage: &stage, flushing, ticker, begun };
    vcpu.run(&mut Scripted { machine: &machine, stay }, share)
}

/// Gives a frame to `page`; returns what the words in it are then.
fn assign(machine: &Machine<'_>, page: usize) -> Word {
    let pfn = machine.memory.allocate(PageSize::Size4K).unwrap();
    machine.memory.assign(pfn, machine.layout.leaf(page, PageSize::Size4K));
    machine.memory.frame(pfn).unwrap().load(0)
}

/// Runs one batch to its end, in which each access finds what `words` makes for it.
fn find(
    ops: &[Op],
    words: impl FnOnce(&Machine<'_>) -> Vec<Word>,
) -> (Outcome, Vec<(usize, Stay, u64)>) {
    let mut words = Some(words);
    let outcome =
        run(&touch(), &mut Batches::of([ops.to_vec()]), |_, _| (), &mut |machine, batch| {
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
    let outcome = run(&touch(), &mut share, |_, _| (), &mut |machine, batch| {
        batch.found(assign(machine, 3));
        Err(Broken::OutOfFrames { gpa: Gpa::new(0) })
    });
    assert!(matches!(outcome.broken, Some(Broken::OutOfFrames { .. })));
    assert_eq!((outcome.tally.accesses, outcome.log.iter().count()), (1, 1));
}

#[test]
fn a_fault_that_comes_again_or_is_no_planned_one_stops_the_vcpu() {
    let faults = |fault| {
        let mut share = Batches::of([vec![op(3, Act::Load)]]);
        let stay = &mut |_: &Machine<'_>, _: &mut Batch| Ok(Exit::Fault(fault));
        let outcome = run(&touch(), &mut share, |_, _| (), stay);
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
    let leave = |machine: &Machine<'_>, stage: &Stage| {
        stage.places[machine.layout.region_of(0)].set_leaving(Leaving::Yes);
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
fn where_pages_move_a_fault_is_tried_again_until_the_page_is_back() {
    let mut share = Batches::of([vec![op(0, Act::Add(1))]]);
    let map = |machine: &Machine<'_>, _: &Stage| {
        let pfn = machine.memory.allocate(PageSize::Size4K).unwrap();
        let reader = machine.table.reader();
        reader.pin().map(Gpa::new(0), pfn, PageSize::Size4K, machine.attr).unwrap();
    };
    let mut faults = 0;
    let outcome = run(&visits(Change::Migrate), &mut share, map, &mut |machine, batch| {
        if faults < 3 {
            faults += 1;
            return Ok(Exit::Fault(fault(0, WRITE_PROTECTED)));
        }
        batch.found(assign(machine, 0));
        Ok(Exit::Done)
    });
    assert!(outcome.broken.is_none(), "{outcome:?}");
    assert_eq!((outcome.tally.faults, outcome.tally.moving, outcome.tally.mapped), (3, 3, 0));
}

#[test]
fn a_frame_that_was_mapped_too_late_is_given_back_when_all_have_been_out() {
    let churn = visits(Change::Churn);
    let ept = Ept::new(Levels::Four, PhysWidth::new(46).unwrap(), EptCaps::USUAL);
    let machine = &Machine::new(ept.into(), &churn, 2, None).unwrap();
    let stage = &Stage::new(machine.layout.regions().len(), 1, 0, 1, Kicks::default());
    let pfn = machine.memory.allocate(PageSize::Size4K).unwrap();
    machine.memory.assign(pfn, machine.layout.leaf(3, PageSize::Size4K));
    let frame = machine.memory.frame(pfn).unwrap();
    let (gpa, stay) = (machine.layout.gpa(3), frame.stay().unwrap());
    let (size, attr) = (PageSize::Size4K, machine.attr);
    let leaf = Mapping { gpa, pfn, size, attr, accessed: true, dirty: true };

    let (progress, begun, flushing) = (Progress::hidden(), Instant::now(), Flushing::Served);
    let ticker = Ticker::new(&progress, begun);
    let mut running = Running {
        vcpu: Vcpu { machine, stage, flushing, ticker, begun },
        reader: machine.table.reader(),
        tally: Tally::default(),
        stale: None,
        log: Log::new(machine.layout.len()),
        lives: Vec::new(),
        spare: None,
    };
    let inside = &Barrier::new(2);
    thread::scope(|scope| {
        let at_work = stage.vcpus.guard();
        scope.spawn(move || {
            let mut observer = machine.table.observer();
            let seat = stage.kicks.sit(observer.id());
            let _inside = observer.enter(Tracking::On);
            inside.wait();
            // If nobody kicks, it writes too late.
            while !seat.is_kicked() && stage.vcpus.any() {
                thread::yield_now();
            }
            frame.add(0, 7);
        });
        inside.wait();
        running.give_up(leaf).unwrap();
        drop(at_work);
    });
    assert_eq!(running.lives, [Life { leaf: leaf.range(), stay, bits: leaf.into(), sum: 7 }]);
    assert_eq!(machine.memory.traffic().in_use(), 0);
}
