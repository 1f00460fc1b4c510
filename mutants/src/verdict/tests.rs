use super::*;

fn mutant(hangs: bool, survives: Option<&str>) -> Mutant {
    let killers = ["map::one", "map::two"];
    let killers = killers.map(|text| Killer::try_from(text.to_owned()).unwrap()).to_vec();
    let survives = survives.map(str::to_owned);
    Mutant { hangs, survives, ..Mutant::unbroken("a mutant".to_owned(), killers) }
}

fn unnoticed(killer: &str, why: Blind) -> Unnoticed {
    Unnoticed { killer: killer.to_owned(), why }
}

#[test]
fn a_mutant_is_killed_if_all_of_its_killers_failed() {
    let verdict = Verdict::of(&mutant(false, None), &[Outcome::Failed; 2]);
    assert!(verdict == Verdict::Killed && !verdict.is_bad());
}

#[test]
fn what_hides_a_mutant_is_noticed_by_nobody_when_it_is_gone() {
    let mutant = mutant(false, None);
    assert_eq!(Verdict::of_uncovered(&mutant, &[Outcome::Passed; 2]), None);
    let found = Verdict::of_uncovered(&mutant, &[Outcome::Passed, Outcome::Failed]);
    assert_eq!(found, Some(Verdict::Wrong(Mistake::NotHidden("map::two".to_owned()))));
}

#[test]
fn a_mutant_survives_if_one_of_its_killers_passed() {
    let verdict = Verdict::of(&mutant(false, None), &[Outcome::Failed, Outcome::Passed]);
    assert_eq!(verdict, Verdict::Survived(vec![unnoticed("map::two", Blind::Passed)]));
    assert!(verdict.is_bad());
}

#[test]
fn a_killer_that_does_not_end_kills_only_where_the_row_says_so() {
    let outcomes = [Outcome::TimedOut, Outcome::Failed];
    let verdict = Verdict::of(&mutant(false, None), &outcomes);
    assert_eq!(verdict, Verdict::Survived(vec![unnoticed("map::one", Blind::TimedOut)]));
    assert_eq!(Verdict::of(&mutant(true, None), &outcomes), Verdict::Killed);
}

#[test]
fn a_mutant_that_hangs_is_not_killed_by_who_passes() {
    let verdict = Verdict::of(&mutant(true, None), &[Outcome::TimedOut, Outcome::Passed]);
    assert!(verdict.is_bad());
}

#[test]
fn a_killer_that_is_not_there_is_a_mistake_and_no_kill() {
    let verdict = Verdict::of(&mutant(false, None), &[Outcome::Failed, Outcome::Missing]);
    assert_eq!(verdict, Verdict::Wrong(Mistake::NoTest("map::two".to_owned())));
    assert!(verdict.is_bad());
}

#[test]
fn an_argument_stands_as_long_as_nobody_notices() {
    let mutant = mutant(false, Some("it is as good"));
    let verdict = Verdict::of(&mutant, &[Outcome::Passed; 2]);
    assert!(verdict == Verdict::Argued("it is as good".to_owned()) && !verdict.is_bad());
    let verdict = Verdict::of(&mutant, &[Outcome::Passed, Outcome::Failed]);
    assert_eq!(verdict, Verdict::Wrong(Mistake::KilledAfterAll("map::two".to_owned())));
    let verdict = Verdict::of(&mutant, &[Outcome::TimedOut, Outcome::Passed]);
    assert_eq!(verdict, Verdict::Wrong(Mistake::Unclear("map::one".to_owned())));
}
