//! What is called, done on the library, and what it answers, in the words of the specification.

use std::cell::RefCell;

use slat::{
    Attr, Bitmap, Entry, Ept, HostPfn, Level, MapError, Mapped, Mapping, Mark, NoteError, Noted,
    Observer, PAGE_BYTES, PageSize, Pinned, PopulateError, Prot, SlotRef, Tracking, TranslateError,
    UnmapError, VacateError,
    mmu::{Access, Cause},
};

use super::{
    call::{Answer, Call, Leaf, PAGES, Rights, Span},
    program::{Ground, Program},
};
use crate::{
    sched::Arc,
    world::{Cpu, Frames, World, frame},
};

type Slot<'p> = SlotRef<'p, Ept, Frames>;

/// A processor on a ground.
pub(super) struct Doer {
    cpu: Cpu,
    ground: Ground,
    /// For the accesses of its MMU, if there will be some. It has no caches: what those show is told apart from
    /// what the table is by a flush, and by no order.
    observer: Option<RefCell<Observer<Ept, Frames>>>,
}

impl Doer {
    pub(super) fn new(world: &Arc<World>, program: &Program) -> Self {
        let observer = program.has_accesses().then(|| RefCell::new(world.table.observer()));
        Self { cpu: Cpu::new(world), ground: program.ground, observer }
    }

