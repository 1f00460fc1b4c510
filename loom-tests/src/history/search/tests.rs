//! Histories made by hand: those that have no order are refused, those that have one are not.

use crate::history::{
    call::{Answer, Call, Leaf, PAGES, Rights, Span},
    hand::{EMPTY, Line, but, dirty, explained, history, leaf, map},
    spec::Page,
};

const MAPPED: Page = Page::Leaf(leaf(7));
const ALL: Span = Span::new(0, 2);

/// Checks that nothing explains the lines; but that something does if the line `late` takes as long as all
/// of them, where there is such a line.
#[track_caller]
fn refused(start: [Page; PAGES], lines: &[Line], late: Option<usize>) {
    assert!(!explained(start, lines));
    let Some(late) = late else { return };
    let mut lines = lines.to_vec();
    lines[late].1 = [0, 100];
    assert!(explained(start, &lines), "not even then");
}

#[test]
fn an_operation_that_is_alone_is_explained_by_what_it_does() {
    assert!(explained(EMPTY, &[(0, [1, 2], map(0, 7), Answer::New)]));
    assert!(!explained(EMPTY, &[(0, [1, 2], map(0, 7), Answer::Same)]));
}

#[test]
fn of_two_maps_of_one_page_not_both_are_new() {
    let lines = [(0, [1, 4], map(0, 7), Answer::New), (1, [2, 3], map(0, 8), Answer::New)];
    refused(EMPTY, &lines, None);
    let occupied = Answer::Occupied(leaf(7));
    assert!(explained(EMPTY, &[lines[0], (1, [2, 3], map(0, 8), occupied)]));
}

#[test]
fn a_map_is_not_lost() {
    let lines =
        [(0, [1, 2], map(0, 7), Answer::New), (1, [3, 4], Call::Lookup(0), Answer::NotMapped)];
    refused(EMPTY, &lines, Some(1));
}

#[test]
fn an_update_of_rights_is_not_lost_to_one_of_bits() {
    let lines = [
        (0, [1, 4], Call::Protect(0, Rights::Read), Answer::Changed(1)),
        (1, [2, 3], Call::NoteDirty(0), Answer::Bit(false)),
        (2, [5, 6], Call::Look(0), Answer::Was(dirty(7))),
    ];
    refused(but(EMPTY, 0, MAPPED), &lines, None);
    let both = Leaf { rights: Rights::Read, ..dirty(7) };
    let found = (2, [5, 6], Call::Look(0), Answer::Was(both));
    assert!(explained(but(EMPTY, 0, MAPPED), &[lines[0], lines[1], found]));
}

#[test]
fn a_page_is_not_looked_up_after_its_unmap() {
    let lines = [
        (0, [1, 2], Call::Unmap(0), Answer::Was(leaf(7))),
        (1, [3, 4], Call::Lookup(0), Answer::Was(leaf(7))),
    ];
    refused(but(EMPTY, 0, MAPPED), &lines, Some(1));
}

#[test]
fn of_two_unmaps_not_both_get_the_page() {
    let unmap = |thread, when| (thread, when, Call::Unmap(0), Answer::Was(leaf(7)));
    refused(but(EMPTY, 0, MAPPED), &[unmap(0, [1, 4]), unmap(1, [2, 3])], None);
}

#[test]
fn a_dirty_bit_is_not_lost() {
    let noted = (0, [1, 2], Call::NoteDirty(0), Answer::Bit(false));
    let lines = [noted, (1, [3, 4], Call::Unmap(0), Answer::Was(leaf(7)))];
    refused(but(EMPTY, 0, MAPPED), &lines, None);
    let lines = [noted, (1, [1, 4], Call::Unmap(0), Answer::Was(dirty(7)))];
    assert!(explained(but(EMPTY, 0, MAPPED), &lines));
}

#[test]
fn a_dirty_bit_is_not_taken_twice() {
    let harvest = Call::Harvest(ALL);
    let both = [true, false, false, false];
    let lines = [
        (0, [1, 4], harvest, Answer::Marks(both)),
        (1, [2, 3], Call::ClearDirty(0), Answer::Bit(true)),
    ];
    refused(but(EMPTY, 0, Page::Leaf(dirty(7))), &lines, None);
    let lines = [lines[0], (1, [2, 3], Call::ClearDirty(0), Answer::Bit(false))];
    assert!(explained(but(EMPTY, 0, Page::Leaf(dirty(7))), &lines));
}

#[test]
fn a_vacate_does_not_succeed_with_a_page_mapped_inside() {
    let lines = [
        (0, [1, 2], map(1, 7), Answer::New),
        (1, [3, 4], Call::Vacate(ALL), Answer::Done),
        (2, [5, 6], Call::Look(1), Answer::Unpopulated),
    ];
    refused(EMPTY, &lines, None);
    let lines = [(0, [1, 4], map(1, 7), Answer::New), (1, [2, 3], Call::Vacate(ALL), Answer::Done)];
    refused(EMPTY, &lines, None);
}

#[test]
fn a_vacate_takes_effect_at_once() {
    let lines = [
        (0, [1, 10], Call::Vacate(ALL), Answer::Done),
        (1, [2, 3], map(0, 7), Answer::NotPopulated(0)),
        (1, [4, 5], map(1, 7), Answer::New),
    ];
    refused(EMPTY, &lines, None);
}

