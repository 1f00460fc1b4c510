//! What all handles of a space share, and what all its operations are made of.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use super::{
    agent::Agent,
    hold::Held,
    region::{Layout, Region},
    stats::Stripes,
    tracking::Altered,
};
use crate::{
    addr::GpaRange,
    arena::FrameSource,
    epoch::Snapshot,
    format::{Format, Tracking},
    level::PageSize,
    observe::{Flush, InsideGuest, Kick, ObserverId},
    ops::SplitError,
    page_table::PageTable,
    sync::Mutex,
};

/// Unmaps that many pages, at most, before it shoots them down: what is noted of them meanwhile stays small.
const CHUNK: PageSize = PageSize::Size1G;

pub(super) struct Shared<F: Format, S: FrameSource> {
    pub(super) table: PageTable<F, S>,
    /// Replaced under `changes` alone.
    pub(super) layout: Snapshot<Layout>,
    /// Held by who changes regions, over all of it. The fault path does not take it.
    pub(super) changes: Mutex<Changes>,
    pub(super) stripes: Stripes,
    /// For threads that have no handle of their own.
    agents: Mutex<Vec<Agent<F, S>>>,
    /// Written holds that are to be noted before the next look for dirty pages.
    pub(super) deferred: Mutex<Vec<Held>>,
    /// Written pages that got another frame while writes were tracked, and were not reported yet.
    pub(super) moved: Mutex<Vec<GpaRange>>,
    kick: Kicks,
}

/// What belongs to who changes regions.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// While writes are tracked: pages whose contents have changed otherwise than by a write, and were not
    /// reported yet.
    pub(super) altered: Altered,
}

pub(super) struct Kicks(Box<dyn Kick + Send + Sync>);

impl Kick for Kicks {
    fn kick(&self, observer: ObserverId) {
        self.0.kick(observer);
    }
}

impl<F: Format, S: FrameSource> Shared<F, S> {
    pub(super) fn new(table: PageTable<F, S>, kick: impl Kick + Send + Sync + 'static) -> Self {
        let layout = Layout { regions: Vec::new(), tracking: Tracking::Off, closed: None };
        Self {
            layout: table.domain().snapshot(layout),
            table,
            changes: Mutex::new(Changes::default()),
            stripes: Stripes::default(),
            agents: Mutex::new(Vec::new()),
            deferred: Mutex::new(Vec::new()),
            moved: Mutex::new(Vec::new()),
            kick: Kicks(Box::new(kick)),
        }
    }

    pub(super) fn kick(&self) -> &Kicks {
        &self.kick
    }

    /// Lends an agent to a thread that has none.
    pub(super) fn with_agent<T>(&self, work: impl FnOnce(&Agent<F, S>) -> T) -> T {
        let agent = self.agents.lock().pop().unwrap_or_else(|| Agent::new(self));
        let lent = Lent { agents: &self.agents, agent: Some(agent) };
        work(lent.agent.as_ref().expect("it is taken only by drop"))
    }

    /// Returns a copy of the layout.
    pub(super) fn layout(&self) -> Layout {
        self.with_agent(|agent| agent.reader.pin().read(&self.layout).clone())
    }

    /// Says if the caller's thread is inside an observer, for which it would have to wait.
    pub(super) fn check_outside(&self) -> Result<(), InsideGuest> {
        match self.table.domain().hub().inside_here() {
            Some(observer) => Err(InsideGuest { observer }),
            None => Ok(()),
        }
    }

    /// Waits for who is changing regions. Call it with no pin held.
    pub(super) fn wait_for_change(&self) -> Result<(), InsideGuest> {
        // They may be waiting for the caller's own observer.
        self.check_outside()?;
        drop(self.changes.lock());
        Ok(())
    }

    /// Makes `layout` the one that faults see, and waits for those that have seen another. The caller holds
    /// `changes`.
    pub(super) fn publish(&self, layout: Layout) {
        self.table.domain().replace(&self.layout, layout);
    }

    /// Serves a flush: kicks, and waits. The caller has made sure that its thread is outside.
    pub(super) fn serve(&self, flush: Flush<'_>) -> Result<(), InsideGuest> {
        flush.shootdown().wait(&self.kick)
    }

