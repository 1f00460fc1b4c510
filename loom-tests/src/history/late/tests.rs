//! What late maps may explain, and that nothing else is explained by them.

use super::Exception;
use crate::history::{
    call::{Answer, Call, Leaf, PAGES, Rights, Span},
    hand::{EMPTY, Line, but, dirty, explained, history, leaf, map},
    spec::Page,
};

const CLEAN: Answer = Answer::Vacated { accessed: false, dirty: false };
const WRITTEN: Answer = Answer::Vacated { accessed: false, dirty: true };
const VACATE: Call = Call::Vacate(Span::new(0, 2));

fn needs(start: [Page; PAGES], lines: &[Line]) -> Option<Exception> {
    history(start, lines).check().unwrap_or_else(|stuck| panic!("{stuck}")).needs
}

/// Page 0 is vacated while a map of frame 7 is under way and says this, and while another thread
/// calls something.
fn beside(map_says: Answer, call: Call, answer: Answer) -> [Line; 3] {
    [
        (0, [1, 10], VACATE, Answer::Done),
        (1, [2, 9], map(0, 7), map_says),
        (2, [3, 8], call, answer),
    ]
}

#[test]
fn a_late_map_needs_a_vacate() {
    assert_eq!(needs(EMPTY, &beside(CLEAN, Call::Lookup(1), Answer::NotMapped)), None);
    assert!(!explained(EMPTY, &[(1, [2, 9], map(0, 7), CLEAN)]));
    // One that was over when the map was called will do: it is as if there was no memory.
    let before = [(0, [1, 2], VACATE, Answer::Done), (1, [3, 4], map(0, 7), CLEAN)];
    assert!(explained(EMPTY, &before));
}

#[test]
fn a_lookup_may_show_a_late_leaf_and_no_other() {
    let shown = |leaf| beside(CLEAN, Call::Lookup(0), Answer::Was(leaf));
    assert_eq!(needs(EMPTY, &shown(leaf(7))), Some(Exception::LateLeaf));
    assert!(!explained(EMPTY, &shown(leaf(8))));
    // The map was not called yet, or had returned, or the vacate had.
    for (line, when) in [(2, [0, 1]), (2, [12, 13]), (1, [5, 6])] {
        let mut lines = shown(leaf(7));
        lines[1].1 = [2, 9];
        lines[line].1 = when;
        lines[2].1 = if line == 1 { [7, 8] } else { when };
        assert!(!explained(EMPTY, &lines), "{lines:?}");
    }
    // An unmap that has it owns the frame, and then the map was none that came too late.
    assert!(!explained(EMPTY, &beside(CLEAN, Call::Unmap(0), Answer::Was(leaf(7)))));
}

#[test]
fn what_is_changed_in_a_late_leaf_perishes_with_it_but_for_the_bits_that_the_map_tells_of() {
    let written = Answer::Vacated { accessed: true, dirty: true };
    let changes = [
        (Call::Protect(0, Rights::Read), Answer::Changed(1), CLEAN),
        (Call::NoteDirty(0), Answer::Bit(false), WRITTEN),
        (Call::SetDirty(0), Answer::Changed(1), WRITTEN),
        (Call::Write(0), Answer::Run(7, 1), written),
    ];
    for (call, answer, told) in changes {
        let lines = beside(told, call, answer);
        assert_eq!(needs(EMPTY, &lines), Some(Exception::LateLeaf), "{call}");
        assert!(!explained(EMPTY, &[(2, [3, 8], call, answer)]));
        // What is told was left there by somebody, and what was left there is told.
        assert_eq!(explained(EMPTY, &lines[..2]), told == CLEAN, "{call}");
        if told != CLEAN {
            assert!(!explained(EMPTY, &beside(CLEAN, call, answer)), "{call}");
            let cleared = (3, [3, 8], Call::ClearDirty(0), Answer::Bit(true));
            let left = Answer::Vacated { accessed: told == written, dirty: false };
            let [vacate, map, set] = beside(left, call, answer);
            assert!(explained(EMPTY, &[vacate, map, set, cleared]), "{call}");
            // One bit is not the other.
            let cleared = (3, [3, 8], Call::ClearAccessed(0), Answer::Bit(true));
            assert!(!explained(EMPTY, &[vacate, map, set, cleared]), "{call}");
        }
    }
}

#[test]
fn what_nobody_left_in_a_late_leaf_is_not_found_there() {
    let read_only = Leaf { rights: Rights::Read, ..leaf(7) };
    let accessed = Leaf { accessed: true, ..leaf(7) };
    let set_dirty = (Call::NoteDirty(0), Answer::Bit(false), WRITTEN);
    let told = Answer::Vacated { accessed: true, dirty: false };
    let set_accessed = (Call::Read(0), Answer::Run(7, 1), told);
    let protect = (Call::Protect(0, Rights::Read), Answer::Changed(1), CLEAN);
    let finds = [
        (Call::ClearDirty(0), Answer::Bit(true), set_dirty),
        (Call::NoteDirty(0), Answer::Bit(true), set_dirty),
        (Call::Lookup(0), Answer::Was(dirty(7)), set_dirty),
        (Call::ClearAccessed(0), Answer::Bit(true), set_accessed),
        (Call::SetAccessed(0), Answer::Bit(true), set_accessed),
        (Call::Lookup(0), Answer::Was(accessed), set_accessed),
        (Call::Write(0), Answer::Denied, protect),
        (Call::Translate(Span::one(0)), Answer::Denied, protect),
        (Call::Lookup(0), Answer::Was(read_only), protect),
        (Call::Protect(0, Rights::All), Answer::Changed(1), protect),
    ];
    for (call, answer, (leaves, done, map_says)) in finds {
        for says in [CLEAN, WRITTEN, told] {
            assert!(!explained(EMPTY, &beside(says, call, answer)), "{call} -> {answer}");
        }
        let [vacate, map, finder] = beside(map_says, call, answer);
        let lines = |when| [vacate, map, finder, (3, when, leaves, done)];
        assert!(explained(EMPTY, &lines([3, 8])), "{leaves}, {call} -> {answer}");
        // Who comes behind has left nothing.
        let mut late = lines([7, 8]);
        late[2].1 = [3, 5];
        assert!(!explained(EMPTY, &late), "{call} -> {answer}, {leaves}");
    }
}

