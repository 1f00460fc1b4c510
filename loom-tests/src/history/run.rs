//! Programs, run on the library and recorded.

use std::fmt;

use super::{
    Exception, History, Operation, THREADS,
    call::{Answer, Call, Span},
    clock::{self, Clock, Interval, Pace},
    perform::Doer,
    program::{Pinning, Program},
    spec::Page,
};
use crate::{
    sched::{self, Arc, Shared},
    sides,
    world::World,
};

/// What came of checking histories.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// How many there were.
    pub histories: u64,
    /// How many operations they had.
    pub operations: u64,
    /// How many pairs of them were under way at the same time.
    pub pairs: u64,
    /// How many configurations the longest search came to.
    pub longest: usize,
    /// How many needed [`Exception::LateLeaf`].
    pub late: u64,
    /// How many needed [`Exception::Exchanged`].
    pub exchanged: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.pairs += other.pairs;
        self.longest = self.longest.max(other.longest);
        self.late += other.late;
        self.exchanged += other.exchanged;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { histories, operations, pairs, longest, late, exchanged } = self;
        write!(f, "{histories} histories of {operations} operations are linearizable; ")?;
        write!(f, "{pairs} pairs were simultaneous; ")?;
        write!(f, "the longest search came to {longest} configurations; ")?;
        write!(f, "{late} met late leaves, {exchanged} exchanged answers of late maps")
    }
}

/// Runs the program again and again, `runs` times where that can be said, and checks each history.
///
/// # Panics
/// If one has no order: prints it, and how to run the program again.
#[must_use]
pub fn explore_program(program: &Program, seed: u64, runs: usize) -> Tally {
    let tally = Shared::<Tally>::default();
    let (seen, program) = (Shared::clone(&tally), program.clone());
    sched::sample(seed, runs, move |run| {
        let checked = check(&program, seed.wrapping_add(run as u64));
        seen.lock().unwrap().add(checked);
    });
    *tally.lock().unwrap()
}

fn check(program: &Program, pace: u64) -> Tally {
    let history = record(program, pace);
    let operations = history.all().count() as u64;
    let pairs = history.all().flat_map(|one| history.all().map(move |other| (one, other)));
    let pairs = pairs.filter(|&(one, other)| history.overlap(one, other)).count() as u64 / 2;
    let checked = history.check().unwrap_or_else(|stuck| {
        let Program { name, ground, pinning, .. } = program;
        panic!("{name}, on {}, pinned {pinning:?}: {stuck}", ground.name);
    });
    Tally {
        histories: 1,
        operations,
        pairs,
        longest: checked.configurations,
        late: u64::from(checked.needs == Some(Exception::LateLeaf)),
        exchanged: u64::from(checked.needs == Some(Exception::Exchanged)),
    }
}

/// One operation of a thread, and when it was.
type Timed = (Call, Answer, Interval);

/// Runs the program once.
fn record(program: &Program, pace: u64) -> History {
    let count = program.threads.len();
    assert!(count < THREADS, "one is left for the look in the end");
    let world = Arc::new(World::with_lives(program.lives()));
    let clock = Arc::new(Clock::new(count));
    let doers: Vec<_> = program.threads.iter().map(|_| Doer::new(&world, program)).collect();
    set_up(&doers[0], program);
    let threads = doers.into_iter().enumerate().map(|(number, doer)| {
        let clock = Arc::clone(&clock);
        let (calls, pinning) = (program.threads[number].clone(), program.pinning);
        move || {
            let _pace = Pace::new(pace, number);
            let pin = (pinning != Pinning::Each).then(|| doer.pin());
            let slots = pin.as_ref().filter(|_| pinning == Pinning::Slots);
            let slots = slots.map_or(Vec::new(), |pin| doer.slots(pin));
            let timed = calls.into_iter().enumerate().map(|(before, call)| {
                let (answer, when) = clock.time(number, before, || doer.perform(&slots, call));
                (call, answer, when)
            });
            let timed: Vec<Timed> = timed.collect();
            drop(slots);
            drop(pin);
            (timed, doer)
        }
    });
    let (timed, doers): (Vec<_>, Vec<_>) = sides::all(threads.collect()).into_iter().unzip();
    let last = look(&doers[0], program, &timed);
    assemble(program, &timed, last)
}

/// Makes the pages what they are at first.
fn set_up(doer: &Doer, program: &Program) {
    for page in 0..program.ground.pages {
        if program.start[page] == Page::Unpopulated {
            continue;
        }
        doer.perform(&[], Call::Populate(Span::one(page)));
        let Page::Leaf(leaf) = program.start[page] else { continue };
        doer.perform(&[], Call::Map { page, frame: leaf.frame, rights: leaf.rights });
        if leaf.accessed {
            doer.perform(&[], Call::SetAccessed(page));
        }
        if leaf.dirty {
            doer.perform(&[], Call::NoteDirty(page));
        }
    }
}

/// Looks at all pages when everything is over: what the history has to come to.
fn look(doer: &Doer, program: &Program, timed: &[Vec<Timed>]) -> Vec<Operation> {
    let mut seen = [0; THREADS];
    for (seen, timed) in seen.iter_mut().zip(timed) {
        *seen = timed.len();
    }
    let calls = (0..program.ground.pages).map(Call::Look);
    let look = |call| Operation { call, answer: doer.perform(&[], call), seen };
    calls.map(look).collect()
}

fn assemble(program: &Program, timed: &[Vec<Timed>], last: Vec<Operation>) -> History {
    let intervals = timed.iter().map(|of| of.iter().map(|&(.., when)| when).collect());
    let seen = clock::seen(&intervals.collect::<Vec<_>>());
    let threads = timed.iter().zip(seen).map(|(timed, seen)| {
        let operations = timed.iter().zip(seen);
        operations.map(|(&(call, answer, _), seen)| Operation { call, answer, seen }).collect()
    });
    let threads = threads.chain([last]).collect();
    History { start: program.start, tables: program.ground.tables, threads }
}
