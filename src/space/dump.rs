//! What a space has, for people and for programs.

use alloc::{format, string::String, vec::Vec};
use core::{fmt, num::NonZero};

use super::{region::Region, shared::Shared};
use crate::{
    addr::{Gpa, GpaRange, PAGE_BYTES},
    arena::FrameSource,
    attr::Attr,
    bitmap::Bitmap,
    dump::Dump,
    format::{Format, Tracking},
    heat::Heat,
    ops::Mark,
    pinned::Pinned,
};

/// Which pages a [heat map](crate::Space::heat) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageState {
    /// Those that are mapped.
    Resident,
    /// Those that are accessed.
    Accessed,
    /// Those that are dirty.
    Dirty,
}

/// The regions of a space, and what is resident of each; made by [`Space::dump`](crate::Space::dump).
///
/// Printed, it is a line for each region, and below it, indented, the lines of its [`Dump`]. With the feature
/// `serde` it can be serialized: an object with `tracked` and the list of `regions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SpaceDump {
    tracked: bool,
    regions: Vec<RegionDump>,
}

/// A region, and what is resident of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegionDump {
    /// Where it is.
    pub range: GpaRange,
    /// What its leaves have at most.
    pub attr: Attr,
    /// Where in the backing it begins, in bytes.
    pub offset: u64,
    /// How the backing describes itself, for people.
    pub backing: String,
    /// How many of its frames somebody holds.
    pub held: u64,
    /// How many of its 4 KiB pages are resident.
    pub resident: u64,
    /// What is mapped.
    pub leaves: Dump,
}

impl SpaceDump {
    /// Tells whether writes were tracked.
    #[must_use]
    pub fn tracked(&self) -> bool {
        self.tracked
    }

    /// Returns the regions, in ascending order.
    #[must_use]
    pub fn regions(&self) -> &[RegionDump] {
        &self.regions
    }
}

impl RegionDump {
    fn of<F: Format, S: FrameSource>(pin: &Pinned<'_, F, S>, region: &Region) -> Self {
        let Region { range, attr, offset, ref ground, .. } = *region;
        let leaves = Dump::of(pin, range).expect("a region is of input addresses");
        // One that somebody has collapsed may go on beyond the region.
        let here = leaves.runs().iter().filter_map(|run| run.range.overlap(range));
        let resident = here.map(GpaRange::pages).sum();
        Self {
            range,
            attr,
            offset: offset * PAGE_BYTES,
            backing: format!("{:?}", ground.backing),
            held: ground.holds.count(),
            resident,
            leaves,
        }
    }
}

impl<F: Format, S: FrameSource> Shared<F, S> {
    pub(super) fn dump(&self) -> SpaceDump {
        self.with_agent(|agent| {
            let pin = agent.reader.pin();
            let layout = pin.read(&self.layout);
            let regions = layout.regions.iter().map(|region| RegionDump::of(&pin, region));
            SpaceDump { tracked: layout.tracking == Tracking::On, regions: regions.collect() }
        })
    }

    pub(super) fn heat(&self, state: PageState, cells: NonZero<usize>) -> Vec<Heat> {
        self.with_agent(|agent| {
            let pin = agent.reader.pin();
            let layout = pin.read(&self.layout);
            let heat = |region: &Region| Heat::new(&pages(&pin, region.range, state), cells);
            layout.regions.iter().map(heat).collect()
        })
    }
}

/// Returns the pages of `range` that are in this state.
fn pages<F: Format, S: FrameSource>(
    pin: &Pinned<'_, F, S>,
    range: GpaRange,
    state: PageState,
) -> Bitmap {
    let mut found = Bitmap::new(range);
    let mark = match state {
        PageState::Accessed => Mark::Accessed,
        PageState::Dirty => Mark::Dirty,
        PageState::Resident => {
            let leaves = pin.mappings(range).expect("a region is of input addresses");
            for part in leaves.filter_map(|leaf| leaf.range().overlap(range)) {
                found.set_range(part).expect("the bitmap is of the range");
            }
            return found;
        }
    };
    pin.query(range, mark, &mut found).expect("the bitmap is of the range");
    found
}

impl fmt::Display for SpaceDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, region) in self.regions.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            region.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for RegionDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, attr, offset, backing, held, resident, leaves } = self;
        let (prot, mem_type, pages) = (attr.prot(), attr.mem_type(), range.pages());
        write!(
            f,
            "{range}  {prot}  {mem_type}  resident {resident} of {pages}  held {held}  \
             at {} of {backing}",
            Gpa::new(*offset)
        )?;
        for run in leaves.lines() {
            write!(f, "\n    {run}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
