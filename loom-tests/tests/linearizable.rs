//! What several threads do at the same time can be explained by doing it one after the other: histories of
//! maps, unmaps, looks, rights, bits, populates and vacates, checked against a specification that knows
//! nothing of tables (`loom_tests::history`; docs/THEORY.md, "Linearizability").
//!
//! `HISTORY_SEED` runs the program of one seed only, `HISTORY_SEEDS` says how many are drawn. Under shuttle the former
//! with `SHUTTLE_REPLAY` is one execution.

use loom_tests::history::{
    call::{Call, Rights, Span},
    explore_program,
    program::{Ground, Pinning, Program},
};

/// How often a program is run where not everything is tried.
const RUNS: usize = 50;

fn map(page: usize, kind: u16) -> Call {
    Call::Map { page, frame: Ground::frame(page, kind), rights: Rights::All }
}

fn explore(program: &Program) {
    let tally = explore_program(program, 0, RUNS);
    println!("{}: {tally}", program.name);
    // Real threads may miss each other, in so few runs.
    let meet = cfg!(any(loom, shuttle));
    assert!(tally.pairs > 0 || !meet, "no two operations were simultaneous");
}

fn program(name: &str, ground: Ground, one: &[Call], two: &[Call]) -> Program {
    Program::new(name, ground, vec![one.to_vec(), two.to_vec()])
}

const WHOLE: Span = Span::new(0, 3);
const PART: Span = Span::new(0, 2);

#[test]
fn maps_and_unmaps_of_one_page_have_an_order() {
    let one = [map(0, 1), Call::Unmap(0)];
    let two = [map(0, 2), Call::Lookup(0)];
    explore(&program("two frames", Ground::WHOLE, &one, &two));
    explore(&program("one frame", Ground::WHOLE, &one, &one));
}

#[test]
fn who_changes_one_page_and_looks_at_another_is_seen_or_sees() {
    let [one, two] = [[map(0, 1), Call::Lookup(1)], [map(1, 1), Call::Lookup(0)]];
    explore(&program("maps", Ground::WHOLE, &one, &two));
    let [one, two] = [[Call::Unmap(0), Call::Lookup(2)], [Call::Unmap(2), Call::Lookup(0)]];
    explore(&program("unmaps", Ground::TWO, &one, &two).mapped(0).mapped(2));
    let [one, two] = [[Call::NoteDirty(0), Call::Lookup(1)], [Call::NoteDirty(1), Call::Lookup(0)]];
    explore(&program("dirty", Ground::WHOLE, &one, &two).mapped(0).mapped(1));
    let set = Call::SetAccessed;
    let [one, two] = [[set(0), Call::Lookup(1)], [set(1), Call::Lookup(0)]];
    explore(&program("accessed", Ground::WHOLE, &one, &two).mapped(0).mapped(1));
}

/// Two threads of which each changes a page and then looks at the other's, by operations that need no
/// fence for themselves.
fn crossed(pinning: Pinning) -> [Program; 3] {
    let [one, two] =
        [[Call::ClearDirty(0), Call::Lookup(1)], [Call::ClearDirty(1), Call::Lookup(0)]];
    let resets = program("resets", Ground::WHOLE, &one, &two).used(0).used(1);
    let grant = |page| Call::Protect(page, Rights::All);
    let [one, two] = [[grant(0), Call::Lookup(1)], [grant(1), Call::Lookup(0)]];
    let grants = program("grants", Ground::WHOLE, &one, &two).read_only(0).read_only(1);
    let [one, two] = [[Call::Populate(Span::one(0)), Call::Lookup(1)], [map(1, 1), map(0, 1)]];
    let room = program("room", Ground::WHOLE, &one, &two).without(0);
    [resets, grants, room].map(|program| program.pinned(pinning))
}

#[test]
fn who_changes_one_page_and_looks_at_another_under_another_pin_is_seen_or_sees() {
    crossed(Pinning::Each).iter().for_each(explore);
}

/// What the language leaves open, and loom knows; x86 does not.
#[cfg(loom)]
mod under_one_pin {
    use super::{Pinning, crossed, explore};

    #[test]
    #[should_panic(expected = "no order of these operations")]
    fn a_reset_and_a_look_at_another_page_have_no_order() {
        let [resets, ..] = crossed(Pinning::Throughout);
        explore(&resets);
    }

    #[test]
    #[should_panic(expected = "no order of these operations")]
    fn a_grant_of_rights_and_a_look_at_another_page_have_no_order() {
        let [_, grants, _] = crossed(Pinning::Throughout);
        explore(&grants);
    }

    #[test]
    #[should_panic(expected = "no order of these operations")]
    fn a_populate_and_a_look_at_another_page_have_no_order() {
        let [.., room] = crossed(Pinning::Throughout);
        explore(&room);
    }
}

#[test]
fn rights_and_bits_of_one_page_have_an_order() {
    let one = [Call::NoteDirty(0), Call::Unmap(0)];
    let two = [Call::Protect(0, Rights::Read), Call::ClearDirty(0)];
    explore(&program("rights and bits", Ground::WHOLE, &one, &two).mapped(0));
    let one = [Call::Write(0), Call::Unmap(0)];
    explore(&program("rights, bits, and an MMU", Ground::WHOLE, &one, &two).mapped(0));
    let one = [Call::NoteDirty(1), Call::Unmap(0)];
    let two = [Call::Harvest(PART), Call::ClearAccessed(0)];
    explore(&program("harvest", Ground::WHOLE, &one, &two).used(0).mapped(1));
}

