use std::{collections::BTreeSet, vec};

use proptest::{collection, prelude::*};

use super::*;

const FRAMES: u64 = 96;

fn run(first: u64, count: u64) -> FrameRun {
    FrameRun { first: HostPfn::new(first), count }
}

fn frames(runs: &[FrameRun]) -> Vec<u64> {
    runs.iter().flat_map(|run| run.first.get()..run.first.get() + run.count).collect()
}

fn fresh(first: u64, count: u64) -> FreeFrames {
    let mut free = FreeFrames::default();
    free.put(run(first, count), Content::Zero);
    free
}

fn take(free: &mut FreeFrames, count: u64) -> (Vec<FrameRun>, Vec<FrameRun>) {
    let mut runs = Vec::new();
    let dirty = free.take(count, &mut runs).expect("there are enough");
    (runs, dirty)
}

/// The longest runs of consecutive numbers in `set`.
fn joined(set: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &frame in set {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == frame => *count += 1,
            _ => runs.push((frame, 1)),
        }
    }
    runs
}

fn contents(runs: &Runs) -> Vec<(u64, u64)> {
    let by_start: Vec<_> = runs.by_start.iter().map(|(&first, &count)| (first, count)).collect();
    let mut by_length: Vec<_> =
        runs.by_length.iter().map(|&(count, first)| (first, count)).collect();
    by_length.sort_unstable();
    assert_eq!(by_start, by_length, "both indexes hold the same runs");
    by_start
}

#[test]
fn a_shorter_run_is_used_before_a_longer_one_is_cut() {
    let mut free = fresh(0, 1000);
    let (runs, _) = take(&mut free, 20);
    assert_eq!(runs, [run(0, 20)]);
    free.put(run(2, 3), Content::Unknown);
    free.put(run(10, 8), Content::Zero);
    assert_eq!(take(&mut free, 4), (vec![run(10, 4)], vec![]));
    assert_eq!(take(&mut free, 3), (vec![run(2, 3)], vec![run(2, 3)]));
    assert_eq!(take(&mut free, 5), (vec![run(20, 5)], vec![]));
}

#[test]
fn neighbours_join_whatever_they_contain() {
    let mut free = fresh(0, 8);
    let _ = take(&mut free, 8);
    for (first, content) in
        [(4, Content::Unknown), (2, Content::Zero), (6, Content::Zero), (0, Content::Unknown)]
    {
        free.put(run(first, 2), content);
    }
    assert_eq!(take(&mut free, 8), (vec![run(0, 8)], vec![run(0, 2), run(4, 2)]));
}

#[test]
fn pieces_come_in_ascending_order_from_the_longest_runs() {
    let mut free = fresh(0, 30);
    let _ = take(&mut free, 30);
    for (first, count) in [(20, 5), (0, 3), (10, 6)] {
        free.put(run(first, count), Content::Zero);
    }
    let mut runs = vec![run(77, 1)];
    assert_eq!(free.take(9, &mut runs), Some(vec![]));
    // Six and then three, of which there is a run of exactly that length.
    assert_eq!(runs, [run(77, 1), run(0, 3), run(10, 6)]);
    assert_eq!(free.len(), 5);
}

#[test]
fn too_few_frames_leave_everything_as_it_was() {
    let mut free = fresh(5, 3);
    let mut runs = vec![run(77, 1)];
    assert_eq!(free.take(4, &mut runs), None);
    assert_eq!((runs.len(), free.len()), (1, 3));
    assert_eq!(free.take(0, &mut runs), Some(vec![]));
    assert_eq!((runs.len(), free.len()), (1, 3));
    assert_eq!(take(&mut free, 3).0, [run(5, 3)]);
    assert_eq!(free.take(0, &mut runs), Some(vec![]));
}

#[test]
fn an_overlap_is_cut_on_both_sides() {
    let mut runs = Runs::default();
    runs.insert(10, 10);
    runs.insert(30, 5);
    for (first, count, wanted) in [
        (0, 10, None),
        (0, 11, Some((10, 1))),
        (5, 100, Some((10, 10))),
        (12, 3, Some((12, 3))),
        (19, 5, Some((19, 1))),
        (20, 10, None),
        (20, 11, Some((30, 1))),
        (34, 1, Some((34, 1))),
        (35, 9, None),
    ] {
        assert_eq!(runs.overlap(first, count), wanted, "{first}, {count}");
    }
}

#[test]
fn an_empty_run_adds_nothing() {
    let mut free = fresh(5, 0);
    free.put(run(3, 0), Content::Unknown);
    assert_eq!((free.len(), contents(&free.free), contents(&free.unknown)), (0, vec![], vec![]));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "already free")]
fn giving_a_frame_back_twice_is_noticed_in_debug_builds() {
    fresh(5, 3).put(run(7, 2), Content::Zero);
}

#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    /// Gives back some of what is held: which part of it, how many frames, what they contain.
    Put(prop::sample::Index, u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..FRAMES / 2).prop_map(Step::Take),
        (any::<prop::sample::Index>(), 1..20_u64, any::<bool>())
            .prop_map(|(at, count, zero)| Step::Put(at, count, zero)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_set(steps in collection::vec(step(), 1..60)) {
        let mut free = fresh(0, FRAMES);
        let mut model: BTreeSet<u64> = (0..FRAMES).collect();
        let mut unknown = BTreeSet::new();
        let mut held = BTreeSet::new();
        for step in steps {
            match step {
                Step::Take(count) => {
                    let longest = joined(&model).iter().map(|run| run.1).max().unwrap_or(0);
                    let mut runs = Vec::new();
                    let Some(dirty) = free.take(count, &mut runs) else {
                        prop_assert!(count > model.len() as u64 && runs.is_empty());
                        continue;
                    };
                    let taken = frames(&runs);
                    prop_assert_eq!(taken.len() as u64, count);
                    prop_assert!(taken.is_sorted() && taken.iter().all(|f| model.remove(f)));
                    prop_assert!(count == 0 || count > longest || runs.len() == 1);
                    prop_assert_eq!(joined(&taken.iter().copied().collect()).len(), runs.len());
                    let was_unknown: Vec<u64> =
                        taken.iter().copied().filter(|f| unknown.remove(f)).collect();
                    prop_assert_eq!(frames(&dirty), was_unknown);
                    held.extend(taken);
                }
                Step::Put(at, count, zero) => {
                    if held.is_empty() {
                        continue;
                    }
                    let runs = joined(&held);
                    let (first, length) = *at.get(&runs);
                    let first = first + at.index(length as usize) as u64 / 2;
                    let given = first..first + count.min(length - length / 2);
                    let content = if zero { Content::Zero } else { Content::Unknown };
                    free.put(run(given.start, given.end - given.start), content);
                    for frame in given {
                        held.remove(&frame);
                        model.insert(frame);
                        if !zero {
                            unknown.insert(frame);
                        }
                    }
                }
            }
            prop_assert_eq!(free.len(), model.len() as u64);
            prop_assert_eq!(contents(&free.free), joined(&model));
            prop_assert_eq!(contents(&free.unknown), joined(&unknown));
        }
    }
}
