//! What each operation does if it is alone, in a table of states, calls and answers.

use super::{Action, Page, State, Step};
use crate::history::{
    call::{Answer, Leaf, PAGES, Rights, Span},
    hand::{EMPTY, TABLES, but, dirty, leaf},
};

const READ: Leaf = Leaf { rights: Rights::Read, ..leaf(7) };
const ACCESSED: Leaf = Leaf { accessed: true, ..leaf(7) };

fn state(page: Page) -> State {
    State::new(but(EMPTY, 0, page), TABLES)
}

/// What page 0 is after an operation that answers this, if it can.
fn after(page: Page, action: Action, said: Answer) -> Option<Page> {
    state(page).after(Step::On(0, action, said)).map(|state| state.pages[0])
}

/// Checks that it is so, and that it answers nothing else.
fn becomes(page: Page, action: Action, said: Answer, next: Page) {
    assert_eq!(after(page, action, said), Some(next), "{action:?} of {page:?}");
    let others = [
        Answer::New,
        Answer::Same,
        Answer::Occupied(leaf(7)),
        Answer::Was(leaf(7)),
        Answer::NotMapped,
        Answer::Denied,
        Answer::Bit(false),
        Answer::Bit(true),
        Answer::Changed(0),
        Answer::Changed(1),
        Answer::Unpopulated,
        Answer::Empty,
    ];
    for other in others.into_iter().filter(|&other| other != said) {
        assert_eq!(after(page, action, other), None, "{action:?} of {page:?}: {other:?}");
    }
}

#[test]
fn a_page_without_memory_takes_no_leaf() {
    let (page, to) = (Page::Unpopulated, Action::Map(leaf(7)));
    becomes(page, to, Answer::NotPopulated(0), page);
    assert_eq!(after(page, to, Answer::NotPopulated(1)), None);
    assert_eq!(after(Page::Empty, to, Answer::NotPopulated(0)), None);
    becomes(page, Action::Look, Answer::Unpopulated, page);
}

#[test]
fn a_page_that_is_empty_takes_a_leaf() {
    becomes(Page::Empty, Action::Map(leaf(7)), Answer::New, Page::Leaf(leaf(7)));
    becomes(Page::Empty, Action::Look, Answer::Empty, Page::Empty);
}

#[test]
fn a_page_that_is_mapped_takes_no_other_leaf() {
    for there in [leaf(7), dirty(7), ACCESSED] {
        becomes(Page::Leaf(there), Action::Map(leaf(7)), Answer::Same, Page::Leaf(there));
    }
    let page = Page::Leaf(leaf(7));
    becomes(page, Action::Map(leaf(8)), Answer::Occupied(leaf(7)), page);
    becomes(page, Action::Map(READ), Answer::Occupied(leaf(7)), page);
    assert_eq!(after(page, Action::Map(leaf(8)), Answer::Occupied(dirty(7))), None);
}

#[test]
fn a_map_came_too_late_where_there_is_no_memory() {
    let vacated = |accessed, dirty| Answer::Vacated { accessed, dirty };
    let to = Action::Map(leaf(7));
    assert_eq!(after(Page::Unpopulated, to, vacated(false, false)), Some(Page::Unpopulated));
    assert_eq!(after(Page::Unpopulated, to, vacated(false, true)), None);
    for page in [Page::Empty, Page::Leaf(leaf(7))] {
        assert_eq!(after(page, to, vacated(false, false)), None);
    }
}

#[test]
fn an_unmap_returns_the_leaf_as_it_stood() {
    for there in [leaf(7), dirty(7), ACCESSED, READ] {
        let page = Page::Leaf(there);
        assert_eq!(after(page, Action::Unmap, Answer::Was(there)), Some(Page::Empty));
        assert_eq!(after(page, Action::Lookup, Answer::Was(there)), Some(page));
        assert_eq!(after(page, Action::Look, Answer::Was(there)), Some(page));
        assert_eq!(after(page, Action::Unmap, Answer::NotMapped), None);
    }
    assert_eq!(after(Page::Leaf(dirty(7)), Action::Unmap, Answer::Was(leaf(7))), None);
}

#[test]
fn who_asks_for_a_leaf_where_none_is_changes_nothing() {
    for page in [Page::Empty, Page::Unpopulated] {
        for action in [Action::Unmap, Action::Lookup, Action::NoteDirty, Action::Translate] {
            becomes(page, action, Answer::NotMapped, page);
        }
        for action in [Action::Read, Action::Write] {
            becomes(page, action, Answer::NotMapped, page);
        }
        for action in [Action::ClearDirty, Action::SetAccessed, Action::ClearAccessed] {
            becomes(page, action, Answer::Bit(false), page);
        }
        for action in [Action::Protect(Rights::Read), Action::SetDirty] {
            becomes(page, action, Answer::Changed(0), page);
        }
        becomes(page, Action::Continues(7), Answer::Bit(false), page);
    }
}

