//! The sequential specification: what each operation does and answers if it is alone.
//!
//! A small state machine, written for the purpose and knowing nothing of tables' entries, claims or
//! marks. A page is unpopulated, empty, or has a leaf; an operation on one page is a function of that.
//! Operations on several pages are scripts of such steps, which may have others' between them
//! ([`Script`]), but for two that take effect at once: a vacate, and the part of a populate that one new
//! leaf table makes.

mod script;
#[cfg(test)]
mod tests;

pub(crate) use self::script::{Order, Script};
use super::call::{Answer, Leaf, PAGES, Rights, Span};

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// No memory.
    Unpopulated,
    /// Memory, and nothing mapped.
    Empty,
    /// Mapped.
    Leaf(Leaf),
}

/// An operation on one page, which takes effect at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Map(Leaf),
    Unmap,
    Lookup,
    Protect(Rights),
    NoteDirty,
    /// Makes the page dirty if it may be written.
    SetDirty,
    ClearDirty,
    SetAccessed,
    ClearAccessed,
    Read,
    Write,
    /// Asks for the frame, to write.
    Translate,
    /// Asks whether the page has this frame, to write.
    Continues(u16),
    Look,
}

impl Page {
    fn leaf(self) -> Option<Leaf> {
        if let Self::Leaf(leaf) = self { Some(leaf) } else { None }
    }

    /// Returns what the operation answers, and what the page is afterwards.
    fn after(self, action: Action) -> (Answer, Self) {
        match (self, action) {
            (Self::Unpopulated, Action::Look) => (Answer::Unpopulated, self),
            (Self::Empty, Action::Look) => (Answer::Empty, self),
            (Self::Empty, Action::Map(leaf)) => (Answer::New, Self::Leaf(leaf)),
            (Self::Leaf(leaf), action) => Self::changed(leaf, action),
            (_, Action::Protect(_)) => (Answer::Changed(0), self),
            (_, Action::ClearDirty | Action::SetAccessed | Action::ClearAccessed) => {
                (Answer::Bit(false), self)
            }
            (_, Action::Continues(_)) => (Answer::Bit(false), self),
            (_, Action::SetDirty) => (Answer::Changed(0), self),
            // `Step::fits` takes it with any page's number: there is only the one.
            (Self::Unpopulated, Action::Map(_)) => (Answer::NotPopulated(0), self),
            (_, Action::Unmap | Action::Lookup | Action::NoteDirty) => (Answer::NotMapped, self),
            (_, Action::Read | Action::Write | Action::Translate) => (Answer::NotMapped, self),
        }
    }

    /// Returns the same for a page that is mapped.
    fn changed(leaf: Leaf, action: Action) -> (Answer, Self) {
        let Leaf { frame, rights, accessed, dirty } = leaf;
        let with = |change: Leaf| Self::Leaf(change);
        match action {
            Action::Map(wanted) if (wanted.frame, wanted.rights) == (frame, rights) => {
                (Answer::Same, with(leaf))
            }
            Action::Map(_) => (Answer::Occupied(leaf), with(leaf)),
            Action::Unmap => (Answer::Was(leaf), Self::Empty),
            Action::Lookup | Action::Look => (Answer::Was(leaf), with(leaf)),
            Action::Protect(rights) => {
                let changed = usize::from(rights != leaf.rights);
                (Answer::Changed(changed), with(Leaf { rights, ..leaf }))
            }
            Action::NoteDirty => (Answer::Bit(dirty), with(Leaf { dirty: true, ..leaf })),
            Action::SetDirty if dirty || rights == Rights::Read => (Answer::Changed(0), with(leaf)),
            Action::SetDirty => (Answer::Changed(1), with(Leaf { dirty: true, ..leaf })),
            Action::ClearDirty => (Answer::Bit(dirty), with(Leaf { dirty: false, ..leaf })),
            Action::SetAccessed => (Answer::Bit(accessed), with(Leaf { accessed: true, ..leaf })),
            Action::ClearAccessed => {
                (Answer::Bit(accessed), with(Leaf { accessed: false, ..leaf }))
            }
            Action::Write | Action::Translate if rights == Rights::Read => {
                (Answer::Denied, with(leaf))
            }
            Action::Read => (Answer::Run(frame, 1), with(Leaf { accessed: true, ..leaf })),
            Action::Write => {
                let written = Leaf { accessed: true, dirty: true, ..leaf };
                (Answer::Run(frame, 1), with(written))
            }
            Action::Translate => (Answer::Run(frame, 1), with(leaf)),
            Action::Continues(next) => {
                (Answer::Bit(rights == Rights::All && next == frame), with(leaf))
            }
        }
    }
}

