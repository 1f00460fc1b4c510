//! The scheduler that stops a thread.

#![expect(clippy::disallowed_types, reason = "outside of the executions")]

use std::sync::{Mutex, MutexGuard};

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use slat::{NextStep, next_step};

use super::{Outcome, Run};
use crate::sched::Arc;

/// The steps after which a thread is said to wait. Nothing that does not wait makes nearly as many.
const MANY: usize = 2_000;

/// The order in which the threads are made; the first of all is that of the scenario.
const FIRST: usize = 1;
const OTHER: usize = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nobody but the scenario does anything.
    #[default]
    Before,
    /// The first thread runs up to its step, alone.
    First,
    /// It has stopped, or finished: the other one runs, alone.
    Other,
    /// The other one has finished, or waits: all run, in turns.
    Late,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Before which step to stop.
    stop: usize,
    /// How many steps the first thread has made.
    made: usize,
    /// Where it stopped.
    at: Option<Option<NextStep>>,
    /// How many steps the other one has made.
    steps: usize,
    /// What the other one is about to do.
    ahead: Option<NextStep>,
    /// Its last pause.
    pause: Option<NextStep>,
    waits: Option<Option<NextStep>>,
    /// Which of the two are at work.
    at_work: [bool; 2],
    /// Who ran last.
    last: usize,
    runs: Vec<Run>,
}

/// What scheduler and scenario tell each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Control(Arc<Mutex<State>>);

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Says that both threads are there.
    pub(super) fn start(&self) {
        self.state().phase = Phase::First;
    }

    /// Says that the thread that runs begins with what it is there for.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        let number = state.last;
        state.at_work[number - FIRST] = true;
        // Not its own: what was done while there was nobody else.
        let _ = next_step();
    }

    /// Says that the thread that runs is done with that.
    pub(super) fn end(&self) {
        let mut state = self.state();
        let number = state.last;
        state.at_work[number - FIRST] = false;
        if number == FIRST && state.phase == Phase::First {
            state.phase = Phase::Other;
        } else if number == OTHER {
            state.phase = Phase::Late;
        }
    }

    /// Notes what came out of an execution.
    pub(super) fn note(&self, outcome: Outcome) {
        let mut state = self.state();
        let stopped = state.at.map(|at| (state.stop, at));
        let (waits, steps) = (state.waits, state.steps);
        state.runs.push(Run { stopped, waits, steps, outcome });
    }

    /// Says where the first thread stopped.
    pub(super) fn place(&self) -> String {
        // It may be that the scheduler failed.
        let state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.at {
            None => format!("nowhere, {} steps on", state.made),
            Some(None) => format!("before step {}", state.stop),
            Some(Some(step)) => format!("before step {}, {step}", state.stop),
        }
    }

    pub(super) fn runs(&self) -> Vec<Run> {
        std::mem::take(&mut self.state().runs)
    }
}

impl State {
    /// Begins the next execution; tells whether there is one.
    fn begin(&mut self) -> bool {
        let stop = match self.runs.last() {
            None => 0,
            Some(run) if run.stopped.is_some() => self.stop + 1,
            // It finished: there is no such step.
            Some(_) => return false,
        };
        *self = Self { stop, runs: std::mem::take(&mut self.runs), ..Self::default() };
        true
    }

    /// Counts a step of `current`, and says who is to make the next one, if somebody alone is.
    fn choose(&mut self, current: usize, is_runnable: impl Fn(usize) -> bool) -> Option<usize> {
        if current >= FIRST && self.at_work[current - FIRST] {
            self.count(current);
        }
        match self.phase {
            Phase::Before => Some(0),
            Phase::First if is_runnable(FIRST) => Some(FIRST),
            Phase::First => panic!("it waits, and nobody else is there"),
            Phase::Other if is_runnable(OTHER) => Some(OTHER),
            Phase::Other => {
                self.wait(self.ahead);
                None
            }
            Phase::Late => None,
        }
    }

    fn count(&mut self, current: usize) {
        let step = next_step();
        match (self.phase, current) {
            (Phase::First, FIRST) if self.made == self.stop => {
                self.at = Some(step);
                self.phase = Phase::Other;
            }
            (Phase::First, FIRST) => {
                self.made += 1;
                assert!(self.made < MANY, "it goes on for ever, alone");
            }
            (Phase::Other, OTHER) => {
                self.steps += 1;
                self.ahead = step.or(self.ahead);
                self.pause = step.filter(|step| step.what == "pause").or(self.pause);
                if self.steps == MANY {
                    self.wait(self.pause.or(self.ahead));
                }
            }
            _ => {}
        }
    }

    fn wait(&mut self, step: Option<NextStep>) {
        self.waits = Some(step);
        self.phase = Phase::Late;
    }
}

/// Runs one thread up to a step, and then another.
#[derive(Debug)]
pub(super) struct Stopping(Control);

impl Stopping {
    pub(super) fn new(control: &Control) -> Self {
        Self(Control::clone(control))
    }
}

impl Scheduler for Stopping {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.0.state().begin().then(|| Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        _is_yielding: bool,
    ) -> Option<TaskId> {
        let mut state = self.0.state();
        let numbers = || runnable.iter().map(|task| usize::from(task.id()));
        let chosen = state.choose(current.map_or(0, usize::from), |number| {
            numbers().any(|other| other == number)
        });
        // The next one in turn.
        let next = numbers().find(|&number| number > state.last).or_else(|| numbers().next());
        let number = chosen.or(next)?;
        state.last = number;
        Some(TaskId::from(number))
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
