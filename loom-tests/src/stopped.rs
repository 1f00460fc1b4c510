//! Threads that stop for ever: one stops just before each of its steps in turn, and another has to finish.
//!
//! A *step* is what shuttle's threads can be parted at: an access to a word that others reach, a lock, a wait. The
//! [scheduler](scheduler) runs the first thread alone up to the step at which it is to stop, and then only the
//! other one. That one finishes, or it *waits*: it is blocked, or has made more steps than anything takes that
//! does not wait. Either way the first one then wakes up, very late, and goes on to its end, so that every
//! execution ends with all its books balanced.
//!
//! To pin is no step, since crossbeam-epoch is not shuttle's; what is done under a pin is.

mod scheduler;

use std::{any::Any, fmt};

use shuttle::{Config, Runner, thread};
use slat::NextStep;

use self::scheduler::{Control, Stopping};
use crate::sched::{self, Arc};

/// What one thread does: a name, and how to make ready for it.
#[derive(Debug)]
pub struct Act<W> {
    /// Its name.
    pub name: &'static str,
    /// Makes what it needs, in a world in which nobody else does anything yet.
    pub ready: fn(&Arc<W>) -> Job,
}

impl<W> Clone for Act<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Act<W> {}

/// What a thread is to do, at once.
pub type Job = Box<dyn FnOnce() -> Done + Send>;

/// What a thread has done.
pub struct Done {
    /// What it reports, fact by fact.
    pub report: Facts,
    /// What it used, to be dropped when all is over: that takes locks, and is no part of it.
    pub kept: Box<dyn Any + Send>,
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").field("report", &self.report).finish_non_exhaustive()
    }
}

/// What is reported, or seen, one by one: of each page, where it is about pages.
pub type Facts = Vec<String>;

/// One execution.
#[derive(Clone, Debug)]
pub struct Run {
    /// Before which of its steps the first thread stopped, and what that was; `None` if it had finished by then.
    pub stopped: Option<(usize, Option<NextStep>)>,
    /// What the other waited for, if it did.
    pub waits: Option<Option<NextStep>>,
    /// How many steps the other made until it finished, or waited.
    pub steps: usize,
    /// What came out.
    pub outcome: Outcome,
}

/// What two threads reported, and what was seen when both were done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The report of the one that stopped, and woke up very late.
    pub late: Facts,
    /// The report of the other.
    pub other: Facts,
    /// What was left.
    pub left: Facts,
}

/// A place to stop at where the library has none: before a thread takes its pin, or when all that it was to do under it
/// is done.
pub fn place() {
    sched::part();
}

/// Stops the first act just before each of its steps in turn, lets the other one run, and then the first one to its
/// end. The last execution is the one in which it did not stop.
///
/// # Panics
/// If one of the two does.
pub fn stop<W: Send + Sync + 'static>(
    world: fn() -> W,
    first: Act<W>,
    other: Act<W>,
    look: fn(&W) -> Facts,
) -> Vec<Run> {
    let control = Control::default();
    let runs = Control::clone(&control);
    let mut config = Config::new();
    config.silence_warnings = true;
    // A failure is told on the stack of the thread that fails.
    config.stack_size = 1 << 18;
    Runner::new(Stopping::new(&control), config).run(move || {
        let _says = Says(&control, first.name, other.name);
        let world = Arc::new(world());
        let jobs = [(first.ready)(&world), (other.ready)(&world)];
        let [first, other] = jobs.map(|job| {
            let control = Control::clone(&control);
            thread::spawn(move || {
                control.begin();
                place();
                let done = job();
                control.end();
                done
            })
        });
        control.start();
        let (other, first) = (other.join().unwrap(), first.join().unwrap());
        let Done { report: late, kept } = first;
        let kept = (kept, other.kept);
        let left = look(&world);
        drop(kept);
        control.note(Outcome { late, other: other.report, left });
    });
    runs.runs()
}

/// Says where it stopped, if an execution fails.
struct Says<'c>(&'c Control, &'static str, &'static str);

impl Drop for Says<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(control, first, other) = self;
            eprintln!("{first} stopped {}, and {other} beside it", control.place());
        }
    }
}
