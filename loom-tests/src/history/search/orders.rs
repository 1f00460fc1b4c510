//! The search against trying every order, on small histories that are drawn: some of which have one.

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::history::{
    call::{Answer, Call},
    hand::{EMPTY, Line, TABLES, dirty, explained, leaf, map},
    spec::{Order, Script, State},
};

const HISTORIES: u64 = 20_000;

fn call(rng: &mut SmallRng) -> Call {
    let page = rng.random_range(0..2);
    match rng.random_range(0..6) {
        0..=1 => map(page, rng.random_range(7..9)),
        2 => Call::Unmap(page),
        3 => Call::Lookup(page),
        4 => Call::NoteDirty(page),
        _ => Call::ClearDirty(page),
    }
}

fn answers(call: Call) -> Vec<Answer> {
    let leaves = [leaf(7), leaf(8), dirty(7), dirty(8)];
    let of = |answer: fn(_) -> Answer| leaves.into_iter().map(answer);
    let bits = [false, true].map(Answer::Bit);
    match call {
        Call::Map { .. } => {
            [Answer::New, Answer::Same].into_iter().chain(of(Answer::Occupied)).collect()
        }
        Call::NoteDirty(_) => bits.into_iter().chain([Answer::NotMapped]).collect(),
        Call::ClearDirty(_) => bits.to_vec(),
        _ => of(Answer::Was).chain([Answer::NotMapped]).collect(),
    }
}

/// Returns the state after the line, if there is one; each of these operations is one step.
fn after(state: State, &(_, _, call, answer): &Line) -> Option<State> {
    let script = Script::of(call, answer)?;
    assert!(script.steps.len() == 1 && script.order == Order::Ascending);
    state.after(script.steps[0][0])
}

/// Draws who calls what and when, and the answers of one order in which that may be; and then perhaps
/// another one for one of them.
fn draw(rng: &mut SmallRng) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for thread in 0..3 {
        let mut now = 0;
        for _ in 0..rng.random_range(1..=2) {
            let called = now + rng.random_range(1..6);
            now = called + rng.random_range(1..12);
            lines.push((thread, [called, now], call(rng), Answer::Done));
        }
    }
    let mut moments: Vec<(u32, usize)> = Vec::new();
    for (line, &(_, [called, answered], ..)) in lines.iter().enumerate() {
        moments.push((rng.random_range(called..=answered), line));
    }
    moments.sort_unstable();
    let mut state = State::new(EMPTY, TABLES);
    for (_, line) in moments {
        let all = answers(lines[line].2);
        let said = all.into_iter().find_map(|answer| {
            lines[line].3 = answer;
            Some((answer, after(state, &lines[line])?))
        });
        (lines[line].3, state) = said.expect("one of them fits");
    }
    if rng.random_bool(0.7) {
        let line = rng.random_range(0..lines.len());
        lines[line].3 = *answers(lines[line].2).choose(rng).expect("there are answers");
    }
    lines
}

/// Tries every order of the lines that are left.
fn has_order(state: State, left: &[Line]) -> bool {
    left.is_empty()
        || (0..left.len()).any(|first| {
            let mut rest = left.to_vec();
            let line = rest.remove(first);
            let is_first = rest.iter().all(|&(thread, [called, over], ..)| {
                let comes_before = thread == line.0 && called < line.1[0];
                over >= line.1[0] && !comes_before
            });
            is_first && after(state, &line).is_some_and(|state| has_order(state, &rest))
        })
}

#[test]
fn the_search_finds_an_order_if_and_only_if_there_is_one() {
    let mut rng = SmallRng::seed_from_u64(0x51a7);
    let mut explainable = 0;
    for _ in 0..HISTORIES {
        let lines = draw(&mut rng);
        let order = has_order(State::new(EMPTY, TABLES), &lines);
        assert_eq!(explained(EMPTY, &lines), order, "{lines:?}");
        explainable += u64::from(order);
    }
    assert!((HISTORIES / 4..HISTORIES * 3 / 4).contains(&explainable), "{explainable} have one");
}
