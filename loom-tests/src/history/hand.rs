//! Histories made by hand, to see what the search says of them.

use super::{
    History, Operation, THREADS,
    call::{Answer, Call, Leaf, PAGES, Rights},
    spec::{Page, Tables},
};

/// A thread, when it called and when it was answered, and both.
pub(super) type Line = (usize, [u32; 2], Call, Answer);

/// Two leaf tables of two pages each.
pub(super) const TABLES: Tables = [0, 0, 1, 1];

/// Four pages that are populated and not mapped.
pub(super) const EMPTY: [Page; PAGES] = [Page::Empty; PAGES];

pub(super) const fn leaf(frame: u16) -> Leaf {
    Leaf::fresh(frame, Rights::All)
}

pub(super) const fn dirty(frame: u16) -> Leaf {
    Leaf { dirty: true, ..leaf(frame) }
}

pub(super) const fn map(page: usize, frame: u16) -> Call {
    Call::Map { page, frame, rights: Rights::All }
}

/// Has `page` be something else at first.
pub(super) fn but(mut start: [Page; PAGES], page: usize, is: Page) -> [Page; PAGES] {
    start[page] = is;
    start
}

/// Makes the history in which the pages were `start`; the lines of each thread in order.
pub(super) fn history(start: [Page; PAGES], lines: &[Line]) -> History {
    let mut threads: Vec<Vec<Operation>> = vec![Vec::new(); THREADS];
    for &(thread, [called, answered], call, answer) in lines {
        assert!(called < answered);
        let mut seen = [0; THREADS];
        for &(other, [_, over], ..) in lines {
            seen[other] += usize::from(over < called);
        }
        threads[thread].push(Operation { call, answer, seen });
    }
    History { start, tables: TABLES, threads }
}

/// What the search says of it.
pub(super) fn explained(start: [Page; PAGES], lines: &[Line]) -> bool {
    history(start, lines).check().is_ok()
}
