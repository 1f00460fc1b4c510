//! Claims about observers, flushes and reclamation. Tables are unlinked by hand.

mod due;
mod flush;
mod kick;
mod limbo;
mod observer;
mod shootdown;

use alloc::{sync::Arc, vec, vec::Vec};
use core::ops::Deref;
use std::thread;

use super::*;
use crate::{
    addr::{Gpa, GpaRange, HostPfn},
    arena::{Content, FrameSource, HeapFrames},
    attr::{Attr, Prot},
    entry::Entry,
    format::{AnyFormat, Ept, EptCaps, Format, Npt, PhysWidth, Tracking},
    level::{Level, Levels, PageSize},
    mmu::{Access, TranslationCache},
    page_table::PageTable,
    table::Next,
};

type Table = PageTable<AnyFormat, Arc<HeapFrames>>;

const RWX: Attr = Attr::new(Prot::RWX);
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

fn range(start: u64, bytes: u64) -> GpaRange {
    GpaRange::new(Gpa::new(start), bytes).unwrap()
}

fn ept() -> AnyFormat {
    Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL).into()
}

/// A kick for those who need none.
fn nobody(id: ObserverId) {
    panic!("{id} is kicked");
}

/// A table that checks that every frame comes back.
struct Rig {
    table: Option<Table>,
    frames: Arc<HeapFrames>,
}

impl Rig {
    fn new() -> Self {
        Self::of(ept())
    }

    fn of(format: AnyFormat) -> Self {
        let frames = Arc::new(HeapFrames::new(32));
        Self { table: Some(PageTable::new(format, Arc::clone(&frames)).unwrap()), frames }
    }

    /// Populates two leaf tables, and maps the first page of each.
    fn mapped() -> Self {
        let rig = Self::new();
        rig.populate(range(0, 4 * MIB), PageSize::Size4K).unwrap();
        rig.map(0, 7);
        rig.map(2 * MIB, 8);
        rig
    }

    fn map(&self, gpa: u64, frame: u64) {
        let pfn = HostPfn::new(frame);
        self.pin().map(Gpa::new(gpa), pfn, PageSize::Size4K, RWX).unwrap();
    }

    fn free(&self) -> u64 {
        self.frames.free_frames()
    }

    /// Takes the leaf table out that translates `gpa`, as vacate does, leaves and all.
    fn unlink(&self, gpa: u64) {
        let page = Gpa::new(gpa).page();
        let span = PageSize::Size2M.leaf_range(page);
        let structure = self.domain().lock();
        let walker = structure.walk();
        let (mut table, mut level) = walker.root();
        while level > Level::L2 {
            let Next::Down(below, next) = walker.step(table.slot(level.index(page)), level) else {
                panic!("nothing is populated at {gpa:#x}");
            };
            (table, level) = (below, next);
        }
        let slot = table.slot(level.index(page));
        let dead = structure.writer().unlink(slot, level, 1, Content::Unknown);
        structure.retire(vec![dead], span);
    }

    /// Begins a generation that makes `range` stale, as a shoot-down does.
    fn announce(&self, range: GpaRange) {
        self.domain().hub().announce(Stale::new(range, Scope::Leaves));
    }

    /// Makes the duty to invalidate `range`, of which nothing was mapped.
    fn duty(&self, range: GpaRange) -> Flush<'_> {
        let mut covered = Covered::default();
        covered.add(range, Entry::EMPTY);
        Flush::new(self.domain().hub(), covered)
    }

    /// Shoots a duty down that nobody holds up.
    fn serve(&self, flush: Flush<'_>) {
        let done = flush.shootdown().poll();
        assert_eq!(done, Progress::Complete);
    }

    fn generation(&self) -> u64 {
        self.stats().generation.get()
    }
}

impl Deref for Rig {
    type Target = Table;

    fn deref(&self) -> &Table {
        self.table.as_ref().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.table.take());
        if !thread::panicking() {
            assert_eq!(self.free(), self.frames.capacity(), "frames in = frames out");
        }
    }
}

/// Returns what is due, as addresses; `None` if everything is.
fn due(inside: &Inside<'_, AnyFormat, Arc<HeapFrames>>) -> Option<Vec<(GpaRange, Scope)>> {
    match inside.due() {
        Due::None => Some(vec![]),
        Due::Ranges(ranges) => Some(ranges.iter().map(|it| (it.range, it.scope)).collect()),
        Due::All => None,
    }
}
