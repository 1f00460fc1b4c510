//! Crowds: more threads, with more steps each, than loom gets through.
//!
//! A crowd is the same code under all schedulers; only its size differs. What a member does at each step it
//! chooses at random, by a seed of the execution: under loom by a few fixed ones, under shuttle by one that is
//! part of the schedule, and as plain threads by the number of the run.
//!
//! Most of what is chosen at random could come to nothing, and nobody would notice. So members say what they
//! [did](Member::did), and a scenario says what has to have been done by somebody.

use std::{cell::RefCell, collections::BTreeMap};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    sched::{self, Lock},
    sides,
};

/// How many there are.
pub const MEMBERS: u64 = if cfg!(loom) { 2 } else { 7 };

/// How many steps each of them makes.
pub const STEPS: u64 = if cfg!(loom) { 1 } else { 16 };

/// Of so much that was done there has to be some of everything.
const ENOUGH: u64 = 5_000;

/// How often what was done.
type Deeds = BTreeMap<&'static str, u64>;

thread_local! {
    /// What was done in all executions of a scenario. Of no execution's own: it is written when the threads are over.
    static DONE: RefCell<Deeds> = const { RefCell::new(Deeds::new()) };
}

/// One of a crowd, who chooses what to do.
#[derive(Debug)]
pub struct Member {
    choices: SmallRng,
    done: Deeds,
}

impl Member {
    /// Says what the member has done just now: that it went, and came to something.
    pub fn did(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Chooses one of `count` things.
    pub fn choose(&mut self, count: u64) -> u64 {
        self.choices.random_range(..count)
    }

    /// Chooses one of several.
    pub fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.choose(things.len() as u64) as usize]
    }
}

/// What a member does.
pub type Part<T> = Box<dyn FnOnce(&mut Member) -> T + Send>;

/// What has to have been done in the executions of a scenario, by somebody.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// By seven members, if [enough](ENOUGH) was done.
    pub by_many: &'a [&'a str],
    /// By two with one step each, with these seeds: those whose steps meet are few.
    pub by_two: &'a [&'a str],
    /// All that two choose from: what each of these makes them do is tried in all ways.
    pub seeds: &'a [u64],
}

/// Runs the scenario, which is told its seed, again and again, as [`explore`](crate::explore) does; prints what was
/// done in all of that.
///
/// # Panics
/// If the scenario does, or if nobody did what is wanted.
pub fn explore<S>(preemptions: usize, wanted: &Wanted<'_>, scenario: S)
where
    S: Fn(u64) + Copy + Send + Sync + 'static,
{
    let (seeds, deeds) =
        if cfg!(loom) { (wanted.seeds, wanted.by_two) } else { (&[0][..], wanted.by_many) };
    DONE.take();
    for &seed in seeds {
        let run = move || scenario(sched::seed().wrapping_add(seed));
        crate::explore_as(crate::name_of::<S>(), preemptions, run).are(&[()]);
    }
    let done = DONE.take();
    println!("done in it: {done:?}");
    let missed: Vec<_> = deeds.iter().filter(|deed| !done.contains_key(**deed)).collect();
    let is_enough = cfg!(loom) || done.values().sum::<u64>() >= ENOUGH;
    assert!(missed.is_empty() || !is_enough, "nobody did this: {missed:?}");
}

/// Runs all parts at the same time, each on a thread of its own; returns what came of them, in order.
///
/// # Panics
/// If one of them does, or if there are none.
pub fn crowd<T: Send + 'static>(seed: u64, parts: Vec<Part<T>>) -> Vec<T> {
    let members = (0..).map(|number| Member {
        choices: SmallRng::seed_from_u64(seed.wrapping_mul(MEMBERS).wrapping_add(number)),
        done: Deeds::new(),
    });
    let parts = parts.into_iter().zip(members).map(|(part, mut member)| {
        move || {
            let said = part(&mut member);
            (said, member.done)
        }
    });
    let note = |(said, done)| {
        note(done);
        said
    };
    sides::all(parts.collect()).into_iter().map(note).collect()
}

/// Adds what a member has done, who is done.
fn note(done: Deeds) {
    DONE.with_borrow_mut(|all| {
        for (what, times) in done {
            *all.entry(what).or_default() += times;
        }
    });
}

/// A clock that all share: what is ordered by it is ordered.
#[derive(Debug)]
pub struct Clock(Lock<u64>);

impl Clock {
    /// Makes one that shows zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Lock::new(0))
    }

    /// Returns a time that is later than all before.
    pub fn tick(&self) -> u64 {
        self.0.with(|time| {
            *time += 1;
            *time
        })
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
