//! Collapse: a table full of leaves that follow on each other becomes one leaf of the next larger size,
//! beside processors that go on translating, mapping and unmapping in it.
//!
//! Whoever changes a leaf in the table, after it was replaced, would change what nobody comes to any
//! more. So the table must not be replaced while somebody is in it who may:
//!
//! 1. *Mark* the slot that leads to the table COLLAPSING. The MMU does not see that, nor do lookups. But
//!    who passes through the slot to change what is below takes the mark off first, and has thwarted
//!    the collapse ([`Walker`]'s `thwart`).
//! 2. *Wait* for a grace period: every pin ends that was held when the mark was set. From then on, as
//!    long as the mark stands, nobody is below who may change more than accessed and dirty bits.
//! 3. *Replace*: if the leaves are even, put the large leaf where the table was, by one compare-exchange
//!    of the marked entry. Here it takes effect. If the mark is gone the exchange fails.
//! 4. *Shoot down*: until every observer has come out, or acknowledged, an MMU may come to the dead table
//!    through its paging-structure cache, and set bits there. For so long the large leaf is LATE, and
//!    counts as accessed and dirty.
//! 5. *Merge* the bits that are in the dead table by now into the large leaf, if that still stands, and
//!    take LATE off it. Then the dead table is retired.
//!
//! 1, 3 and 5 are done under the writer lock, 2 and 4 without it. Nobody waits for a collapse, and a
//! thread that stops for ever in the middle of one costs each of the others one exchange; a thread that
//! stops under a pin makes collapses [`Busy`](CollapseError::Busy).
//!
//! The road not taken is a claim as vacate's, which every change would have to look for behind its
//! exchange: an unmap that finds the claim committed and the table still linked could only wait. To thwart
//! beforehand costs a test of a bit that was loaded anyhow.
//!
//! What is done with a LATE leaf meanwhile: unmapping or protecting it flushes structure, so that the
//! dead table is out of reach as well; splitting it gives small leaves that are accessed and dirty. Then
//! there is no LATE leaf any more, and step 5 has nothing to do. Two collapses do not overlap, so a LATE
//! leaf that is found there is the one that was put there.

use alloc::vec::Vec;

use crate::{
    addr::{Gpa, GpaRange},
    arena::FrameSource,
    entry::Entry,
    format::{EncodeError, Format, Resize, Uneven, Union},
    level::{Level, PageSize, SLOTS},
    observe::{Domain, Flush, Generation, InsideGuest, Kick, Structure},
    ops::{OutOfRange, admit},
    sync::Relax,
    table::{Dead, Next, Slot, Walker},
    walk::{Place, Terminal},
};

/// How many large leaves [`PageTable::collapse_range`](crate::PageTable::collapse_range) makes at once,
/// with one grace period and one shoot-down for all.
const CHUNK: usize = 64;

/// How many tables or holes it passes before it lets others have the writer lock.
const STEPS: usize = 256;

/// How often to look whether the pins have ended before it gives up.
const PATIENCE: usize = if cfg!(any(loom, shuttle)) { 2 } else { 4096 };

/// Why leaves were not collapsed into one. They are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollapseError {
    /// Nothing is mapped there, or by leaves of another size than the next smaller one.
    #[error("{gpa} is not mapped by a leaf of the next smaller size")]
    NotMapped {
        /// The first such address.
        gpa: Gpa,
    },
    /// The leaf does not follow on the one before it: other attributes, or not the next frame.
    #[error("the leaf at {gpa} does not follow on those before it")]
    Uneven {
        /// The first address that the leaf maps.
        gpa: Gpa,
    },
    /// The processor has no leaves of that size, or the first frame is not aligned to it.
    #[error(transparent)]
    Unencodable(#[from] EncodeError),
    /// A page below was being changed, or a pin was held all the time, perhaps by the caller.
    #[error("the leaves are being changed")]
    Busy,
    /// The caller's thread is inside an observer, for which the collapse would have to wait.
    #[error(transparent)]
    InsideGuest(#[from] InsideGuest),
    /// Not an input address of the table's format.
    #[error("{gpa} is not an input address of the table's format")]
    OutOfRange {
        /// The address.
        gpa: Gpa,
    },
}

impl From<OutOfRange> for CollapseError {
    fn from(OutOfRange { gpa }: OutOfRange) -> Self {
        Self::OutOfRange { gpa }
    }
}

/// What [`PageTable::collapse_range`](crate::PageTable::collapse_range) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Collapsed {
    /// Large leaves that were made.
    pub leaves: u64,
    /// Tables that stayed: their leaves were missing, uneven, or being changed.
    pub kept: u64,
}

