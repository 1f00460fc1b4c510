//! What a table maps, for people and for programs.
//!
//! A [`Dump`] is a copy: made by one scan of the leaves, and then as old as it is. Leaves that go on where the
//! one before ends, in guest memory and in host memory, and differ from it in no more than their accessed and
//! dirty bits, are one [`LeafRun`]; so its length is that of what the table says and not of the memory.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use crate::{
    addr::{GpaRange, HostPfn},
    arena::FrameSource,
    attr::Attr,
    format::Format,
    level::PageSize,
    mapping::Mapping,
    ops::OutOfRange,
    page_table::PageTable,
    pinned::Pinned,
};

/// What a table maps in a range; made by [`PageTable::dump`].
///
/// Printed, it is a line for each run, and nothing where nothing is mapped:
///
/// ```
/// # use slat::{Attr, Ept, EptCaps, Gpa, GpaRange, HeapFrames, HostPfn, Levels, MemType};
/// # use slat::{PageSize, PageTable, PhysWidth, Prot};
/// # let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// # let table = PageTable::new(ept, HeapFrames::new(16))?;
/// # let ram = GpaRange::new(Gpa::new(0), 0x40_0000)?;
/// # let device = GpaRange::new(Gpa::new(0xfee0_0000), 0x1000)?;
/// # table.populate_mapped(ram, PageSize::Size2M, HostPfn::new(0x200), Attr::new(Prot::RWX))?;
/// # let registers = Attr::new(Prot::RW).with_mem_type(MemType::UC);
/// # table.populate_mapped(device, PageSize::Size4K, HostPfn::new(0xfee00), registers)?;
/// # table.pin().slot(Gpa::new(0x20_0000))?.set_dirty();
/// let all = GpaRange::new(Gpa::new(0), 1 << 32)?;
/// let dump = table.dump(all)?;
/// assert_eq!(dump.runs()[1].attr.prot(), Prot::RW);
/// assert_eq!(
///     dump.to_string(),
///     "0x0..=0x3fffff           frames 0x200..=0x5ff      2M  rwx  WB  -  \
///      pages 1024  accessed 0  dirty 512\n\
///      0xfee00000..=0xfee00fff  frames 0xfee00..=0xfee00  4K  rw-  UC  -  \
///      pages    1  accessed 0  dirty   0"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// These are the first and last byte of guest memory, the first and last frame, the leaves' size, their
/// [rights](crate::Prot), memory type, flags and software bits (`-` for none), and numbers of 4 KiB pages.
/// No cell is empty, so every line has the same number of words. No newline ends the last one.
///
/// With the feature `serde` it can be serialized: an object with the `range` that was asked for, and the `runs`.
/// Addresses and frame numbers are strings, as they are printed: in a reader of JSON that keeps numbers as
/// `f64` the upper ones would not survive. Sizes, rights and memory types are printed as well, flags and software
/// bits are lists of names, numbers of pages are numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Dump {
    range: GpaRange,
    runs: Vec<LeafRun>,
}

/// Leaves of one size with equal attributes that map a range to consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeafRun {
    /// The guest pages that they map.
    pub range: GpaRange,
    /// The first host frame.
    pub pfn: HostPfn,
    /// The size of each leaf.
    pub size: PageSize,
    /// Rights, memory type, flags and software bits.
    pub attr: Attr,
    /// How many of the 4 KiB pages are accessed. A large leaf has one bit for all its pages, so they all count
    /// if it is set, here and in `dirty`.
    pub accessed: u64,
    /// How many of the 4 KiB pages are dirty.
    pub dirty: u64,
}

impl<F: Format, S: FrameSource> PageTable<F, S> {
    /// Returns what is mapped in `range`, for people and for programs; a large leaf at either end is included
    /// whole.
    ///
    /// Costs the tables of the range that exist, and memory for each run.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first address in the range that the format does not translate.
    ///
    /// # Concurrency
    /// As [`mappings`](Pinned::mappings): weakly consistent, each leaf as it stood when it was read. Takes no
    /// lock; holds one pin from the beginning to the end, so tables that are unlinked meanwhile are freed
    /// after it.
    pub fn dump(&self, range: GpaRange) -> Result<Dump, OutOfRange> {
        Dump::of(&self.pin(), range)
    }
}

