use super::*;
use crate::{
    attempt::Outcome,
    verdict::{Mistake, Verdict},
};

fn mutant(killers: &[&str]) -> Mutant {
    let killers = killers.iter().map(|text| Killer::try_from((*text).to_owned()).unwrap());
    Mutant::unbroken("a mutant".to_owned(), killers.collect())
}

#[test]
fn each_killer_is_in_one_row_that_changes_nothing() {
    let mutants = [mutant(&["map::one", "bits::one"]), mutant(&["map::two", "map::one"])];
    let controls = controls(&mutants.iter().collect::<Vec<_>>());
    assert!(controls.iter().all(|control| control.edits.is_empty()));
    let killers =
        |control: &Mutant| control.killers.iter().map(Killer::text).collect::<Vec<_>>().join(" ");
    assert_eq!(
        controls.iter().map(killers).collect::<Vec<_>>(),
        ["bits::one", "map::one map::two"]
    );
}

#[test]
fn a_killer_that_fails_where_nothing_is_broken_is_a_mistake() {
    let mutant = mutant(&["map::one"]);
    let control = &controls(&[&mutant])[0];
    assert!(!Verdict::of(control, &[Outcome::Passed]).is_bad());
    let verdict = Verdict::of(control, &[Outcome::Failed]);
    assert_eq!(verdict, Verdict::Wrong(Mistake::KilledAfterAll("map::one".to_owned())));
}