#[test]
fn a_bit_is_what_was_made_of_it_last() {
    let (clean, written, used) = (Page::Leaf(leaf(7)), Page::Leaf(dirty(7)), Page::Leaf(ACCESSED));
    becomes(clean, Action::NoteDirty, Answer::Bit(false), written);
    becomes(written, Action::NoteDirty, Answer::Bit(true), written);
    becomes(clean, Action::SetDirty, Answer::Changed(1), written);
    becomes(written, Action::SetDirty, Answer::Changed(0), written);
    becomes(Page::Leaf(READ), Action::SetDirty, Answer::Changed(0), Page::Leaf(READ));
    becomes(written, Action::ClearDirty, Answer::Bit(true), clean);
    becomes(clean, Action::ClearDirty, Answer::Bit(false), clean);
    becomes(clean, Action::SetAccessed, Answer::Bit(false), used);
    becomes(used, Action::ClearAccessed, Answer::Bit(true), clean);
    becomes(used, Action::ClearDirty, Answer::Bit(false), used);
}

#[test]
fn an_access_reaches_the_frame_and_leaves_its_bits_or_faults_and_leaves_none() {
    let both = Leaf { accessed: true, ..dirty(7) };
    let reached = Answer::Run(7, 1);
    let of = |leaf| Page::Leaf(leaf);
    assert_eq!(after(of(leaf(7)), Action::Read, reached), Some(of(ACCESSED)));
    assert_eq!(after(of(leaf(7)), Action::Write, reached), Some(of(both)));
    assert_eq!(after(of(dirty(7)), Action::Read, reached), Some(of(both)));
    becomes(of(READ), Action::Write, Answer::Denied, of(READ));
    assert_eq!(after(of(leaf(7)), Action::Read, Answer::Run(8, 1)), None);
}

#[test]
fn rights_change_and_nothing_else_does() {
    let read = Page::Leaf(Leaf { rights: Rights::Read, ..dirty(7) });
    let all = Page::Leaf(dirty(7));
    becomes(all, Action::Protect(Rights::Read), Answer::Changed(1), read);
    becomes(read, Action::Protect(Rights::Read), Answer::Changed(0), read);
    becomes(read, Action::Protect(Rights::All), Answer::Changed(1), all);
    becomes(read, Action::Translate, Answer::Denied, read);
    assert_eq!(after(all, Action::Translate, Answer::Run(7, 1)), Some(all));
    becomes(all, Action::Continues(7), Answer::Bit(true), all);
    becomes(all, Action::Continues(8), Answer::Bit(false), all);
    becomes(read, Action::Continues(7), Answer::Bit(false), read);
}

#[test]
fn a_vacate_takes_all_of_its_pages_or_says_why_not() {
    let span = Span::new(0, 2);
    let gone = state(Page::Empty).after(Step::Vacate(span)).unwrap();
    assert_eq!(gone.pages[..2], [Page::Unpopulated; 2]);
    assert_eq!(gone.pages[2..], [Page::Empty; 2]);
    let [lacks, holds] = [Step::Lacks(span, 0), Step::Holds(0)];
    for (page, step) in [(Page::Unpopulated, lacks), (Page::Leaf(leaf(7)), holds)] {
        assert_eq!(state(page).after(Step::Vacate(span)), None);
        assert_eq!(state(page).after(step), Some(state(page)));
        assert_eq!(state(Page::Empty).after(step), None);
    }
    assert_eq!(gone.after(Step::Lacks(span, 1)), None, "the first one is named");
}

fn populated(mut state: State, span: Span) -> State {
    state = state.after(Step::Begin(span)).unwrap();
    for page in span.pages() {
        state = state.after(Step::Open(page)).unwrap();
    }
    state.after(Step::End).unwrap()
}

#[test]
fn a_populate_makes_room_for_all_of_its_pages() {
    let nothing = State::new([Page::Unpopulated; PAGES], TABLES);
    let made = populated(nothing, Span::new(1, 4));
    assert_eq!(made.pages, but(EMPTY, 0, Page::Unpopulated));
    assert_eq!(made.after(Step::Begin(Span::new(0, 2))), None);
    assert_eq!(made.after(Step::Overlap(Span::new(0, 2), 1)), Some(made));
    assert_eq!(made.after(Step::Overlap(Span::new(0, 4), 2)), None, "the first one is named");
    assert_eq!(nothing.after(Step::Overlap(Span::new(0, 2), 0)), None);
}

#[test]
fn a_new_table_appears_at_once_and_pages_of_an_old_one_one_by_one() {
    let nothing = State::new([Page::Unpopulated; PAGES], TABLES);
    let begun = nothing.after(Step::Begin(Span::new(0, 2))).unwrap();
    let linked = begun.after(Step::Open(0)).unwrap();
    assert_eq!(linked.pages[..2], [Page::Empty; 2]);
    let old = State::new(but([Page::Unpopulated; PAGES], 3, Page::Empty), TABLES);
    let old = old.after(Step::Begin(Span::new(1, 3))).unwrap();
    let opened = old.after(Step::Open(1)).unwrap();
    assert_eq!(opened.pages, but(old.pages, 1, Page::Empty));
    let opened = opened.after(Step::Open(2)).unwrap();
    assert_eq!(opened.pages[2..], [Page::Empty; 2]);
}

#[test]
fn structural_changes_come_one_after_the_other() {
    let start = State::new(but(EMPTY, 0, Page::Unpopulated), TABLES);
    let begun = start.after(Step::Begin(Span::one(0))).unwrap();
    assert!(!begun.is_settled());
    for step in [Step::Vacate(Span::one(2)), Step::Holds(2), Step::Lacks(Span::one(0), 0)] {
        assert_eq!(begun.after(step), None, "{step:?}");
    }
    assert!(begun.after(Step::Open(0)).unwrap().after(Step::End).unwrap().is_settled());
}
