//! What is tried.

mod beside;
mod bits;
mod claims;
mod conform;
mod demand;
mod entries;
mod log;
mod own_tables;
mod roots;
mod sizes;

use alloc::{string::String, vec, vec::Vec};

use slat::FrameSource;

use crate::{
    machine::{
        console::say,
        power::{self, Ended},
    },
    virt::Virt,
    world::Machine,
};

/// How a case ended, and what it has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed(String),
    Failed(String),
    /// It cannot be tried here.
    Skipped(&'static str),
}

/// A case: its name, and how it is tried.
type Case<V> = (&'static str, fn(&Machine<V>) -> Outcome);

fn all<V: Virt>() -> Vec<Case<V>> {
    let mut all: Vec<Case<V>> = vec![
        ("entries", entries::run),
        ("own tables", own_tables::run),
        ("roots", roots::run),
        ("bits", bits::run),
        ("sizes", sizes::run),
        ("modification log", log::run),
        ("demand paging", demand::run),
    ];
    all.extend(beside::all());
    all
}

/// Tries all that are asked for, says how each ended, and tells whether none failed. Where none can be tried, nothing
/// was shown, which is an ending of its own.
pub(crate) fn run<V: Virt>(machine: &Machine<V>) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let is_wanted = |name: &str| name.replace(" ", "-").contains(machine.options.only);
    for (name, case) in all().into_iter().filter(|case| is_wanted(case.0)) {
        let before = machine.frames.free_frames();
        let outcome = case(machine);
        let missing = before - machine.frames.free_frames();
        match outcome {
            Outcome::Passed(said) if missing == 0 => {
                passed += 1;
                say!("{name}: passed: {said}");
            }
            Outcome::Passed(said) => {
                failed += 1;
                say!("{name}: FAILED: {missing} tables did not come back; {said}");
            }
            Outcome::Failed(said) => {
                failed += 1;
                say!("{name}: FAILED: {said}");
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                say!("{name}: skipped: {why}");
            }
        }
    }
    for (row, why) in machine.virt.untried().into_iter().filter(|row| is_wanted(row.0)) {
        skipped += 1;
        say!("{row}: skipped: {why}");
    }
    say!("cases: {passed} passed, {failed} failed, {skipped} skipped");
    if passed + failed == 0 {
        say!("none that can be tried here has {:?} in its name", machine.options.only);
        power::off(Ended::Nothing);
    }
    failed == 0
}

/// Passes if `right`.
fn judge(right: bool, said: String) -> Outcome {
    if right { Outcome::Passed(said) } else { Outcome::Failed(said) }
}
