//! The reference's side of watching writes: which pages are watched, and what a fault finds.

use slat::{FixError, Fixed, Format, Gpa, GpaRange, NoteError, Noted, Prot, WatchError};

use super::reference::{Changed, Reference, join, numbers, one_page, page_of};

impl<F: Format> Reference<F> {
    pub(crate) fn watch(&mut self, range: GpaRange) -> Result<Changed, WatchError> {
        if !self.admits(range) {
            return Err(WatchError::OutOfRange { range });
        }
        let mut changed = (0, None);
        for (&page, mapping) in self.pages.range(numbers(range)) {
            let Some(mapping) = mapping else { continue };
            if mapping.attr.prot().contains(Prot::W) && self.watched.insert(page) {
                changed.0 += 1;
                if !mapping.dirty {
                    join(&mut changed.1, mapping.range());
                }
            }
        }
        Ok(changed)
    }

    pub(crate) fn unwatch(&mut self, range: GpaRange) -> Result<u64, WatchError> {
        if !self.admits(range) {
            return Err(WatchError::OutOfRange { range });
        }
        let before = self.watched.len();
        self.watched.retain(|page| !numbers(range).contains(page));
        Ok((before - self.watched.len()) as u64)
    }

    pub(crate) fn is_watched(&self, gpa: Gpa) -> bool {
        self.watched.contains(&page_of(gpa))
    }

    pub(crate) fn fix_write(&mut self, gpa: Gpa) -> Result<Fixed, FixError> {
        if !self.admits(one_page(page_of(gpa))) {
            return Err(FixError::OutOfRange { gpa });
        }
        let watched = self.is_watched(gpa);
        let mapping = self.mapping(gpa).ok_or(FixError::NotMapped { gpa })?;
        let have = mapping.attr.prot();
        match (have.contains(Prot::W), watched && !mapping.dirty) {
            (false, _) => Err(FixError::Denied { gpa, have }),
            (true, false) => Ok(Fixed::Already),
            (true, true) => {
                (mapping.accessed, mapping.dirty) = (true, true);
                Ok(Fixed::Dirtied)
            }
        }
    }

    pub(crate) fn note_dirty(&mut self, gpa: Gpa) -> Result<Noted, NoteError> {
        if !self.admits(one_page(page_of(gpa))) {
            return Err(NoteError::OutOfRange { gpa });
        }
        let mapping = self.mapping(gpa).ok_or(NoteError::NotMapped { gpa })?;
        let was_dirty = std::mem::replace(&mut mapping.dirty, true);
        Ok(if was_dirty { Noted::Already } else { Noted::New })
    }
}