    /// Returns the duty to invalidate all that is cached of `range`, also on account of what others have
    /// unmapped there up to now and not yet shot down.
    pub(super) fn flush(&self, range: GpaRange) -> Flush<'_> {
        Flush::structure(self.table.domain().hub(), range)
    }

    /// Serves what a change has to shoot down in `range`, and what a fault has taken away there, to replace
    /// it, and not yet shot down.
    pub(super) fn serve_with<'f>(
        &'f self,
        range: GpaRange,
        flushes: impl IntoIterator<Item = Flush<'f>>,
    ) {
        let mut all = self.flush(range);
        for flush in flushes {
            all.merge(flush).expect("there is one table");
        }
        self.serve(all).expect("the caller is outside");
    }

    /// Splits the large leaves that `range` cuts.
    pub(super) fn split_edges(&self, range: GpaRange) -> Result<(), SplitError> {
        for gpa in [range.start(), range.last()] {
            while let Some(leaf) = self.with_agent(|agent| agent.reader.pin().lookup(gpa)) {
                if range.covers(leaf.range()) {
                    break;
                }
                let size =
                    leaf.size.smaller().expect("a 4 KiB leaf is in every range that it meets");
                match self.table.split(gpa, size, &self.kick) {
                    Ok(()) | Err(SplitError::NotMapped { .. } | SplitError::Busy) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Unmaps all of `part`, which is of `region`, shoots it down, and gives the frames back. Returns how
    /// many pages that were.
    ///
    /// The caller holds `changes`, is outside, and has split what `part` cuts. Nobody maps anything there
    /// any more; or what is mapped meanwhile may stay.
    pub(super) fn empty(&self, region: &Region, part: GpaRange) -> u64 {
        // They hold frames, and may be of this part; and nobody has to look for dirty pages ever.
        self.note_deferred();
        chunks(part).map(|chunk| self.empty_chunk(region, chunk)).sum()
    }

    fn empty_chunk(&self, region: &Region, chunk: GpaRange) -> u64 {
        let mut removed = Vec::new();
        let pages = self.with_agent(|agent| {
            let (pages, flush) = loop {
                let pin = agent.reader.pin();
                let unmapped = pin.unmap_range(chunk, |leaf| removed.push(region.released(&leaf)));
                drop(pin);
                match unmapped {
                    Ok(unmapped) => break unmapped,
                    // Somebody has collapsed leaves across the region's end meanwhile.
                    Err(_) => {
                        let _ = self.split_edges(chunk);
                    }
                }
            };
            agent.stripe.unmapped.add(pages);
            self.serve_with(chunk, [flush]);
            pages
        });
        if pages > 0 {
            // Who looked a leaf up before it went.
            self.wait_for_pins();
        }
        removed.into_iter().for_each(|released| region.ground.release(released));
        pages
    }

    /// Waits until every pin has ended that is held now.
    pub(super) fn wait_for_pins(&self) {
        self.table.domain().wait_for_pins();
    }
}

/// An agent that goes back to the others, also if the work panics.
struct Lent<'s, F: Format, S: FrameSource> {
    agents: &'s Mutex<Vec<Agent<F, S>>>,
    /// `None` only while it is dropped.
    agent: Option<Agent<F, S>>,
}

impl<F: Format, S: FrameSource> Drop for Lent<'_, F, S> {
    fn drop(&mut self) {
        self.agents.lock().extend(self.agent.take());
    }
}

/// Cuts a range into chunks, where no leaf can lie across.
pub(super) fn chunks(range: GpaRange) -> impl Iterator<Item = GpaRange> {
    parts(range, CHUNK)
}

/// Cuts a range into what leaves of `size` would map.
pub(super) fn parts(range: GpaRange, size: PageSize) -> impl Iterator<Item = GpaRange> {
    let mut first = range.first_page();
    core::iter::from_fn(move || {
        (first < range.end_page()).then(|| {
            let end = size.leaf_range(first).end_page().min(range.end_page());
            GpaRange::between(core::mem::replace(&mut first, end), end)
        })
    })
}

impl<F: Format, S: FrameSource> Drop for Shared<F, S> {
    /// Gives back what is mapped: nobody has a handle, or a hold, any more.
    fn drop(&mut self) {
        // An observer of the table's own may be inside here; then nobody knows when it is out, and the frames
        //   are lost.
        if self.check_outside().is_ok() {
            for region in &self.layout().regions {
                self.empty(region, region.range);
            }
        }
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Shared<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("table", &self.table).finish_non_exhaustive()
    }
}