impl Dump {
    /// Reads `range` under a pin of the caller's.
    pub(crate) fn of<F: Format, S: FrameSource>(
        pin: &Pinned<'_, F, S>,
        range: GpaRange,
    ) -> Result<Self, OutOfRange> {
        let mut runs: Vec<LeafRun> = Vec::new();
        for leaf in pin.mappings(range)? {
            match runs.last_mut() {
                Some(run) if run.goes_on_with(&leaf) => run.add(&leaf),
                _ => runs.push(LeafRun::of(&leaf)),
            }
        }
        Ok(Self { range, runs })
    }

    /// Returns the range that was asked for.
    #[must_use]
    pub fn range(&self) -> GpaRange {
        self.range
    }

    /// Returns the runs, in ascending order; each as long as it can be.
    #[must_use]
    pub fn runs(&self) -> &[LeafRun] {
        &self.runs
    }
}

impl LeafRun {
    fn of(leaf: &Mapping) -> Self {
        let Mapping { pfn, size, attr, .. } = *leaf;
        let (accessed, dirty) = marked(leaf);
        Self { range: leaf.range(), pfn, size, attr, accessed, dirty }
    }

    /// Tells whether the leaf belongs to the run as its next one.
    fn goes_on_with(&self, leaf: &Mapping) -> bool {
        self.range.end_page() == leaf.gpa.page()
            && self.pfn.checked_add(self.range.pages()) == Some(leaf.pfn)
            && (self.size, self.attr) == (leaf.size, leaf.attr)
    }

    fn add(&mut self, leaf: &Mapping) {
        let (accessed, dirty) = marked(leaf);
        self.range = self.range.hull(leaf.range());
        self.accessed += accessed;
        self.dirty += dirty;
    }

    /// Returns the last host frame.
    #[must_use]
    pub const fn last_pfn(&self) -> HostPfn {
        // Saturates only where a caller made the run up.
        HostPfn::new(self.pfn.get().saturating_add(self.range.pages() - 1))
    }

    /// Returns the cells of its line.
    fn cells(&self) -> [String; COLUMNS.len()] {
        let names = self.attr.flags().iter_names().map(|(name, _)| name);
        let names = names.chain(self.attr.soft().iter_names().map(|(name, _)| name));
        let names = names.collect::<Vec<_>>().join(",");
        [
            self.range.to_string(),
            format!("{}..={}", self.pfn, self.last_pfn()),
            self.size.to_string(),
            self.attr.prot().to_string(),
            self.attr.mem_type().to_string(),
            if names.is_empty() { "-".to_string() } else { names },
            self.range.pages().to_string(),
            self.accessed.to_string(),
            self.dirty.to_string(),
        ]
    }
}

/// Returns how many pages of the leaf are accessed, and how many dirty: all or none.
fn marked(leaf: &Mapping) -> (u64, u64) {
    let pages = |marked: bool| u64::from(marked) * leaf.size.pages();
    (pages(leaf.accessed), pages(leaf.dirty))
}

/// How a column of the text is filled up.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// What stands before each cell of a line, and how it is filled up.
const COLUMNS: [(&str, Align); 9] = [
    ("", Align::Left),
    ("  frames ", Align::Left),
    ("  ", Align::Left),
    ("  ", Align::Left),
    ("  ", Align::Left),
    ("  ", Align::Left),
    ("  pages ", Align::Right),
    ("  accessed ", Align::Right),
    ("  dirty ", Align::Right),
];

impl Dump {
    /// Returns its lines, aligned.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        // The cells are made twice, for the widths and for the text: to keep all would take many times the
        //   runs.
        let mut widths = [0; COLUMNS.len()];
        for run in &self.runs {
            for (width, cell) in widths.iter_mut().zip(run.cells()) {
                *width = cell.len().max(*width);
            }
        }
        self.runs.iter().map(move |run| {
            let cells = COLUMNS.iter().zip(widths).zip(run.cells());
            cells
                .map(|(((before, align), width), cell)| match align {
                    Align::Left => format!("{before}{cell:<width$}"),
                    Align::Right => format!("{before}{cell:>width$}"),
                })
                .collect()
        })
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.lines().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
