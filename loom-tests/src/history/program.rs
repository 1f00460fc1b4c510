//! Programs: what each thread calls, and on what ground.

use slat::{Gpa, GpaRange};

use super::{
    call::{Call, Leaf, PAGES, Rights, Span},
    spec::{Page, Tables},
};
use crate::{
    sizes::TABLE,
    world::{gpa, pages},
};

/// Where the pages of a history are.
///
/// They follow each other. Each has a *block*: the pages that get and lose their memory with it, and
/// which are never mapped.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// What it is called.
    pub name: &'static str,
    /// How many pages there are.
    pub pages: usize,
    /// Which of them share a leaf table.
    pub tables: Tables,
    first: u64,
    /// Where each block begins, and the last one ends.
    blocks: [u64; PAGES + 1],
}

impl Ground {
    /// Three pages of one leaf table, which they fill with their blocks.
    pub const WHOLE: Self = Self {
        name: "one table",
        pages: 3,
        tables: [0; PAGES],
        first: 0,
        blocks: [0, 1, 2, TABLE, TABLE],
    };
    /// Two pages of one leaf table and one of the next, which they fill with their blocks.
    pub const TWO: Self = Self {
        name: "two tables",
        pages: 3,
        tables: [0, 0, 1, 1],
        first: TABLE - 2,
        blocks: [0, TABLE - 1, TABLE, 2 * TABLE, 2 * TABLE],
    };
    /// The last two pages of one leaf table and the first of the next; nothing else is there.
    pub const ENDS: Self = Self {
        name: "ends of two tables",
        pages: 3,
        tables: [0, 0, 1, 1],
        first: TABLE - 2,
        blocks: [TABLE - 2, TABLE - 1, TABLE, TABLE + 1, TABLE + 1],
    };
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WHOLE, Self::TWO, Self::ENDS];

    /// Returns the address of a page.
    #[must_use]
    pub fn gpa(&self, page: usize) -> Gpa {
        gpa(self.first + page as u64)
    }

    /// Returns the pages of a span alone.
    #[must_use]
    pub fn range(&self, span: Span) -> GpaRange {
        pages(self.first + span.first as u64, self.first + span.end as u64)
    }

    /// Returns the blocks of a span.
    #[must_use]
    pub fn blocks(&self, span: Span) -> GpaRange {
        pages(self.blocks[span.first], self.blocks[span.end])
    }

    /// Returns the page in whose block an address is.
    ///
    /// # Panics
    /// If it is in none.
    #[must_use]
    pub fn page_of(&self, gpa: Gpa) -> usize {
        let is_in = |&page: &usize| self.blocks(Span::one(page)).contains(gpa);
        (0..self.pages).find(is_in).unwrap_or_else(|| panic!("{gpa} is none of the pages"))
    }

    /// Returns a number of a frame for a page: those of one kind follow each other as the pages do.
    #[must_use]
    pub const fn frame(page: usize, kind: u16) -> u16 {
        kind * PAGES as u16 + page as u16
    }
}

/// What a thread holds from one operation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing: each operation takes a pin, and what is vacated may be freed, and used again, amid the history.
    Each,
    /// Each thread holds one throughout.
    Throughout,
    /// Each thread holds one throughout, and the slots that it found at first: what can be done by them is.
    Slots,
}

/// What some threads call.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is called, or was drawn from.
    pub name: String,
    /// Where the pages are.
    pub ground: Ground,
    /// What they are at first.
    pub start: [Page; PAGES],
    /// The calls of each thread.
    pub threads: Vec<Vec<Call>>,
    /// Who is pinned when.
    pub pinning: Pinning,
}

impl Program {
    /// Makes a program whose pages are populated, and not mapped, at first.
    #[must_use]
    pub fn new(name: &str, ground: Ground, threads: Vec<Vec<Call>>) -> Self {
        let mut start = [Page::Unpopulated; PAGES];
        start[..ground.pages].fill(Page::Empty);
        Self { name: name.to_owned(), ground, start, threads, pinning: Pinning::Throughout }
    }

    /// Has `page` mapped at first, to a frame of kind 0.
    #[must_use]
    pub fn mapped(mut self, page: usize) -> Self {
        self.start[page] = Page::Leaf(Leaf::fresh(Ground::frame(page, 0), Rights::All));
        self
    }

    /// Has `page` mapped at first, accessed and dirty.
    #[must_use]
    pub fn used(mut self, page: usize) -> Self {
        let leaf = Leaf::fresh(Ground::frame(page, 0), Rights::All);
        self.start[page] = Page::Leaf(Leaf { accessed: true, dirty: true, ..leaf });
        self
    }

    /// Has `page` mapped at first, to be read only.
    #[must_use]
    pub fn read_only(mut self, page: usize) -> Self {
        self.start[page] = Page::Leaf(Leaf::fresh(Ground::frame(page, 0), Rights::Read));
        self
    }

    /// Has no memory for `page` at first.
    #[must_use]
    pub fn without(mut self, page: usize) -> Self {
        self.start[page] = Page::Unpopulated;
        self
    }

    /// Has the threads pinned like this.
    #[must_use]
    pub fn pinned(self, pinning: Pinning) -> Self {
        Self { pinning, ..self }
    }

    /// Tells whether an MMU walks.
    pub(crate) fn has_accesses(&self) -> bool {
        let mut calls = self.threads.iter().flatten();
        calls.any(|call| matches!(call, Call::Read(_) | Call::Write(_)))
    }

    /// Returns how many leaf tables the program can make.
    pub(crate) fn lives(&self) -> u64 {
        let calls = self.threads.iter().flatten();
        let populates = calls.filter(|call| matches!(call, Call::Populate(_))).count();
        // Two tables at a time, and the first two.
        2 * (populates as u64 + 1)
    }
}
