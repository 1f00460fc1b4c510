//! Every order of the steps of rounds, MMUs and software over two table entries and one leaf.
//!
//! The machine is abstract, and sequentially consistent; the table entries are real ones, and what a
//! round makes of them the functions by which it does so. (What weaker memory adds is for the models in
//! `loom-tests` to find.) Two MMUs may have either table entry in their paging-structure caches, and come
//! out at different times; a walk that is under way is what they have cached of the entries that it has
//! passed. Rounds of both kinds, over all or over a part in which the leaf is not, go step by step and may
//! be cut off at any; software sets a bit in the leaf and then marks above.

mod machine;

use std::{println, string::String, vec, vec::Vec};

use machine::{Rules, STATE_BITS, State, steps};

/// Visits every state that can be reached; returns how many, and the way to the first that is broken.
fn search(rules: Rules, broken: impl Fn(&State) -> bool) -> (usize, Option<Vec<String>>) {
    let mut seen = vec![0_u64; 1 << (STATE_BITS - 6)];
    let start = State::new().number();
    seen[start as usize / 64] |= 1 << (start % 64);
    // Each state, and from which it was reached.
    let mut reached = vec![(start, 0)];
    let mut index = 0;
    while let Some(&(number, _)) = reached.get(index) {
        let state = State::of(number);
        if state.is_settled() && broken(&state) {
            return (reached.len(), Some(way(rules, &reached, index)));
        }
        steps(rules, state, |next, _| {
            let next = next.number();
            let (word, bit) = (&mut seen[next as usize / 64], 1 << (next % 64));
            if *word & bit == 0 {
                *word |= bit;
                reached.push((next, index));
            }
        });
        index += 1;
    }
    (reached.len(), None)
}

/// Returns the steps that lead to a state. Which MMU is the first may change from one to the next.
fn way(rules: Rules, reached: &[(u32, usize)], mut index: usize) -> Vec<String> {
    let mut way = Vec::new();
    while index != 0 {
        let (number, before) = reached[index];
        let mut taken = None;
        steps(rules, State::of(reached[before].0), |next, what| {
            if next.number() == number && taken.is_none() {
                taken = Some(what());
            }
        });
        way.push(taken.expect("it was reached by a step"));
        index = before;
    }
    way.reverse();
    way
}

#[test]
fn one_round_reports_what_is_left_whatever_came_before() {
    let hides = |state: &State| state.hides_a_bit() || state.hides_a_cache();
    let (states, broken) = search(Rules::AsTheyAre, hides);
    println!("{states} states");
    assert_eq!(broken, None);
    assert!(states > 100_000, "{states} states are not all");
}

#[test]
fn without_any_one_of_the_rules_a_bit_is_lost() {
    for rules in [
        Rules::DropsWithoutAsking,
        Rules::DropsBeforeTheScan,
        Rules::DropsItsOwn,
        Rules::LeavesNone,
        Rules::LeavesItsOwn,
        Rules::OneForBoth,
        Rules::AnyIsEnough,
        Rules::AbortIsNoEnd,
        Rules::TakesParts,
        Rules::MarksNothing,
        Rules::MarksTopDown,
        Rules::MarksFirst,
        Rules::LooksFirst,
    ] {
        let (states, broken) = search(rules, State::hides_a_bit);
        let way = broken.unwrap_or_else(|| panic!("{rules:?}: nothing is lost"));
        println!("{rules:?}, {states} states: {}", way.join("; "));
    }
}