/// A table in whose place stands a LATE leaf.
struct Replaced {
    /// The first page that the leaf maps.
    page: u64,
    dead: Dead,
    /// What was in the table.
    union: Union,
    /// The leaf's frame and attributes.
    leaf: Entry,
}

impl<F: Format, S: FrameSource> Domain<F, S> {
    /// Collapses the leaves that map what one leaf of `size` at `gpa` would.
    pub(crate) fn collapse(
        &self,
        gpa: Gpa,
        size: PageSize,
        kick: &impl Kick,
    ) -> Result<(), CollapseError> {
        let format = self.tree().format();
        if !format.admits(gpa) {
            return Err(CollapseError::OutOfRange { gpa });
        }
        if size == PageSize::Size4K || !format.supports(size) {
            return Err(EncodeError::BadSize(size).into());
        }
        let mut result = None;
        let leaf = size.leaf_range(gpa.page());
        self.collapse_chunk(leaf, size, kick, |one| result = Some(one))?;
        result.unwrap_or_else(|| {
            let structure = self.lock();
            match structure.walk().above(gpa.page(), size) {
                Above::Leaf(_) => Ok(()),
                Above::Hole(_) => Err(CollapseError::NotMapped { gpa: leaf.start() }),
                // It came between the two looks.
                Above::Table(_) => Err(CollapseError::Busy),
            }
        })
    }

    /// Collapses what can be collapsed in `range` to leaves of `size`, and first of the sizes between.
    pub(crate) fn collapse_range(
        &self,
        range: GpaRange,
        size: PageSize,
        kick: &impl Kick,
        mut progress: impl FnMut(u64),
    ) -> Result<Collapsed, CollapseError> {
        let format = self.tree().format();
        admit(format, range)?;
        if size == PageSize::Size4K || !format.supports(size) {
            return Err(EncodeError::BadSize(size).into());
        }
        let mut done = Collapsed::default();
        let mut first = range.first_page();
        let mut told = first;
        let mut tell = |page: u64| {
            if page > told {
                told = page;
                progress(page - range.first_page());
            }
        };
        while first < range.end_page() {
            // Of 1 GiB at a time, so that the smaller sizes come before the larger.
            let end = Level::L3.next_page(first).min(range.end_page());
            let mut next = end;
            for size in [PageSize::Size2M, PageSize::Size1G]
                .into_iter()
                .filter(|&s| s <= size && format.supports(s))
            {
                let mut page = first.next_multiple_of(size.pages());
                let last = end / size.pages() * size.pages();
                while page < last {
                    let part = GpaRange::between(page, last);
                    page = self.collapse_chunk(part, size, kick, |one| match one {
                        Ok(()) => done.leaves += 1,
                        Err(_) => done.kept += 1,
                    })?;
                    tell(page.min(range.end_page()));
                }
                // A hole may go on behind it.
                next = next.max(page);
            }
            first = next.min(range.end_page());
            tell(first);
        }
        Ok(done)
    }

