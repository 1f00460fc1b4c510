//! What a late leaf may have had in it, by what those answered who may have changed it; and who says of its bits.

use crate::history::{
    At, History,
    call::{Answer, Call, Leaf, Rights},
};

/// A bit of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Accessed,
    Dirty,
}

/// The leaf of a map that came too late: at first as it was mapped, and later as others left it.
#[derive(Clone, Copy)]
pub(super) struct LateLeaf<'h> {
    history: &'h History,
    map: At,
    page: usize,
    pub(super) frame: u16,
    rights: Rights,
}

impl<'h> LateLeaf<'h> {
    /// Returns that of the map at `map`, if it is one.
    pub(super) fn of(history: &'h History, map: At) -> Option<Self> {
        let Call::Map { page, frame, rights } = history.get(map).call else { return None };
        Some(Self { history, map, page, frame, rights })
    }

    /// Tells whether the operation at `at` may have found it like this.
    pub(super) fn may_be(&self, leaf: Leaf, at: At) -> bool {
        let has = |is_set: bool, mark| !is_set || self.may_have(mark, at);
        self.frame == leaf.frame
            && self.may_allow(leaf.rights, at)
            && has(leaf.accessed, Mark::Accessed)
            && has(leaf.dirty, Mark::Dirty)
    }

    /// Tells whether its map may have found these bits in it when it took it out.
    pub(super) fn may_leave(&self, accessed: bool, dirty: bool) -> bool {
        let rights = self.rights;
        self.may_be(Leaf { accessed, dirty, ..Leaf::fresh(self.frame, rights) }, self.map)
    }

    /// Tells whether it may have allowed just this: it was mapped so, or somebody changed it.
    pub(super) fn may_allow(&self, rights: Rights, at: At) -> bool {
        self.rights == rights || self.may_be_given(rights, at)
    }

    /// Tells whether somebody may have set a bit there.
    pub(super) fn may_have(&self, mark: Mark, at: At) -> bool {
        self.visitors(at).any(|other| self.sets(other, mark))
    }

    /// Tells whether somebody may have changed what it allows to this.
    pub(super) fn may_be_given(&self, rights: Rights, at: At) -> bool {
        self.visitors(at).any(|other| self.gives(other, rights))
    }

    /// Tells whether what it was given may be gone: with the leaf, as its map says or one to the same frame; or
    /// since somebody gave it others. Otherwise the unmap that took it out says so.
    pub(super) fn may_lose(&self, rights: Rights) -> bool {
        self.beside().any(|other| {
            let is_taken = taken(self.history, other, self.page, self.frame);
            is_taken.is_some_and(|leaf| leaf.rights == rights)
                || self.gives(other, rights.other())
                || self.vacated(other).is_some()
        })
    }

    /// Tells whether somebody says of a bit that was set there: a map that took it out, its own or one to the
    /// same frame; an unmap; or who cleared it.
    pub(super) fn is_told(&self, mark: Mark) -> bool {
        self.beside().any(|other| self.tells(other, mark))
    }

    fn tells(&self, other: At, mark: Mark) -> bool {
        let is_dirty = mark == Mark::Dirty;
        let of = |accessed, dirty| if is_dirty { dirty } else { accessed };
        if let Some(leaf) = taken(self.history, other, self.page, self.frame) {
            return of(leaf.accessed, leaf.dirty);
        }
        if let Some((accessed, dirty)) = self.vacated(other) {
            return of(accessed, dirty);
        }
        let operation = self.history.get(other);
        match (operation.call, operation.answer) {
            (Call::ClearDirty(page), Answer::Bit(true)) => is_dirty && page == self.page,
            (Call::ClearAccessed(page), Answer::Bit(true)) => !is_dirty && page == self.page,
            (Call::Harvest(_), Answer::Marks(marks)) => is_dirty && marks[self.page],
            _ => false,
        }
    }

    /// Returns the bits of which a map to the same frame says that it took a leaf out with them.
    fn vacated(&self, other: At) -> Option<(bool, bool)> {
        let operation = self.history.get(other);
        match (operation.call, operation.answer) {
            (Call::Map { page, frame, .. }, Answer::Vacated { accessed, dirty }) => {
                ((page, frame) == (self.page, self.frame)).then_some((accessed, dirty))
            }
            _ => None,
        }
    }

    fn gives(&self, other: At, rights: Rights) -> bool {
        let change = self.history.get(other);
        (change.call, change.answer) == (Call::Protect(self.page, rights), Answer::Changed(1))
    }

    /// Returns the map, and all that ran beside it.
    fn beside(&self) -> impl Iterator<Item = At> {
        let (history, map) = (self.history, self.map);
        history.all().filter(move |&other| other == map || history.overlap(other, map))
    }

    /// Returns who else may have come to it before the operation at `at` was over.
    fn visitors(&self, at: At) -> impl Iterator<Item = At> {
        let (history, map) = (self.history, self.map);
        let before = move |&other: &At| other != at && !history.precedes(at, other);
        history.all().filter(move |&other| history.overlap(other, map)).filter(before)
    }

    /// Tells whether the operation at `other` may have set a bit in a leaf of the page.
    fn sets(&self, other: At, mark: Mark) -> bool {
        let operation = self.history.get(other);
        let is_dirty = mark == Mark::Dirty;
        let of = match (operation.call, operation.answer) {
            (Call::Write(page), Answer::Run(..)) => page,
            (Call::Read(page), Answer::Run(..)) | (Call::SetAccessed(page), Answer::Bit(false))
                if !is_dirty =>
            {
                page
            }
            (Call::NoteDirty(page), Answer::Bit(false))
            | (Call::SetDirty(page), Answer::Changed(1))
                if is_dirty =>
            {
                page
            }
            _ => return false,
        };
        of == self.page
    }
}

/// Returns the leaf that the operation at `at` took out of `page`, if it did, and that had `frame`.
pub(super) fn taken(history: &History, at: At, page: usize, frame: u16) -> Option<Leaf> {
    let unmap = history.get(at);
    let leaf = match (unmap.call, unmap.answer) {
        (Call::Unmap(of), Answer::Was(leaf)) if of == page => leaf,
        (Call::UnmapRange(_), Answer::Leaves(leaves)) => leaves[page]?,
        _ => return None,
    };
    (leaf.frame == frame).then_some(leaf)
}
