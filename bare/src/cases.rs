//! What is tried.

mod demand;
mod entries;

use alloc::string::String;

use slat::FrameSource;

use crate::{machine::console::say, virt::Virt, world::Machine};

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

fn all<V: Virt>() -> [Case<V>; 2] {
    [("demand paging", demand::run), ("entries", entries::run)]
}

/// Tries all that are asked for, says how each ended, and tells whether none failed.
pub(crate) fn run<V: Virt>(machine: &Machine<V>) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in all().into_iter().filter(|case| case.0.contains(machine.options.only)) {
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
    say!("cases: {passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}

/// Passes if `right`.
fn judge(right: bool, said: String) -> Outcome {
    if right { Outcome::Passed(said) } else { Outcome::Failed(said) }
}
