//! The whole tree, as an MMU would find it: read through the frame source, table by table.

use std::{sync::Arc, vec::Vec};

use slat::{Entry, Format, FrameSource, HostPfn, Kind, Level, PageTable, SLOTS};

type Handle<F, S> = PageTable<F, Arc<S>>;

/// One slot: the level and frame of its table, its index, its first page number (as the index bits
/// give it, without a sign) and what it holds.
pub(crate) type Line = (Level, HostPfn, usize, u64, Entry);

/// Returns every slot of every table, from the root down. Nobody changes the tree meanwhile.
///
/// # Panics
/// If an entry has a bit that its format does not define.
pub(crate) fn dump<F: Format, S: FrameSource>(table: &Handle<F, S>) -> Vec<Line> {
    let mut lines = Vec::new();
    visit(table, table.root(), table.format().levels().root(), 0, &mut |line| lines.push(line));
    lines
}

fn visit<F: Format, S: FrameSource>(
    table: &Handle<F, S>,
    frame: HostPfn,
    level: Level,
    first: u64,
    line: &mut impl FnMut(Line),
) {
    // SAFETY: the frame is the root's, or was read from a table entry of a tree that is still alive
    // and that nobody changes.
    let slots = unsafe { table.frames().table(frame) };
    for index in 0..SLOTS {
        let entry = slots.entry(index).unwrap();
        assert!(
            table.format().is_well_formed(level, entry),
            "{entry:?} at {level:?}, slot {index}, is none of {}'s",
            table.format().name()
        );
        let page = first + index as u64 * level.span_pages();
        line((level, frame, index, page, entry));
        if let (Kind::Table(child), Some(below)) =
            (table.format().kind(level, entry), level.below())
        {
            visit(table, child, below, page, line);
        }
    }
}

/// Returns the populated pages as ascending runs of (first page number, count).
pub(crate) fn populated<F: Format, S: FrameSource>(table: &Handle<F, S>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    visit(table, table.root(), table.format().levels().root(), 0, &mut |line| {
        let (level, _, _, page, entry) = line;
        let pages = match table.format().kind(level, entry) {
            Kind::Empty | Kind::Leaf => level.span_pages(),
            _ => return,
        };
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += pages,
            _ => runs.push((page, pages)),
        }
    });
    runs
}

/// Returns every slot's level, first page number and entry, or `None` where a table hangs there:
/// the tree but for the frames that its tables are in.
pub(crate) fn shape<F: Format, S: FrameSource>(
    table: &Handle<F, S>,
) -> Vec<(Level, u64, Option<Entry>)> {
    let mut slots = Vec::new();
    visit(table, table.root(), table.format().levels().root(), 0, &mut |line| {
        let (level, _, _, page, entry) = line;
        let is_table = matches!(table.format().kind(level, entry), Kind::Table(_));
        slots.push((level, page, (!is_table).then_some(entry)));
    });
    slots
}

/// How many tables there are, and what is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) tables: u64,
    pub(crate) leaves: u64,
    pub(crate) empty: u64,
}

pub(crate) fn census<F: Format, S: FrameSource>(table: &Handle<F, S>) -> Census {
    let mut census = Census { tables: 1, ..Census::default() };
    visit(table, table.root(), table.format().levels().root(), 0, &mut |line| match table
        .format()
        .kind(line.0, line.4)
    {
        Kind::Table(_) => census.tables += 1,
        Kind::Leaf => census.leaves += 1,
        Kind::Empty => census.empty += 1,
        _ => {}
    });
    census
}

/// Returns the frame of the table of `level` on the way to `gpa`.
#[track_caller]
pub(crate) fn table_frame<F: Format, S: FrameSource>(
    table: &Handle<F, S>,
    gpa: slat::Gpa,
    level: Level,
) -> HostPfn {
    let pin = table.pin();
    let walk = pin.walk(gpa, Level::L1);
    let above = walk.iter().find(|step| step.level.below() == Some(level));
    above.map_or(table.root(), |step| table.format().table_frame(step.entry))
}
