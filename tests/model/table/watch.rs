//! The reference's side of watching writes: which leaves are watched, and what a fault finds.

use slat::{FixError, Fixed, Format, Gpa, GpaRange, NoteError, Noted, Prot, WatchError};

use super::reference::{Changed, Reference, join, numbers, page_of};

impl<F: Format> Reference<F> {
    fn may_watch(&self, range: GpaRange) -> Result<(), WatchError> {
        if !self.admits(range) {
            return Err(WatchError::OutOfRange { range });
        }
        self.cuts(range).map_or(Ok(()), |gpa| Err(WatchError::CutsLarge { gpa }))
    }

    pub(crate) fn watch(&mut self, range: GpaRange) -> Result<Changed, WatchError> {
        self.may_watch(range)?;
        let mut changed = (0, None);
        for (_, room) in self.rooms.range_mut(numbers(range)) {
            let Some(leaf) = room.leaf else { continue };
            if leaf.attr.prot().contains(Prot::W) && !room.watched {
                room.watched = true;
                changed.0 += leaf.size.pages();
                if !leaf.dirty {
                    join(&mut changed.1, leaf.range());
                }
            }
        }
        Ok(changed)
    }

    pub(crate) fn unwatch(&mut self, range: GpaRange) -> Result<u64, WatchError> {
        self.may_watch(range)?;
        let watched = self.rooms.range_mut(numbers(range)).filter(|(_, room)| room.watched);
        Ok(watched
            .map(|(_, room)| {
                room.watched = false;
                room.size.pages()
            })
            .sum())
    }

    pub(crate) fn is_watched(&self, gpa: Gpa) -> bool {
        self.room(page_of(gpa)).is_some_and(|(_, room)| room.watched)
    }

    pub(crate) fn fix_write(&mut self, gpa: Gpa) -> Result<Fixed, FixError> {
        if !self.admits_page(gpa) {
            return Err(FixError::OutOfRange { gpa });
        }
        let watched = self.is_watched(gpa);
        let leaf = self.mapping(gpa).ok_or(FixError::NotMapped { gpa })?;
        let have = leaf.attr.prot();
        match (have.contains(Prot::W), watched && !leaf.dirty) {
            (false, _) => Err(FixError::Denied { gpa, have }),
            (true, false) => Ok(Fixed::Already),
            (true, true) => {
                (leaf.accessed, leaf.dirty) = (true, true);
                Ok(Fixed::Dirtied)
            }
        }
    }

    pub(crate) fn note_dirty(&mut self, gpa: Gpa) -> Result<Noted, NoteError> {
        if !self.admits_page(gpa) {
            return Err(NoteError::OutOfRange { gpa });
        }
        let leaf = self.mapping(gpa).ok_or(NoteError::NotMapped { gpa })?;
        let was_dirty = std::mem::replace(&mut leaf.dirty, true);
        Ok(if was_dirty { Noted::Already } else { Noted::New })
    }
}
