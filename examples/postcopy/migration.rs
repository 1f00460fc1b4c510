//! The migration: sets up both sides, and lets all of them go.

use std::{io, os::unix::net::UnixStream, sync::Arc, thread, time::Instant};

use slat::{
    Arena, ArenaError, Attr, BadPhysWidth, CreateError, Ept, EptCaps, FramesError, GpaRange,
    Levels, MapRegionError, ObserverId, PageTable, PhysWidth, Prot, RangeError, Space, SpaceStats,
    Supplied, Supplier,
};

use crate::{
    content::Content,
    destination::{Arrivals, Destination, ReceiveError},
    memory::{FIRST, Memory, NoMemory},
    options::Options,
    plan::Plan,
    progress::Progress,
    source::{Account, Source, SourceError},
    vcpu::{Guest, Outcome, START},
    wire::WireError,
};

/// Width of physical addresses: usual for a server.
const PHYS_BITS: u8 = 46;

/// Why there is nothing to migrate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Width(#[from] BadPhysWidth),
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error(transparent)]
    Table(#[from] CreateError),
    #[error(transparent)]
    Frames(#[from] FramesError),
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error(transparent)]
    Region(#[from] MapRegionError),
}

/// A guest that is about to be resumed elsewhere.
pub(crate) struct Migration {
    pub(crate) content: Content,
    /// The source's.
    from: Memory,
    /// The destination's: nothing is there yet.
    pub(crate) memory: Memory,
    pub(crate) space: Space<Ept, Arena>,
    pub(crate) range: GpaRange,
    pub(crate) supplier: Supplier,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) vcpus: Vec<Outcome>,
    pub(crate) arrivals: Arrivals,
    pub(crate) received: Result<(), ReceiveError>,
    pub(crate) sent: Result<Account, SourceError>,
    /// How many pages were asked for.
    pub(crate) requests: Result<u64, WireError>,
    pub(crate) stats: SpaceStats,
}

impl Migration {
    /// Makes both sides: the source's memory, full; and for the destination a space of one region.
    pub(crate) fn new(pages: u64, seed: u64) -> Result<Self, SetUpError> {
        let content = Content::new(seed);
        let from = Memory::filled(pages, content)?;
        let memory = Memory::empty(pages)?;
        let format = Ept::new(Levels::Four, PhysWidth::new(PHYS_BITS)?, EptCaps::USUAL);
        let table = PageTable::new(format, Arena::new(tables(pages))?)?;
        // Pages only come: there is never anything to be shot down, and nobody to be kicked for it.
        let space = Space::new(table, |_: ObserverId| ());
        let (backing, supplier) = Supplied::new(FIRST, pages)?;
        let range = GpaRange::from_pages(START, pages)?;
        space.map_region(range, Arc::new(backing), 0, Attr::new(Prot::RW))?;
        Ok(Self { content, from, memory, space, range, supplier })
    }

    /// Resumes the guest, and brings its memory.
    pub(crate) fn run(&self, options: &Options, progress: &Progress) -> Result<Run, SetUpError> {
        let (near, far) = UnixStream::pair()?;
        let source = Source {
            memory: &self.from,
            pages: options.pages(),
            background: options.background(),
            bandwidth: options.bandwidth,
            trouble: options.trouble(),
        };
        let Self { memory, supplier, space, .. } = self;
        let destination = Destination::new(memory, supplier, options.patience, progress);
        let vcpus = usize::from(options.vcpus);
        let (sent, received, requests, outcomes) = thread::scope(|scope| {
            let guests = (0..vcpus).map(|number| {
                let guest = self.guest(number, options, destination.begun);
                let vcpu = space.vcpu();
                scope.spawn(move || guest.run(vcpu))
            });
            let guests: Vec<_> = guests.collect();
            let sending = scope.spawn(|| source.serve(&far));
            let receiving = scope.spawn(|| destination.receive(&near));
            let requesting = scope.spawn(|| destination.request(&near));
            let outcomes: Vec<_> = guests.into_iter().map(thread::ScopedJoinHandle::join).collect();
            // Nobody is left to wait for a page; what is on its way still comes.
            supplier.close();
            let panicked = "it says what is wrong, and does not panic";
            (
                sending.join().expect(panicked),
                receiving.join().expect(panicked),
                requesting.join().expect(panicked),
                outcomes.into_iter().map(|outcome| outcome.expect(panicked)).collect(),
            )
        });
        let (arrivals, received) = match received {
            Ok(arrivals) => (arrivals, Ok(())),
            Err((arrivals, error)) => (arrivals, Err(error)),
        };
        Ok(Run { vcpus: outcomes, arrivals, received, sent, requests, stats: space.stats() })
    }

    fn guest(&self, number: usize, options: &Options, begun: Instant) -> Guest<'_> {
        let Self { content, ref memory, ref supplier, .. } = *self;
        let Options { vcpus, seed, fault_order, .. } = *options;
        let plan = Plan::new(content, number, seed, fault_order, options.pages());
        Guest { number, vcpus: vcpus.into(), content, plan, memory, supplier, begun }
    }
}

/// Returns how many frames the tables of so many pages take at most.
const fn tables(pages: u64) -> u64 {
    // One more at each level, since a range may begin in the middle of a table; and the root.
    let (mut tables, mut below) = (1, pages);
    let mut level = 1;
    while level < 4 {
        below = below.div_ceil(512) + 1;
        tables += below;
        level += 1;
    }
    tables
}

#[cfg(test)]
mod tests;