    /// Collapses the first tables of `range` that make a leaf of `size`, and says of each how it went;
    /// returns how far it came. Leaves of that size, and holes, are passed over without a word.
    fn collapse_chunk(
        &self,
        range: GpaRange,
        size: PageSize,
        kick: &impl Kick,
        mut sink: impl FnMut(Result<(), CollapseError>),
    ) -> Result<u64, InsideGuest> {
        if let Some(observer) = self.hub().inside_here() {
            return Err(InsideGuest { observer });
        }
        let _turn = self.resizes();
        let mut page = range.first_page();
        let structure = self.lock();
        let mut marked = Vec::new();
        for _ in 0..STEPS {
            if page >= range.end_page() || marked.len() == CHUNK {
                break;
            }
            match structure.walk().above(page, size) {
                Above::Table(slot) => {
                    match structure.mark(slot, page, size) {
                        Ok(()) => marked.push(page),
                        Err(error) => sink(Err(error)),
                    }
                    page += size.pages();
                }
                Above::Leaf(level) | Above::Hole(level) => page = level.next_page(page),
            }
        }
        let (Some(first), Some(last)) = (marked.first(), marked.last()) else { return Ok(page) };
        let range = GpaRange::between(*first, last + size.pages());
        let stamp = structure.begin_grace();
        drop(structure);
        let over = self.await_grace(stamp);
        if over && self.tree().format().resize() == Resize::BreakFirst {
            self.collapse_broken(range, marked, size, kick, sink)?;
            return Ok(page);
        }
        let mut waiting = Waiting { domain: self, replaced: Vec::new(), generation: None };
        let structure = self.lock();
        for page in marked {
            let replaced =
                if over { structure.replace(page, size) } else { Err(CollapseError::Busy) };
            match replaced {
                Ok(replaced) => waiting.replaced.push(replaced),
                Err(error) => {
                    structure.unmark(page, size);
                    sink(Err(error));
                }
            }
        }
        if waiting.replaced.is_empty() {
            return Ok(page);
        }
        // Begun under the lock: who splits a LATE leaf comes later, and so does every shoot-down of what
        //   becomes of it.
        let mut shootdown = Flush::structure(self.hub(), range).shootdown();
        waiting.generation = Some(shootdown.generation());
        drop(structure);
        shootdown.wait(kick)?;
        waiting.merge(size);
        waiting.replaced.iter().for_each(|_| sink(Ok(())));
        Ok(page)
    }

    /// Waits until the pins have ended that were held when the grace period began; false if they do not.
    fn await_grace(&self, stamp: u64) -> bool {
        let mut relax = Relax::default();
        (0..PATIENCE).any(|_| {
            let over = self.end_grace(stamp);
            if !over {
                relax.pause();
            }
            over
        })
    }
}

impl<F: Format, S: FrameSource> Structure<'_, F, S> {
    /// Marks the table that `slot` leads to, if its leaves make one of `size`.
    fn mark(&self, slot: &Slot, page: u64, size: PageSize) -> Result<(), CollapseError> {
        self.walk().taken_together(slot, page, size)?;
        loop {
            let seen = slot.load();
            // Lost only to the MMU, or to a carry, setting a bit in the entry.
            let marked = seen.with(Entry::COLLAPSING);
            if self.writer().exchange(slot, size.level(), seen, marked).is_ok() {
                return Ok(());
            }
        }
    }

    /// Takes the mark off again, if it is still there.
    fn unmark(&self, page: u64, size: PageSize) {
        if let Above::Table(slot) = self.walk().above(page, size) {
            self.walk().thwart(slot, size.level());
        }
    }

    /// Replaces the table by a leaf, if the mark stands.
    fn replace(&self, page: u64, size: PageSize) -> Result<Replaced, CollapseError> {
        let Above::Table(slot) = self.walk().above(page, size) else {
            return Err(CollapseError::Busy);
        };
        let (union, leaf) = self.walk().taken_together(slot, page, size)?;
        loop {
            let seen = slot.load();
            if !seen.has(Entry::COLLAPSING) {
                return Err(CollapseError::Busy);
            }
            // Takes effect here. Lost to the MMU setting a bit in the entry, or to who takes the mark
            // off.
            if let Ok(dead) = self.writer().replace(slot, size.level(), seen, leaf) {
                return Ok(Replaced { page, dead, union, leaf });
            }
        }
    }

    /// Drops the LATE mark of a leaf that stands, and gives it the bits that are in the dead table: every
    /// observer has come out, or acknowledged, since it was replaced.
    fn merge(&self, replaced: &Replaced, size: PageSize) {
        let &Replaced { page, ref dead, union, leaf } = replaced;
        let (walker, writer) = (self.walk(), self.writer());
        let format = walker.format();
        let marks = union.marks_now(format, writer.entries(dead));
        let Terminal { place: Place { slot, level, .. }, .. } = walker.descend(page);
        if level != size.level() {
            return;
        }
        loop {
            let seen = slot.load();
            let same = format.leaf_frame(size, seen) == format.leaf_frame(size, leaf);
            if !(format.is_present(seen) && seen.has(Entry::LATE) && same) {
                return;
            }
            let next = seen.with(marks).without(Entry::LATE);
            if writer.exchange(slot, level, seen, next).is_ok() {
                return walker.mark_above(page);
            }
        }
    }
}

