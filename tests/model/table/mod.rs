//! A table and the reference: what each answers to each operation, and that they are the same in the end.

mod decode;
mod operation;
mod reference;
mod resize;
mod watch;

use slat::{Format, Gpa, GpaRange, Level, ObserverId};

pub(crate) use self::operation::Operation;
use self::{
    operation::{Bit, Spot},
    reference::Reference,
};
use crate::common::{self, Checked, PAGE, Space, at, census, dump, pfn, populated};

fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

/// A table, and what it should be.
pub(crate) struct Pair<F: Format> {
    space: Space,
    table: Checked<F>,
    reference: Reference<F>,
}

impl<F: Format> Pair<F> {
    /// Makes a pair for `operations` operations.
    pub(crate) fn new(format: F, operations: u64) -> Self {
        // None populates more than ten tables; those that were vacated may wait for their end.
        let table = Checked::new(format, 160 + 10 * operations);
        Self { space: Space::of(&format), table, reference: Reference::new(format) }
    }

    /// Does the same to both, and compares what they answer.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        let Self { space, table, reference } = self;
        let space = *space;
        let pin = table.pin();
        let gpa = |spot: Spot| at(spot.address(space));
        match *operation {
            Operation::Populate(area, size) => {
                let Some(range) = area.range(space) else { return };
                assert_eq!(table.populate(range, size), reference.populate(range, size, None));
            }
            Operation::PopulateMapped(area, size, first, attr) => {
                let Some(range) = area.range(space) else { return };
                let got = table.populate_mapped(range, size, pfn(first), attr);
                assert_eq!(got, reference.populate(range, size, Some((pfn(first), attr))));
            }
            Operation::Refine(area, size) => {
                let Some(range) = area.range(space) else { return };
                assert_eq!(table.refine(range, size), reference.refine(range, size));
            }
            Operation::RefinePart(part, size) => {
                let Some(range) = part.range(&reference.runs()) else { return };
                // Not too many tables.
                let range = GpaRange::from_pages(range.start(), range.pages().min(1000)).unwrap();
                assert_eq!(table.refine(range, size), reference.refine(range, size));
            }
            Operation::Split(spot, size) => {
                assert_eq!(table.split(gpa(spot), size, &nobody), reference.split(gpa(spot), size));
            }
            Operation::SplitPart(part, size) => {
                let Some(range) = part.range(&reference.runs()) else { return };
                let gpa = range.last();
                assert_eq!(table.split(gpa, size, &nobody), reference.split(gpa, size));
            }
            Operation::SplitRange(area, size) => {
                let Some(range) = area.range(space) else { return };
                let got = table.split_range(range, size, &nobody, |_| ());
                assert_eq!(got.ok(), reference.split_range(range, size));
            }
            Operation::Collapse(spot, size) => {
                drop(pin);
                let got = table.collapse(gpa(spot), size, &nobody);
                assert_eq!(got, reference.collapse(gpa(spot), size));
            }
            Operation::CollapsePart(part, size) => {
                let Some(range) = part.range(&reference.runs()) else { return };
                drop(pin);
                let gpa = range.last();
                let got = table.collapse(gpa, size, &nobody);
                assert_eq!(got, reference.collapse(gpa, size));
            }
            Operation::CollapseRange(area, size) => {
                let Some(range) = area.range(space) else { return };
                drop(pin);
                let got = table.collapse_range(range, size, &nobody, |_| ());
                let got = got.map(|done| (done.leaves, done.kept));
                assert_eq!(got, reference.collapse_range(range, size));
            }
            Operation::Vacate(area) => {
                let Some(range) = area.range(space) else { return };
                assert_eq!(table.vacate(range), reference.vacate(range));
            }
            Operation::VacatePart(part) => {
                let Some(range) = part.range(&reference.runs()) else { return };
                assert_eq!(table.vacate(range), reference.vacate(range));
                // And without what was in the way, if there was.
                let unmapped = pin.unmap_range(range, drop).map(|(pages, _)| pages);
                let want = reference.unmap_range(range, drop).map(|(pages, _)| pages);
                assert_eq!(unmapped, want);
                assert_eq!(table.vacate(range), reference.vacate(range));
            }
            Operation::Map(spot, frame, size, attr) => {
                let got = pin.map(gpa(spot), pfn(frame), size, attr);
                assert_eq!(got, reference.map(gpa(spot), pfn(frame), size, attr));
            }
            Operation::SlotMap(spot, frame, attr) => {
                let Ok(slot) = pin.slot(gpa(spot)) else { return };
                let got = slot.map(pfn(frame), common::SMALL, attr);
                assert_eq!(got, reference.map(gpa(spot), pfn(frame), common::SMALL, attr));
                assert_eq!(slot.mapping().as_ref(), reference.mapping(gpa(spot)).as_deref());
            }
            Operation::MapRange(area, first, attr) => {
                let Some(range) = area.range(space) else { return };
                let got = pin.map_range(range, pfn(first), attr);
                assert_eq!(got, reference.map_range(range, pfn(first), attr));
            }
            Operation::MapMany(ref spots, frame, attr) => {
                let pages = spots.iter().map(|&spot| (gpa(spot), pfn(frame)));
                let mut got = Vec::new();
                pin.map_many(pages.clone(), attr, |gpa, mapped| got.push((gpa, mapped)));
                let want =
                    pages.map(|(gpa, frame)| (gpa, reference.map(gpa, frame, common::SMALL, attr)));
                assert_eq!(got, want.collect::<Vec<_>>());
            }
            Operation::Unmap(spot) => {
                let got = pin.unmap(gpa(spot)).map(|(mapping, flush)| {
                    assert_eq!(flush.range(), Some(mapping.range()));
                    mapping
                });
                assert_eq!(got, reference.unmap(gpa(spot)));
            }
            Operation::UnmapRange(area) => {
                let Some(range) = area.range(space) else { return };
                let (mut got, mut want) = (Vec::new(), Vec::new());
                let changed = pin.unmap_range(range, |mapping| got.push(mapping));
                let changed = changed.map(|(pages, flush)| (pages, flush.range()));
                assert_eq!(changed, reference.unmap_range(range, |mapping| want.push(mapping)));
                assert_eq!(got, want);
            }
            Operation::UnmapMany(ref spots) => {
                let mut got = Vec::new();
                let pages = spots.iter().map(|&spot| gpa(spot));
                let _ = pin.unmap_many(pages.clone(), |gpa, result| got.push((gpa, result)));
                let want = pages.map(|gpa| (gpa, reference.unmap(gpa)));
                assert_eq!(got, want.collect::<Vec<_>>());
            }
            Operation::Protect(area, prot) => {
                let Some(range) = area.range(space) else { return };
                let got = pin.protect(range, prot).map(|(pages, flush)| (pages, flush.range()));
                assert_eq!(got, reference.protect(range, prot));
            }
            Operation::Watch(area) => {
                let Some(range) = area.range(space) else { return };
                let got = pin.watch(range).map(|(pages, flush)| (pages, flush.range()));
                assert_eq!(got, reference.watch(range));
            }
            Operation::Unwatch(area) => {
                let Some(range) = area.range(space) else { return };
                assert_eq!(pin.unwatch(range), reference.unwatch(range));
            }
            Operation::FixWrite(spot) => {
                assert_eq!(pin.fix_write(gpa(spot)), reference.fix_write(gpa(spot)));
            }
            Operation::NoteDirty(spot) => {
                assert_eq!(pin.note_dirty(gpa(spot)), reference.note_dirty(gpa(spot)));
            }
            Operation::Bits(spot, bit) => {
                let Ok(slot) = pin.slot(gpa(spot)) else { return };
                let mapping = reference.mapping(gpa(spot));
                let got = match bit {
                    Bit::SetAccessed => slot.set_accessed(),
                    Bit::ClearAccessed => slot.clear_accessed(),
                    Bit::SetDirty => slot.set_dirty(),
                    Bit::ClearDirty => slot.clear_dirty(),
                };
                let want = mapping.is_some_and(|mapping| match bit {
                    Bit::SetAccessed => std::mem::replace(&mut mapping.accessed, true),
                    Bit::ClearAccessed => std::mem::take(&mut mapping.accessed),
                    Bit::SetDirty => std::mem::replace(&mut mapping.dirty, true),
                    Bit::ClearDirty => std::mem::take(&mut mapping.dirty),
                });
                assert_eq!(got, want);
            }
            Operation::Lookup(spot) => {
                assert_eq!(pin.lookup(gpa(spot)).as_ref(), reference.mapping(gpa(spot)).as_deref());
            }
            Operation::LookupMany(ref spots) => {
                pin.lookup_many(spots.iter().map(|&spot| gpa(spot)), |gpa, found| {
                    assert_eq!(found.as_ref(), reference.mapping(gpa).as_deref());
                });
            }
            Operation::Translate(spot, len, access) => {
                let got = pin.translate(gpa(spot), len, access);
                assert_eq!(got, reference.translate(gpa(spot), len, access));
            }
            Operation::Mappings(area) => {
                let Some(range) = area.range(space) else { return };
                let want = reference.mappings(range);
                assert_eq!(pin.mapped(range).ok(), reference.mapped(range));
                assert_eq!(pin.mappings(range).ok().map(Iterator::collect::<Vec<_>>), want);
            }
        }
    }

    /// The whole space, in its one part or two.
    fn whole(&self) -> Vec<GpaRange> {
        let mut starts = vec![self.space.upper];
        if self.space.is_split() {
            starts.insert(0, 0);
        }
        let pages = self.space.part / PAGE;
        starts.into_iter().map(|start| GpaRange::from_pages(at(start), pages).unwrap()).collect()
    }

    /// The mappings are the reference's, and the way to each is made of the format's entries.
    pub(crate) fn agree(&self) {
        let pin = self.table.pin();
        let format = self.table.format();
        for part in self.whole() {
            let want = self.reference.mappings(part).unwrap();
            let got: Vec<_> = pin.mappings(part).unwrap().collect();
            assert_eq!(got, want);
            for mapping in got.iter().step_by(16) {
                let watched = pin.slot(mapping.gpa).unwrap().watched();
                assert_eq!(watched, self.reference.is_watched(mapping.gpa), "{mapping:?}");
                for step in pin.walk(mapping.gpa, Level::L1).iter() {
                    assert!(format.is_well_formed(step.level, step.entry), "{step:?}");
                }
            }
        }
    }

    /// Every entry of every table, populated or not, is as it should be; so are the ends.
    pub(crate) fn finish(self) {
        assert_eq!(populated(&self.table), self.reference.populated());
        assert_eq!(census(&self.table).tables, self.reference.tables());
        for (_, _, _, _, entry) in dump(&self.table) {
            let format = self.table.format();
            let bits = format.accessed_bit() | format.dirty_bit();
            assert!(format.is_present(entry) || !entry.has(bits));
        }
        let pin = self.table.pin();
        for gpa in self.space.outside() {
            assert_eq!(pin.lookup(Gpa::new(gpa)), None);
        }
    }
}
