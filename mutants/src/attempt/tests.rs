use std::collections::VecDeque;

use super::*;

/// Answers what it was told to, and notes who was run with whom.
#[derive(Default)]
struct Fake {
    answers: VecDeque<Remains>,
    ran: Vec<Vec<String>>,
}

impl Processes for Fake {
    fn run(&mut self, killers: &[&Killer], _: Duration) -> anyhow::Result<Remains> {
        self.ran.push(killers.iter().map(|killer| killer.text().to_owned()).collect());
        Ok(self.answers.pop_front().expect("an answer for each process"))
    }
}

fn run(killers: &[&str], answers: &[(Exit, &str)]) -> (Vec<Outcome>, Vec<Vec<String>>) {
    let killers: Vec<_> =
        killers.iter().map(|text| Killer::try_from((*text).to_owned()).unwrap()).collect();
    let answers = answers.iter().map(|&(exit, printed)| {
        let printed = printed.to_owned();
        Remains { exit, printed }
    });
    let mut fake = Fake { answers: answers.collect(), ran: Vec::new() };
    let outcomes = outcomes(&killers, Duration::ZERO, &mut fake).unwrap();
    assert_eq!(fake.answers.len(), 0, "all answers were asked for");
    (outcomes, fake.ran)
}

#[test]
fn killers_of_one_executable_run_in_one_process() {
    let printed = "test one ... FAILED\ntest two ... ok\n";
    let answers = [(Exit::Failure, printed), (Exit::Failure, "test three ... FAILED\n")];
    let (outcomes, ran) = run(&["map::one", "bits::three", "map::two"], &answers);
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Failed, Outcome::Passed]);
    assert_eq!(ran, [vec!["map::one", "map::two"], vec!["bits::three"]]);
}

#[test]
fn killers_with_other_preemptions_run_by_themselves() {
    let answers = [(Exit::Failure, "test one ... FAILED\n"), (Exit::Success, "test two ... ok\n")];
    let (outcomes, ran) = run(&["map::one", "map::two@3"], &answers);
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Passed]);
    assert_eq!(ran.len(), 2);
}

#[test]
fn who_said_nothing_when_the_process_went_down_runs_alone() {
    let answers = [
        (Exit::Failure, "test one ... FAILED\n"),
        (Exit::Failure, ""),
        (Exit::Success, "test three ... ok\n"),
    ];
    let (outcomes, ran) = run(&["map::one", "map::two", "map::three"], &answers);
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Failed, Outcome::Passed]);
    assert_eq!(ran[1..], [vec!["map::two"], vec!["map::three"]]);
}

#[test]
fn who_takes_the_process_down_alone_failed() {
    assert_eq!(run(&["map::one"], &[(Exit::Failure, "")]).0, [Outcome::Failed]);
}

#[test]
fn who_does_not_end_has_not_failed() {
    assert_eq!(run(&["map::one"], &[(Exit::TimedOut, "")]).0, [Outcome::TimedOut]);
    let answers = [(Exit::TimedOut, "test one ... FAILED\n"), (Exit::TimedOut, "")];
    let (outcomes, _) = run(&["map::one", "map::two"], &answers);
    assert_eq!(outcomes, [Outcome::Failed, Outcome::TimedOut]);
}

#[test]
fn a_test_that_nobody_ran_is_missing() {
    let answers = [(Exit::Success, "test result: ok. 0 passed\n")];
    assert_eq!(run(&["map::one"], &answers).0, [Outcome::Missing]);
}

#[test]
fn of_the_tests_that_a_part_of_a_name_picks_one_has_to_fail() {
    let some = "test a::one::x ... ok\ntest a::one::y ... FAILED\n";
    assert_eq!(run(&["--lib one"], &[(Exit::Failure, some)]).0, [Outcome::Failed]);
    let none = "test a::one::x ... ok\n";
    assert_eq!(run(&["--lib one"], &[(Exit::Success, none)]).0, [Outcome::Passed]);
    // The next one did not come to its end.
    assert_eq!(run(&["--lib one"], &[(Exit::TimedOut, none)]).0, [Outcome::TimedOut]);
    assert_eq!(run(&["--lib one"], &[(Exit::Failure, none)]).0, [Outcome::Failed]);
}
