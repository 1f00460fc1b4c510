//! Crowds: more threads, with more steps each, than loom gets through.
//!
//! A crowd is the same code under all schedulers; only its size differs. What a member does at each step it
//! chooses at random, by a seed of the execution: under loom by a few fixed ones, under shuttle by one that is
//! part of the schedule, and as plain threads by the number of the run.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    sched::{self, Lock},
    sides,
};

/// How many there are.
pub const MEMBERS: u64 = if cfg!(loom) { 2 } else { 7 };

/// How many steps each of them makes.
pub const STEPS: u64 = if cfg!(loom) { 1 } else { 16 };

/// How many seeds are tried where the executions of one are gone through.
const SEEDS: u64 = 3;

/// One of a crowd, who chooses what to do.
#[derive(Debug)]
pub struct Member {
    choices: SmallRng,
}

impl Member {
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

/// Runs the scenario, which is told its seed, again and again, as [`explore`](crate::explore) does.
///
/// # Panics
/// If the scenario does.
pub fn explore<S>(preemptions: usize, scenario: S)
where
    S: Fn(u64) + Copy + Send + Sync + 'static,
{
    let seeds = if cfg!(loom) { 0..SEEDS } else { 0..1 };
    for seed in seeds {
        let run = move || scenario(sched::seed().wrapping_add(seed));
        crate::explore_as(crate::name_of::<S>(), preemptions, run).are(&[()]);
    }
}

/// Runs all parts at the same time, each on a thread of its own; returns what came of them, in order.
///
/// # Panics
/// If one of them does, or if there are none.
pub fn crowd<T: Send + 'static>(seed: u64, parts: Vec<Part<T>>) -> Vec<T> {
    let members = (0..).map(|number| Member {
        choices: SmallRng::seed_from_u64(seed.wrapping_mul(MEMBERS).wrapping_add(number)),
    });
    let parts = parts.into_iter().zip(members).map(|(part, mut member)| move || part(&mut member));
    sides::all(parts.collect())
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
