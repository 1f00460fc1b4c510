//! What operations are called with and what they answer, in the words of the specification: pages by
//! their numbers in the history, frames by theirs, and nothing of the library's own types.

use std::fmt;

/// The most pages that a history is about.
pub const PAGES: usize = 4;

/// What a leaf allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// To read.
    Read,
    /// Everything.
    All,
}

impl Rights {
    /// Returns the others: there are two.
    #[must_use]
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Read => Self::All,
            Self::All => Self::Read,
        }
    }
}

/// A leaf as it stood at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The number of its frame.
    pub frame: u16,
    /// What it allows.
    pub rights: Rights,
    /// Whether the page was accessed.
    pub accessed: bool,
    /// Whether it was written.
    pub dirty: bool,
}

impl Leaf {
    /// Returns a leaf that nobody used.
    #[must_use]
    pub const fn fresh(frame: u16, rights: Rights) -> Self {
        Self { frame, rights, accessed: false, dirty: false }
    }
}

/// The pages `first..end`, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first page.
    pub first: usize,
    /// The page after the last.
    pub end: usize,
}

impl Span {
    /// Returns the pages `first..end`.
    ///
    /// # Panics
    /// If there are none, or more than a history has.
    #[must_use]
    pub const fn new(first: usize, end: usize) -> Self {
        assert!(first < end && end <= PAGES, "a span has pages");
        Self { first, end }
    }

    /// Returns one page.
    #[must_use]
    pub const fn one(page: usize) -> Self {
        Self::new(page, page + 1)
    }

    /// Returns the pages, in ascending order.
    pub fn pages(self) -> impl DoubleEndedIterator<Item = usize> + Clone {
        self.first..self.end
    }

    /// Tells whether `page` is one of them.
    #[must_use]
    pub const fn contains(self, page: usize) -> bool {
        self.first <= page && page < self.end
    }
}

/// An operation, as it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Maps a page.
    Map {
        /// The page.
        page: usize,
        /// The number of the frame.
        frame: u16,
        /// What the leaf allows.
        rights: Rights,
    },
    /// Unmaps a page.
    Unmap(usize),
    /// Looks a page up.
    Lookup(usize),
    /// Changes the rights of a page.
    Protect(usize, Rights),
    /// Makes a page dirty, as a log of the MMU's says.
    NoteDirty(usize),
    /// Clears the dirty bit of a page.
    ClearDirty(usize),
    /// Makes a page accessed.
    SetAccessed(usize),
    /// Clears the accessed bit of a page.
    ClearAccessed(usize),
    /// Reads a page through the MMU.
    Read(usize),
    /// Writes a page through the MMU.
    Write(usize),
    /// Takes the dirty bits of some pages.
    Harvest(Span),
    /// Makes a page dirty that was written without an MMU, if it may be.
    SetDirty(usize),
    /// Unmaps some pages.
    UnmapRange(Span),
    /// Looks for a run of frames that some pages have for writes.
    Translate(Span),
    /// Makes room for some pages.
    Populate(Span),
    /// Takes the room of some pages away.
    Vacate(Span),
    /// Looks at the entry of a page.
    Look(usize),
}

/// What an operation answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It was done.
    Done,
    /// The page was mapped by this call.
    New,
    /// The same mapping was there.
    Same,
    /// Another mapping was there.
    Occupied(Leaf),
    /// There was no memory at this page.
    NotPopulated(usize),
    /// The page was vacated meanwhile; this is what the leaf had in the end.
    Vacated {
        /// Whether the page was accessed.
        accessed: bool,
        /// Whether it was written.
        dirty: bool,
    },
    /// The leaf that was there.
    Was(Leaf),
    /// No leaf was there.
    NotMapped,
    /// The leaf allows no write.
    Denied,
    /// What the bit was.
    Bit(bool),
    /// How many leaves were changed.
    Changed(usize),
    /// Those leaves that were there, by page.
    Leaves([Option<Leaf>; PAGES]),
    /// Those pages that had the bit.
    Marks([bool; PAGES]),
    /// So many frames, the first of which is this.
    Run(u16, usize),
    /// This page was still mapped.
    StillMapped(usize),
    /// Again and again others mapped pages.
    Busy,
    /// This page was populated already.
    Overlap(usize),
    /// A page without memory.
    Unpopulated,
    /// A page with memory, and nothing mapped.
    Empty,
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Read) { "r--" } else { "rwx" })
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, rights, accessed, dirty } = self;
        let bit = |set: bool, letter| if set { letter } else { '-' };
        write!(f, "{frame} {rights} {}{}", bit(*accessed, 'A'), bit(*dirty, 'D'))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { page, frame, rights } => write!(f, "map {page} to {frame} {rights}"),
            Self::Unmap(page) => write!(f, "unmap {page}"),
            Self::Lookup(page) => write!(f, "lookup {page}"),
            Self::Protect(page, rights) => write!(f, "protect {page} {rights}"),
            Self::NoteDirty(page) => write!(f, "note_dirty {page}"),
            Self::ClearDirty(page) => write!(f, "clear_dirty {page}"),
            Self::SetAccessed(page) => write!(f, "set_accessed {page}"),
            Self::ClearAccessed(page) => write!(f, "clear_accessed {page}"),
            Self::Read(page) => write!(f, "read {page}"),
            Self::Write(page) => write!(f, "write {page}"),
            Self::Harvest(span) => write!(f, "harvest {span}"),
            Self::SetDirty(page) => write!(f, "set_dirty {page}"),
            Self::UnmapRange(span) => write!(f, "unmap_range {span}"),
            Self::Translate(span) => write!(f, "translate {span}"),
            Self::Populate(span) => write!(f, "populate {span}"),
            Self::Vacate(span) => write!(f, "vacate {span}"),
            Self::Look(page) => write!(f, "look at {page}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied(leaf) => write!(f, "Occupied by {leaf}"),
            Self::NotPopulated(page) => write!(f, "NotPopulated {page}"),
            Self::Was(leaf) => write!(f, "{leaf}"),
            Self::Bit(bit) => write!(f, "{bit}"),
            Self::Changed(leaves) => write!(f, "{leaves} changed"),
            Self::Leaves(leaves) => {
                for (page, leaf) in leaves.iter().enumerate() {
                    if let Some(leaf) = leaf {
                        write!(f, "[{page}: {leaf}]")?;
                    }
                }
                f.write_str("and no more")
            }
            Self::Marks(marks) => {
                let pages = (0..PAGES).filter(|&page| marks[page]);
                write!(f, "pages {:?}", pages.collect::<Vec<_>>())
            }
            Self::Run(frame, pages) => write!(f, "{pages} from {frame} on"),
            Self::StillMapped(page) => write!(f, "StillMapped {page}"),
            Self::Overlap(page) => write!(f, "Overlap {page}"),
            other => write!(f, "{other:?}"),
        }
    }
}