#[test]
fn a_vacate_that_names_a_page_saw_it_mapped() {
    let still = (0, [3, 4], Call::Vacate(ALL), Answer::StillMapped(1));
    let lines = [still, (1, [1, 2], Call::Unmap(1), Answer::Was(leaf(7)))];
    refused(but(EMPTY, 1, MAPPED), &lines, Some(0));
    assert!(!explained(EMPTY, &[(0, [1, 2], Call::Vacate(ALL), Answer::StillMapped(2))]));
}

#[test]
fn a_vacate_that_gives_up_had_company() {
    let busy = (0, [1, 4], Call::Vacate(ALL), Answer::Busy);
    assert!(!explained(EMPTY, &[busy]));
    assert!(!explained(EMPTY, &[busy, (1, [2, 3], map(2, 7), Answer::New)]));
    assert!(!explained(EMPTY, &[busy, (1, [5, 6], map(1, 7), Answer::New)]));
    let same = (1, [2, 3], map(1, 7), Answer::Same);
    assert!(!explained(but(EMPTY, 1, MAPPED), &[busy, same]), "who maps nothing is no company");
    assert!(explained(EMPTY, &[busy, (1, [2, 3], map(1, 7), Answer::New)]));
}

#[test]
fn a_new_table_is_not_seen_half() {
    let start = but(but(EMPTY, 0, Page::Unpopulated), 1, Page::Unpopulated);
    let lines = |page| {
        [
            (0, [1, 10], Call::Populate(Span::new(page, page + 2)), Answer::Done),
            (1, [2, 3], map(page, 7), Answer::New),
            (1, [4, 5], map(page + 1, 8), Answer::NotPopulated(page + 1)),
        ]
    };
    refused(start, &lines(0), None);
    // Two pages of two tables are.
    let start = but(but(EMPTY, 1, Page::Unpopulated), 2, Page::Unpopulated);
    assert!(explained(start, &lines(1)));
}

#[test]
fn of_two_populates_one_wins() {
    let start = but(EMPTY, 0, Page::Unpopulated);
    let populate = |thread, answer| (thread, [1, 2], Call::Populate(Span::one(0)), answer);
    refused(start, &[populate(0, Answer::Done), populate(1, Answer::Done)], None);
    refused(start, &[populate(0, Answer::Overlap(0)), populate(1, Answer::Overlap(0))], None);
    assert!(explained(start, &[populate(0, Answer::Done), populate(1, Answer::Overlap(0))]));
}

#[test]
fn a_range_is_unmapped_page_by_page_and_each_page_once() {
    let start = but(but(EMPTY, 0, MAPPED), 1, Page::Leaf(leaf(8)));
    let both = [Some(leaf(7)), Some(leaf(8)), None, None];
    let range = |leaves| (0, [1, 10], Call::UnmapRange(ALL), Answer::Leaves(leaves));
    assert!(explained(start, &[range(both)]));
    let twice = (1, [2, 3], Call::Unmap(1), Answer::Was(leaf(8)));
    refused(start, &[range(both), twice], None);
    // It has been at page 0, but not yet at page 1.
    let between = [
        range(both),
        (1, [2, 3], Call::Lookup(0), Answer::NotMapped),
        (1, [4, 5], Call::Lookup(1), Answer::Was(leaf(8))),
    ];
    assert!(explained(start, &between));
    let back = [
        between[0],
        (1, [2, 3], Call::Lookup(1), Answer::NotMapped),
        (1, [4, 5], Call::Lookup(0), Answer::Was(leaf(7))),
    ];
    refused(start, &back, None);
}

#[test]
fn a_run_of_frames_was_there_page_by_page() {
    let start = but(but(EMPTY, 0, MAPPED), 1, Page::Leaf(leaf(8)));
    let run = |when, pages| (0, when, Call::Translate(ALL), Answer::Run(7, pages));
    assert!(explained(start, &[run([1, 2], 2)]));
    refused(start, &[run([1, 2], 1)], None);
    let unmap = (1, [1, 2], Call::Unmap(1), Answer::Was(leaf(8)));
    refused(start, &[run([3, 4], 2), unmap], Some(0));
    assert!(explained(start, &[run([3, 4], 1), unmap]));
}

#[test]
fn what_was_over_is_not_put_behind_what_came_later() {
    let seen = |thread, when, frame| (thread, when, Call::Lookup(0), Answer::Was(leaf(frame)));
    let lines = [
        (0, [1, 10], Call::Unmap(0), Answer::Was(leaf(7))),
        (0, [11, 20], map(0, 8), Answer::New),
        seen(1, [2, 15], 8),
        seen(2, [16, 18], 7),
    ];
    refused(but(EMPTY, 0, MAPPED), &lines, Some(3));
}

#[test]
fn a_history_without_an_order_is_drawn_line_by_line() {
    let lines = [
        (0, [1, 2], Call::Unmap(0), Answer::Was(leaf(7))),
        (1, [3, 5], Call::Lookup(0), Answer::Was(leaf(7))),
        (0, [4, 7], map(1, 9), Answer::New),
        (1, [6, 8], Call::Lookup(1), Answer::NotMapped),
    ];
    let drawn = history(but(EMPTY, 0, MAPPED), &lines).check().unwrap_err().to_string();
    let expected = "\
no order of these operations explains their answers; at first: [0: 7 rwx --][1: empty][2: empty][3: empty]
  thread 0   #..  unmap 0                  -> 7 rwx --
  thread 0   .[]  map 1 to 9 rwx           -> New
  thread 1 ? .#.  lookup 0                 -> 7 rwx --
  thread 1 ? ..#  lookup 1                 -> NotMapped
The longest way to explain them leaves out those with a question mark, and comes to: [0: empty][1: 9 rwx --][2: empty][3: empty]";
    assert_eq!(drawn, expected);
}