/// What happens at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// An operation on one page answers this.
    On(usize, Action, Answer),
    /// A page is unmapped whose leaf is like this: of what was known of it the frame is the same, and what it allowed
    /// was this; it has all the bits that it had, and perhaps more.
    Taken(usize, Leaf, Rights),
    /// A populate begins: none of its pages is populated.
    Begin(Span),
    /// A page of it is populated; with it all that are in the same leaf table, if that is new.
    Open(usize),
    /// It ends.
    End,
    /// All pages of the span, which are empty, become unpopulated.
    Vacate(Span),
    /// A populate is refused: this is the first page of the span that is populated.
    Overlap(Span, usize),
    /// A vacate is refused: this is the first page of the span that is not populated.
    Lacks(Span, usize),
    /// A vacate is refused: this page is mapped.
    Holds(usize),
    /// Nothing happens, and no state speaks against it.
    Nothing,
    /// A late map whose answer another has: it maps the page all the same.
    Lend(usize, Leaf),
    /// The other: it comes too late, though it says that it mapped the page.
    Borrow(usize),
}

/// Which pages of a history are in which leaf table.
pub type Tables = [u8; PAGES];

/// The state of all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) pages: [Page; PAGES],
    tables: Tables,
    /// The pages that are being populated: the lock of structural changes is taken.
    building: Option<Span>,
    /// How many more late maps of each page lent their answers than borrowed one.
    lent: [i8; PAGES],
}

impl State {
    pub(crate) fn new(pages: [Page; PAGES], tables: Tables) -> Self {
        Self { pages, tables, building: None, lent: [0; PAGES] }
    }

    /// Tells whether all that was begun is over.
    pub(crate) fn is_settled(&self) -> bool {
        self.building.is_none() && self.lent == [0; PAGES]
    }

    fn with(mut self, page: usize, next: Page) -> Self {
        self.pages[page] = next;
        self
    }

    fn is_unpopulated(&self, page: usize) -> bool {
        self.pages[page] == Page::Unpopulated
    }

    fn is_free(&self) -> bool {
        self.building.is_none()
    }

    /// Returns the state after the step, if it can be taken in this one.
    pub(crate) fn after(self, step: Step) -> Option<Self> {
        match step {
            Step::On(page, action, said) => self.after_one(page, action, said),
            Step::Taken(page, leaf, known) => {
                let Leaf { frame, rights, accessed, dirty } = self.pages[page].leaf()?;
                let is_like = (frame, rights) == (leaf.frame, known);
                let has_all = (leaf.accessed || !accessed) && (leaf.dirty || !dirty);
                (is_like && has_all).then(|| self.with(page, Page::Empty))
            }
            Step::Begin(span) => {
                let free = self.is_free() && span.pages().all(|page| self.is_unpopulated(page));
                free.then_some(Self { building: Some(span), ..self })
            }
            Step::Open(page) => self.opened(page),
            Step::End => Some(Self { building: None, ..self }),
            Step::Vacate(span) => {
                let empty = |page| self.pages[page] == Page::Empty;
                (self.is_free() && span.pages().all(empty)).then(|| {
                    span.pages().fold(self, |state, page| state.with(page, Page::Unpopulated))
                })
            }
            Step::Overlap(span, at) => {
                let first = span.pages().find(|&page| !self.is_unpopulated(page));
                (self.is_free() && first == Some(at)).then_some(self)
            }
            Step::Lacks(span, at) => {
                let first = span.pages().find(|&page| self.is_unpopulated(page));
                (self.is_free() && first == Some(at)).then_some(self)
            }
            Step::Holds(page) => {
                (self.is_free() && self.pages[page].leaf().is_some()).then_some(self)
            }
            Step::Nothing => Some(self),
            Step::Lend(page, leaf) => {
                let mut next = self.after_one(page, Action::Map(leaf), Answer::New)?;
                next.lent[page] += 1;
                Some(next)
            }
            Step::Borrow(page) => {
                let mut next = self;
                next.lent[page] -= 1;
                self.is_unpopulated(page).then_some(next)
            }
        }
    }

    fn after_one(self, page: usize, action: Action, said: Answer) -> Option<Self> {
        let (answer, next) = self.pages[page].after(action);
        let fits = match (answer, said) {
            (Answer::NotPopulated(_), Answer::NotPopulated(named)) => named == page,
            // Too late is too late, whether or not the leaf was there for a moment.
            (Answer::NotPopulated(_), Answer::Vacated { accessed, dirty }) => !accessed && !dirty,
            _ => answer == said,
        };
        fits.then(|| self.with(page, next))
    }

    /// Opens a page of what is being populated.
    fn opened(self, page: usize) -> Option<Self> {
        let span = self.building?;
        if !self.is_unpopulated(page) {
            return Some(self);
        }
        let same = |other: usize| self.tables[other] == self.tables[page];
        if (0..PAGES).any(|other| same(other) && !self.is_unpopulated(other)) {
            return Some(self.with(page, Page::Empty));
        }
        let linked = span.pages().filter(|&other| same(other));
        Some(linked.fold(self, |state, page| state.with(page, Page::Empty)))
    }
}