    pub(super) fn pin(&self) -> Pinned<'_, Ept, Frames> {
        self.cpu.pin()
    }

    /// Finds the slots of all pages.
    pub(super) fn slots<'p>(&self, pin: &'p Pinned<'_, Ept, Frames>) -> Vec<Slot<'p>> {
        (0..self.ground.pages).map(|page| pin.slot(self.gpa(page)).unwrap()).collect()
    }

    /// Does what is called; by the slots that were kept, if they were.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the methods are those of slots of one lifetime"
    )]
    pub(super) fn perform(&self, slots: &[Slot<'_>], call: Call) -> Answer {
        match call {
            Call::Map { page, frame, rights } => self.map(slots, page, frame, rights),
            Call::Unmap(page) => self.unmap(page),
            Call::Lookup(page) => self.lookup(slots, page),
            Call::Look(page) => self.look(page),
            Call::Protect(page, rights) => self.protect(page, rights),
            Call::NoteDirty(page) => self.note_dirty(page),
            Call::SetDirty(page) => self.set_dirty(page),
            Call::ClearDirty(page) => self.bit(slots, page, |slot| slot.clear_dirty()),
            Call::SetAccessed(page) => self.bit(slots, page, |slot| slot.set_accessed()),
            Call::ClearAccessed(page) => self.bit(slots, page, |slot| slot.clear_accessed()),
            Call::Read(page) => self.access(page, Access::READ),
            Call::Write(page) => self.access(page, Access::WRITE),
            Call::Harvest(span) => self.harvest(span),
            Call::UnmapRange(span) => self.unmap_range(span),
            Call::Translate(span) => self.translate(span),
            Call::Populate(span) => self.populate(span),
            Call::Vacate(span) => self.vacate(span),
        }
    }

    fn gpa(&self, page: usize) -> slat::Gpa {
        self.ground.gpa(page)
    }

    fn map(&self, slots: &[Slot<'_>], page: usize, number: u16, rights: Rights) -> Answer {
        let (host, attr) = (frame(u64::from(number)), Attr::new(prot(rights)));
        let mapped = match slots.get(page) {
            Some(slot) => slot.map(host, PageSize::Size4K, attr),
            None => self.pin().map(self.gpa(page), host, PageSize::Size4K, attr),
        };
        match mapped {
            Ok(Mapped::New) => Answer::New,
            Ok(Mapped::Same) => Answer::Same,
            Err(MapError::Occupied(found)) => Answer::Occupied(leaf(found)),
            Err(MapError::NotPopulated { .. }) => Answer::NotPopulated(page),
            Err(MapError::Vacated { accessed, dirty, .. }) => Answer::Vacated { accessed, dirty },
            Err(error) => panic!("{error}"),
        }
    }

    fn unmap(&self, page: usize) -> Answer {
        match self.pin().unmap(self.gpa(page)) {
            Ok((mapping, _flush)) => Answer::Was(leaf(mapping)),
            Err(UnmapError::NotMapped { .. }) => Answer::NotMapped,
            Err(error) => panic!("{error}"),
        }
    }

    fn lookup(&self, slots: &[Slot<'_>], page: usize) -> Answer {
        let found = match slots.get(page) {
            Some(slot) => slot.mapping(),
            None => self.pin().lookup(self.gpa(page)),
        };
        found.map_or(Answer::NotMapped, |mapping| Answer::Was(leaf(mapping)))
    }

    fn bit(&self, slots: &[Slot<'_>], page: usize, change: fn(&Slot<'_>) -> bool) -> Answer {
        Answer::Bit(match slots.get(page) {
            Some(slot) => change(slot),
            None => change(&self.pin().slot(self.gpa(page)).unwrap()),
        })
    }

    fn look(&self, page: usize) -> Answer {
        match self.pin().walk(self.gpa(page), Level::L1).last() {
            Some(step) if step.entry == Entry::UNPOPULATED => Answer::Unpopulated,
            Some(step) if step.entry == Entry::EMPTY => Answer::Empty,
            _ => self.lookup(&[], page),
        }
    }

    fn protect(&self, page: usize, rights: Rights) -> Answer {
        let range = self.ground.range(Span::one(page));
        let (pages, _flush) = self.pin().protect(range, prot(rights)).unwrap();
        Answer::Changed(pages as usize)
    }

    fn note_dirty(&self, page: usize) -> Answer {
        match self.pin().note_dirty(self.gpa(page)) {
            Ok(noted) => Answer::Bit(noted == Noted::Already),
            Err(NoteError::NotMapped { .. }) => Answer::NotMapped,
            Err(error) => panic!("{error}"),
        }
    }

    fn set_dirty(&self, page: usize) -> Answer {
        let mut written = Bitmap::new(self.ground.range(Span::one(page)));
        written.set(self.gpa(page)).unwrap();
        Answer::Changed(self.pin().set_dirty(&written).unwrap() as usize)
    }

    fn access(&self, page: usize, access: Access) -> Answer {
        let observer = self.observer.as_ref().expect("the program has accesses");
        let mut observer = observer.borrow_mut();
        match observer.enter(Tracking::On).mmu().translate(self.gpa(page), access) {
            Ok(translation) => Answer::Run(number(translation.pfn), 1),
            Err(fault) => match fault.cause() {
                Cause::NotPresent => Answer::NotMapped,
                Cause::Rights => Answer::Denied,
                cause => panic!("{cause:?}"),
            },
        }
    }

    fn harvest(&self, span: Span) -> Answer {
        let range = self.ground.range(span);
        let mut found = Bitmap::new(range);
        let (pages, _flush) = self.pin().harvest(range, Mark::Dirty, &mut found).unwrap();
        assert_eq!(pages, found.count());
        let mut marks = [false; PAGES];
        for page in span.pages() {
            marks[page] = found.contains(self.gpa(page));
        }
        Answer::Marks(marks)
    }

    fn unmap_range(&self, span: Span) -> Answer {
        let mut leaves = [None; PAGES];
        let take = |mapping: Mapping| {
            let old = leaves[self.ground.page_of(mapping.gpa)].replace(leaf(mapping));
            assert_eq!(old, None, "a page was unmapped twice by one call");
        };
        let (pages, _flush) = self.pin().unmap_range(self.ground.range(span), take).unwrap();
        assert_eq!(pages, leaves.iter().flatten().count() as u64);
        Answer::Leaves(leaves)
    }

    fn translate(&self, span: Span) -> Answer {
        let len = (span.end - span.first) as u64 * PAGE_BYTES;
        match self.pin().translate(self.gpa(span.first), len, Prot::W) {
            Ok(run) => Answer::Run(number(run.pfn), (run.len / PAGE_BYTES) as usize),
            Err(TranslateError::NotMapped { .. }) => Answer::NotMapped,
            Err(TranslateError::Denied { have: Prot::R, .. }) => Answer::Denied,
            Err(error) => panic!("{error}"),
        }
    }

    fn populate(&self, span: Span) -> Answer {
        match self.cpu.table().populate(self.ground.blocks(span), PageSize::Size4K) {
            Ok(()) => Answer::Done,
            Err(PopulateError::Overlap { gpa }) => Answer::Overlap(self.ground.page_of(gpa)),
            Err(error) => panic!("{error}"),
        }
    }

    fn vacate(&self, span: Span) -> Answer {
        match self.cpu.table().vacate(self.ground.blocks(span)) {
            Ok(()) => Answer::Done,
            Err(VacateError::NotPopulated { gpa }) => {
                Answer::NotPopulated(self.ground.page_of(gpa))
            }
            Err(VacateError::StillMapped { gpa }) => Answer::StillMapped(self.ground.page_of(gpa)),
            Err(VacateError::Busy) => Answer::Busy,
            Err(error) => panic!("{error}"),
        }
    }
}

fn prot(rights: Rights) -> Prot {
    match rights {
        Rights::Read => Prot::R,
        Rights::All => Prot::RWX,
    }
}

/// Returns what a mapping says.
fn leaf(mapping: Mapping) -> Leaf {
    let Mapping { pfn, attr, accessed, dirty, .. } = mapping;
    let rights = match attr.prot() {
        Prot::R => Rights::Read,
        Prot::RWX => Rights::All,
        other => panic!("nobody gave {other}"),
    };
    Leaf { frame: number(pfn), rights, accessed, dirty }
}

fn number(pfn: HostPfn) -> u16 {
    (pfn.get() - frame(0).get()) as u16
}
