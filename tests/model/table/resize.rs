//! The reference, where one size becomes another.

use slat::{CollapseError, EncodeError, Format, Gpa, GpaRange, PageSize, RefineError, SplitError};

use super::reference::{Reference, Room, numbers, page_of};
use crate::common::{PAGE, SMALL, at, pfn};

impl<F: Format> Reference<F> {
    /// Makes a room, and the leaf in it, into those of the next smaller size.
    fn divide(&mut self, first: u64) {
        let room = self.rooms.remove(&first).unwrap();
        let size = smaller(room.size);
        for page in (0..512).map(|index| index * size.pages()) {
            let part = |leaf: slat::Mapping| slat::Mapping {
                gpa: at((first + page) * PAGE),
                pfn: pfn(leaf.pfn.get() + page),
                size,
                ..leaf
            };
            self.rooms.insert(first + page, Room { size, leaf: room.leaf.map(part), ..room });
        }
    }

    pub(crate) fn refine(&mut self, range: GpaRange, granule: PageSize) -> Result<(), RefineError> {
        if !self.admits(range) {
            return Err(RefineError::OutOfRange { range });
        }
        let pages = numbers(range);
        let mut page = pages.start;
        while page < pages.end {
            let Some((first, room)) = self.room(page) else {
                return Err(RefineError::NotPopulated { gpa: at(page * PAGE) });
            };
            if let Some(leaf) = room.leaf
                && leaf.size > granule
            {
                return Err(RefineError::Mapped { gpa: leaf.gpa, size: leaf.size });
            }
            page = first + room.size.pages();
        }
        self.divide_all(range, granule);
        Ok(())
    }

    /// Divides until no room in the range is larger; returns how often.
    fn divide_all(&mut self, range: GpaRange, granule: PageSize) -> u64 {
        let mut times = 0;
        let too_large = |this: &Self, leaf: bool| {
            let rooms = this.rooms_in(range).into_iter();
            rooms.into_iter().find(|first| {
                let room = this.rooms[first];
                room.size > granule && room.leaf.is_some() == leaf
            })
        };
        for leaf in [false, true] {
            while let Some(first) = too_large(self, leaf) {
                self.divide(first);
                times += 1;
            }
        }
        times
    }

    pub(crate) fn split(&mut self, gpa: Gpa, size: PageSize) -> Result<(), SplitError> {
        if !self.admits_page(gpa) {
            return Err(SplitError::OutOfRange { gpa });
        }
        loop {
            match self.room(page_of(gpa)) {
                Some((first, Room { leaf: Some(leaf), .. })) if leaf.size > size => {
                    self.divide(first);
                }
                Some((_, Room { leaf: Some(_), .. })) => return Ok(()),
                _ => return Err(SplitError::NotMapped { gpa }),
            }
        }
    }

    /// Returns how many leaves are split.
    pub(crate) fn split_range(&mut self, range: GpaRange, size: PageSize) -> Option<u64> {
        if !self.admits(range) {
            return None;
        }
        let mut times = 0;
        loop {
            let rooms = self.rooms_in(range).into_iter();
            let large = rooms
                .into_iter()
                .find(|first| self.rooms[first].leaf.is_some_and(|leaf| leaf.size > size));
            let Some(first) = large else { return Some(times) };
            self.divide(first);
            times += 1;
        }
    }

    pub(crate) fn collapse(&mut self, gpa: Gpa, size: PageSize) -> Result<(), CollapseError> {
        if !self.admits_page(gpa) {
            return Err(CollapseError::OutOfRange { gpa });
        }
        if size == SMALL {
            return Err(EncodeError::BadSize(size).into());
        }
        let first = page_of(gpa) / size.pages() * size.pages();
        match self.room(page_of(gpa)) {
            Some((_, room)) if room.size >= size => {
                let none = CollapseError::NotMapped { gpa: at(first * PAGE) };
                room.leaf.map(drop).ok_or(none)
            }
            _ => self.join(first, size),
        }
    }

    /// Makes the leaves that map what one of `size` would into one.
    fn join(&mut self, first: u64, size: PageSize) -> Result<(), CollapseError> {
        let small = smaller(size);
        let mut whole: Option<slat::Mapping> = None;
        let watched = self.rooms.get(&first).is_some_and(|room| room.watched);
        for page in (0..512).map(|index| index * small.pages()) {
            let gpa = at((first + page) * PAGE);
            let leaf = self.rooms.get(&(first + page)).and_then(|room| room.leaf);
            let leaf = leaf.filter(|leaf| leaf.size == small);
            let leaf = leaf.ok_or(CollapseError::NotMapped { gpa })?;
            let all = whole.get_or_insert(leaf);
            let same = self.rooms[&(first + page)].watched == watched;
            if !same || (leaf.pfn.get(), leaf.attr) != (all.pfn.get() + page, all.attr) {
                return Err(CollapseError::Uneven { gpa });
            }
            all.accessed |= leaf.accessed;
            all.dirty |= leaf.dirty;
        }
        let whole = whole.unwrap();
        self.format.leaf(size, whole.pfn, whole.attr)?;
        self.rooms.retain(|&page, _| page < first || first + size.pages() <= page);
        let leaf = Some(slat::Mapping { size, ..whole });
        self.rooms.insert(first, Room { size, leaf, watched });
        Ok(())
    }

    /// Returns how many leaves are made, and how many tables stay.
    pub(crate) fn collapse_range(
        &mut self,
        range: GpaRange,
        size: PageSize,
    ) -> Result<(u64, u64), CollapseError> {
        let pages = numbers(range);
        if !self.admits(range) {
            let outside = pages.clone().find(|page| !self.admits_page(at(page * PAGE))).unwrap();
            return Err(CollapseError::OutOfRange { gpa: at(outside * PAGE) });
        }
        if size == SMALL {
            return Err(EncodeError::BadSize(size).into());
        }
        let (mut made, mut kept) = (0, 0);
        for size in [PageSize::Size2M, PageSize::Size1G].into_iter().filter(|&s| s <= size) {
            let mut first = pages.start.next_multiple_of(size.pages());
            while first + size.pages() <= pages.end {
                let end = first + size.pages();
                let beyond = self.room(first).is_some_and(|(_, room)| room.size >= size);
                if !beyond && self.rooms.range(first..end).next().is_some() {
                    match self.join(first, size) {
                        Ok(()) => made += 1,
                        Err(_) => kept += 1,
                    }
                }
                first = end;
            }
        }
        Ok((made, kept))
    }
}

fn smaller(size: PageSize) -> PageSize {
    match size {
        PageSize::Size1G => PageSize::Size2M,
        _ => SMALL,
    }
}