#[test]
fn nothing_is_left_by_who_only_clears() {
    for says in [WRITTEN, Answer::Vacated { accessed: true, dirty: false }] {
        for clears in [Call::ClearDirty(0), Call::ClearAccessed(0)] {
            assert!(!explained(EMPTY, &beside(says, clears, Answer::Bit(false))));
        }
    }
}

/// The map is new, and an unmap has its leaf: with all that was done to it.
#[test]
fn an_unmap_loses_nothing_that_was_left_in_a_late_leaf() {
    let read_only = Leaf { rights: Rights::Read, ..leaf(7) };
    let changes = [
        (Call::NoteDirty(0), Answer::Bit(false), dirty(7)),
        (Call::Protect(0, Rights::Read), Answer::Changed(1), read_only),
        (Call::Read(0), Answer::Run(7, 1), Leaf { accessed: true, ..leaf(7) }),
    ];
    for (call, answer, changed) in changes {
        let lines = |found| {
            [
                (0, [1, 20], VACATE, Answer::Done),
                (1, [2, 12], map(0, 7), Answer::New),
                (2, [3, 5], call, answer),
                (3, [3, 11], Call::Unmap(0), Answer::Was(found)),
            ]
        };
        assert!(explained(EMPTY, &lines(changed)), "{call}");
        assert!(!explained(EMPTY, &lines(leaf(7))), "{call}");
        let other = if changed == dirty(7) { read_only } else { dirty(7) };
        assert!(!explained(EMPTY, &lines(other)), "{call}");
        // Nor if it was done by who knew of the vacate.
        let knows = (2, [3, 4], map(0, 8), Answer::NotPopulated(0));
        let [vacate, map, change, unmap] = lines(leaf(7));
        let change = (change.0, [5, 6], change.2, change.3);
        assert!(!explained(EMPTY, &[vacate, map, knows, change, unmap]), "{call}");
        let told = (unmap.0, unmap.1, unmap.2, Answer::Was(changed));
        assert!(explained(EMPTY, &[vacate, map, knows, change, told]), "{call}");
    }
}

/// The map says that it is new, since an unmap has taken its late leaf; both are done before the vacate. A
/// third thread already knows of the vacate when it sees the leaf.
#[test]
fn a_leaf_that_an_unmap_takes_may_be_late_as_well() {
    let knows = (2, [3, 4], map(0, 8), Answer::NotPopulated(0));
    let sees = (2, [5, 6], Call::Lookup(0), Answer::Was(leaf(7)));
    let takes = (3, [3, 8], Call::Unmap(0), Answer::Was(leaf(7)));
    let [vacate, maps, _] = beside(Answer::New, Call::Lookup(1), Answer::NotMapped);
    assert_eq!(needs(EMPTY, &[vacate, maps, takes]), None);
    assert_eq!(needs(EMPTY, &[vacate, maps, takes, sees]), None);
    let lines = [vacate, maps, takes, knows, sees];
    assert_eq!(needs(EMPTY, &lines), Some(Exception::LateLeaf));
    // And it may have left something there.
    let marks = (2, [5, 6], Call::NoteDirty(0), Answer::Bit(false));
    let takes = (3, [3, 8], Call::Unmap(0), Answer::Was(dirty(7)));
    let lines = [vacate, maps, takes, knows, marks];
    assert_eq!(needs(EMPTY, &lines), Some(Exception::LateLeaf));
    assert!(!explained(EMPTY, &[vacate, maps, takes]));
}

/// The leaf of the first map is unmapped before the second is called, and the first takes the second one's
/// for its own.
#[test]
fn two_late_maps_to_one_frame_may_exchange_their_answers() {
    let lines = |frame, says| {
        [
            (0, [1, 20], VACATE, Answer::Done),
            (1, [2, 12], map(0, 7), says),
            (2, [3, 5], Call::Unmap(0), Answer::Was(leaf(7))),
            (3, [6, 15], map(0, frame), Answer::New),
        ]
    };
    assert_eq!(needs(EMPTY, &lines(7, CLEAN)), Some(Exception::Exchanged));
    // Another frame, or more that are new than were unmapped.
    assert!(!explained(EMPTY, &lines(8, CLEAN)));
    assert!(!explained(EMPTY, &lines(7, Answer::New)));
    // And nobody's answer is lent alone.
    let alone = lines(7, CLEAN);
    assert!(!explained(EMPTY, &alone[..3]));
}

#[test]
fn nothing_is_late_where_nothing_is_vacated() {
    let start = but(EMPTY, 0, Page::Leaf(leaf(7)));
    let gone = Leaf { frame: 9, ..leaf(7) };
    let lines = [
        (0, [1, 10], Call::Unmap(0), Answer::Was(leaf(7))),
        (1, [2, 9], map(0, 9), Answer::New),
        (2, [12, 13], Call::Unmap(0), Answer::Was(gone)),
        (3, [14, 15], Call::Lookup(0), Answer::Was(gone)),
    ];
    assert!(!explained(start, &lines));
}