#[test]
fn a_vacate_of_a_whole_table_has_its_place_among_maps() {
    let again = [Call::Vacate(WHOLE), Call::Populate(WHOLE)];
    explore(&program("whole", Ground::WHOLE, &again, &[map(0, 1), Call::Lookup(0)]));
    explore(&program("whole, taken", Ground::WHOLE, &again, &[map(0, 1), Call::Unmap(0)]));
}

#[test]
fn a_vacate_of_a_part_of_a_table_has_its_place_among_maps() {
    let again = [Call::Vacate(PART), Call::Populate(PART)];
    explore(&program("part", Ground::WHOLE, &again, &[map(1, 1), Call::Lookup(0)]));
    let two = [Call::Vacate(Span::new(1, 3)), map(0, 1)];
    explore(&program("two vacates", Ground::WHOLE, &again[..1], &two));
}

#[test]
fn a_vacate_of_two_tables_has_its_place_among_maps() {
    let two = [map(0, 1), map(2, 1)];
    explore(&program("two whole tables", Ground::TWO, &[Call::Vacate(WHOLE)], &two));
    let ends = [Call::Vacate(Span::new(1, 3))];
    explore(&program("two ends", Ground::ENDS, &ends, &[map(2, 1), Call::Lookup(1)]));
}

#[test]
fn slots_that_are_kept_over_a_vacate_are_those_of_their_pages() {
    let again = [Call::Vacate(WHOLE), Call::Populate(WHOLE)];
    let kept = program("kept", Ground::WHOLE, &again, &[map(0, 1)]);
    explore(&kept.pinned(Pinning::Slots));
}

#[test]
fn a_vacate_has_its_place_among_what_an_mmu_writes() {
    let one = [Call::Unmap(0), Call::Vacate(WHOLE)];
    let two = [Call::Write(0), Call::ClearDirty(0)];
    explore(&program("written", Ground::WHOLE, &one, &two).mapped(0));
}

#[test]
fn a_populate_of_two_tables_has_its_places_among_maps() {
    let one = [Call::Populate(Span::new(1, 3))];
    for two in [[map(1, 1), map(2, 1)], [map(2, 1), map(1, 1)]] {
        explore(&program("populate", Ground::TWO, &one, &two).without(1).without(2));
    }
}

#[test]
fn ranges_have_an_order_page_by_page() {
    let one = [Call::UnmapRange(PART), Call::Lookup(1)];
    for two in [[Call::Unmap(1), map(0, 1)], [Call::Translate(PART), map(1, 1)]] {
        explore(&program("ranges", Ground::WHOLE, &one, &two).mapped(0).mapped(1));
    }
}

/// What comes too late for a vacate. Three threads are too much for loom: it does meet late leaves, in one of
/// twenty histories of 200,000.
#[cfg(not(loom))]
mod late {
    use loom_tests::history::Tally;

    use super::*;

    /// How often a program is run in which what it is about is rare.
    const MANY: usize = if cfg!(shuttle) { 20_000 } else { RUNS };

    /// Checks what two threads do beside a vacate.
    fn beside_a_vacate(name: &str, one: &[Call], two: &[Call]) -> Tally {
        let threads = vec![vec![Call::Vacate(WHOLE)], one.to_vec(), two.to_vec()];
        let tally = explore_program(&Program::new(name, Ground::WHOLE, threads), 0, MANY);
        println!("{name}: {tally}");
        tally
    }

    #[test]
    fn a_lookup_may_show_a_leaf_that_comes_too_late() {
        let tally = beside_a_vacate("late leaf", &[map(0, 1)], &[Call::Lookup(0)]);
        assert!(tally.late > 0 || cfg!(not(shuttle)), "nobody met a late leaf");
    }

    #[test]
    fn two_late_maps_to_one_frame_may_exchange_their_answers() {
        let again = [Call::Unmap(0), map(0, 1)];
        let tally = beside_a_vacate("exchanged answers", &[map(0, 1)], &again);
        assert!(tally.exchanged > 0 || cfg!(not(shuttle)), "nobody exchanged answers");
    }

    #[test]
    fn who_knows_of_a_vacate_unmaps_nothing_that_comes_too_late() {
        beside_a_vacate("no late unmap", &[map(0, 1)], &[map(0, 2), Call::Unmap(0)]);
    }
}

#[cfg(not(loom))]
mod drawn {
    use loom_tests::history::{Tally, explore_program, program::Program};

    use super::RUNS;

    /// How many programs are drawn.
    const SEEDS: u64 = if cfg!(shuttle) { 8_000 } else { 200 };

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|number| number.parse().unwrap())
    }

    #[test]
    fn what_three_or_four_threads_do_has_an_order() {
        let count = number("HISTORY_SEEDS").unwrap_or(SEEDS);
        let seeds = number("HISTORY_SEED").map_or(0..count, |seed| seed..seed + 1);
        let mut tally = Tally::default();
        for seed in seeds.clone() {
            tally.add(explore_program(&Program::drawn(seed), seed, RUNS));
        }
        println!("{} programs: {tally}", seeds.clone().count());
        // One in a hundred, where there are programs enough to say so.
        let meet = tally.pairs * 100 > tally.operations;
        assert!(meet || seeds.count() < 100, "hardly any operations were simultaneous");
    }
}
