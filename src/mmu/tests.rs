//! The MMU on hand-made tables.
//!
//! Entries are spelled as raw bits here, taken from the manuals: neither the encoders nor the MMU's
//! own constants are used to say what must happen.

#![expect(unsafe_code, reason = "plants entries and walks them")]

mod bits;
mod cache;
mod ept;
mod formats;
#[cfg(feature = "std")]
mod race;
mod roots;
mod x86;

use alloc::vec::Vec;

use super::*;
use crate::{
    addr::{Gpa, HostPfn},
    arena::{FrameSource, HeapFrames, Hint},
    entry::Entry,
    format::{AnyFormat, Ept, EptCaps, Format, PhysWidth, Tracking},
    level::{Level, Levels},
    table::Slot,
};

const BOTH_MODES: [Levels; 2] = [Levels::Four, Levels::Five];
const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];

/// R, W and X in EPT; P, W and U elsewhere.
const ALL: u64 = 0b111;
/// Bit 7 of an upper entry: a leaf.
const LARGE: u64 = 1 << 7;
/// A frame aligned to 1 GiB, within 40 bits.
const DATA: u64 = 0x12_4000_0000;

/// One path of tables from the root down, one table a level.
struct Rig {
    format: AnyFormat,
    frames: HeapFrames,
    /// By level, from L1.
    tables: Vec<HostPfn>,
    /// Indexes 5, 4, 3, 2 (and 1) from L1 up, so that no level can be mistaken for another.
    gpa: Gpa,
}

impl Rig {
    /// Links the tables with entries that allow everything; nothing is mapped.
    fn new(format: impl Into<AnyFormat>) -> Self {
        let format = format.into();
        let levels = u64::from(format.levels().count());
        let frames = HeapFrames::new(6);
        let mut runs = Vec::new();
        frames.allocate(6, Hint::new(Gpa::new(0)), &mut runs).unwrap();
        let first = runs[0].first.get();
        let tables: Vec<_> = (0..6).map(|n| HostPfn::new(first + n)).collect();
        let page = (0..levels).fold(0, |page, n| page | (5 - n) << (9 * n));
        let rig = Self { format, frames, tables, gpa: Gpa::new(page << 12 | 0x678) };
        rig.link_all();
        rig
    }

    fn root(&self) -> Level {
        self.format.levels().root()
    }

    /// Levels at which a table entry can stand.
    fn upper(&self) -> impl Iterator<Item = Level> + use<> {
        let root = self.root();
        Level::ALL.into_iter().filter(move |&level| level > Level::L1 && level <= root)
    }

    fn link_all(&self) {
        for level in self.upper() {
            self.plant(level, self.link(level));
        }
    }

    /// The entry of `level` that points at the next table and allows everything.
    fn link(&self, level: Level) -> u64 {
        self.tables[level as usize - 2].get() << 12 | ALL
    }

    /// Plants an entry on the path.
    fn plant(&self, level: Level, raw: u64) {
        self.plant_in(self.tables[level as usize - 1], level, raw);
    }

    fn plant_in(&self, table: HostPfn, level: Level, raw: u64) {
        // SAFETY: the frame is the rig's own, and no test plants a table entry of another frame.
        let table = unsafe { self.frames.table(table) };
        // SAFETY: as above; no `PageTable` owns it.
        unsafe { table.plant(level.index(self.gpa.page()), Entry::from_raw(raw)) };
    }

    /// Plants a leaf as large as `level` has them, with these bits below its frame and above.
    fn plant_leaf(&self, level: Level, bits: u64) {
        let large = if level == Level::L1 { 0 } else { LARGE };
        self.plant(level, DATA | large | bits);
    }

    fn slot(&self, level: Level) -> &Slot {
        // SAFETY: the frame is the rig's own and never given back.
        let table = unsafe { self.frames.table(self.tables[level as usize - 1]) };
        table.slot(level.index(self.gpa.page()))
    }

    fn raw(&self, level: Level) -> u64 {
        self.slot(level).load().raw()
    }

    fn mmu(&self) -> Mmu<'_, HeapFrames> {
        let root = self.tables[self.root() as usize - 1];
        self.try_mmu(self.format.root_pointer(root, Tracking::On)).unwrap()
    }

    fn try_mmu(&self, root_pointer: u64) -> Result<Mmu<'_, HeapFrames>, BadRootPointer> {
        // SAFETY: all planted table entries, and the roots that tests make up, name the rig's frames
        // (or are refused); none is ever given back.
        unsafe { Mmu::new(self.format, &self.frames, root_pointer) }
    }

    /// Translates the rig's address; the frame, or the fault.
    fn reach(&self, access: Access) -> Result<u64, Fault> {
        self.mmu().translate(self.gpa, access).map(|found| found.pfn.get())
    }

    /// The frame that the rig's address has in a leaf of `level`.
    fn frame_at(&self, level: Level) -> u64 {
        (DATA >> 12) + (self.gpa.page() & ((1 << (9 * (level as u64 - 1))) - 1))
    }
}

const EVERYTHING: EptCaps = EptCaps::USUAL;

/// EPT with 46 address bits, or as the test wants it.
fn ept(levels: Levels, caps: EptCaps) -> Ept {
    Ept::new(levels, PhysWidth::new(46).unwrap(), caps)
}