/// What hangs in the slot of a leaf of some size.
pub(super) enum Above<'p> {
    /// A table of smaller leaves.
    Table(&'p Slot),
    /// Such a leaf, or a larger one, of this level.
    Leaf(Level),
    /// Neither, in all that a slot of this level translates.
    Hole(Level),
}

impl<'p, F: Format, S: FrameSource> Walker<'p, F, S> {
    /// Looks at the slot where a leaf of `size` for `page` would be.
    pub(super) fn above(self, page: u64, size: PageSize) -> Above<'p> {
        let (mut table, mut level) = self.root();
        loop {
            let slot = table.slot(level.index(page));
            match self.step(slot, level) {
                Next::Down(..) if level == size.level() => return Above::Table(slot),
                Next::Down(child, below) => (table, level) = (child, below),
                Next::Here(entry) if self.format().is_present(entry) => return Above::Leaf(level),
                Next::Here(_) => return Above::Hole(level),
            }
        }
    }

    /// Takes the leaves of the table that `slot` leads to together; returns them, and the leaf of `size`
    /// that says the same.
    pub(super) fn taken_together(
        self,
        slot: &'p Slot,
        page: u64,
        size: PageSize,
    ) -> Result<(Union, Entry), CollapseError> {
        let (Next::Down(table, _), Some(small)) = (self.step(slot, size.level()), size.smaller())
        else {
            return Err(CollapseError::Busy);
        };
        let entries = table.slots(0, SLOTS).iter().map(Slot::load);
        let union = Union::of(self.format(), small, entries).map_err(|uneven| {
            let gpa = |index: usize| Gpa::of_page(page + index as u64 * small.pages());
            match uneven {
                Uneven::Missing(index) => CollapseError::NotMapped { gpa: gpa(index) },
                Uneven::Differs(index) => CollapseError::Uneven { gpa: gpa(index) },
            }
        })?;
        Ok((union, union.leaf(self.format(), size)?))
    }
}

/// The dead tables of a collapse that waits for its shoot-down; retired when it is dropped, whatever
/// became of that. Where it was not complete, the LATE marks stay: they say what is so.
struct Waiting<'d, F: Format, S: FrameSource> {
    domain: &'d Domain<F, S>,
    replaced: Vec<Replaced>,
    /// The shoot-down's, which every observer has to have come to before they are freed.
    generation: Option<Generation>,
}

impl<F: Format, S: FrameSource> Waiting<'_, F, S> {
    /// Merges what the MMU left in the dead tables.
    fn merge(&self, size: PageSize) {
        let structure = self.domain.lock();
        for replaced in &self.replaced {
            structure.merge(replaced, size);
        }
    }
}

impl<F: Format, S: FrameSource> Drop for Waiting<'_, F, S> {
    fn drop(&mut self) {
        let dead: Vec<_> = self.replaced.drain(..).map(|replaced| replaced.dead).collect();
        if let Some(generation) = self.generation {
            self.domain.lock().retire_since(dead, generation.get());
        }
    }
}
