//! One thread's dealings with the table: it maps frames of its own, unmaps whatever is there, and
//! sees to it that what it unmapped can be used again.

use std::{
    mem,
    sync::{Arc, mpsc::Sender},
    vec::Vec,
};

use rand::{RngExt, rngs::SmallRng};
use slat::{
    Flush, Format, Gpa, GpaRange, HostPfn, MapError, MapRangeError, Mapped, Mapping, Progress,
    Prot, Reader, UnmapError,
};

use super::{
    jolts::Jolts,
    ledger::Used,
    world::{Area, Pin, World},
};
use crate::common::{PAGE, RWX, SMALL, at};

/// A duty that goes to another thread, and the frames that wait for it.
pub(crate) type Parcel<'w> = (Flush<'w>, Vec<Used>);

/// What one thread has, and what it has seen.
pub(crate) struct Hand<'w, F: Format> {
    pub(crate) world: &'w World<F>,
    pub(crate) rng: SmallRng,
    /// Unmapped, and the duty that came with it.
    used: Vec<Used>,
    duty: Option<Flush<'w>>,
    /// Unmapped, and its duty is lost, or there never was one.
    lost: Vec<Used>,
    pub(crate) tally: Tally,
}

/// What happened, to see that it did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) new: u64,
    pub(crate) vacated: u64,
    pub(crate) late: u64,
    pub(crate) reached: u64,
    /// Dirty bits that an MMU set, less those that somebody was told of.
    pub(crate) dirty: i64,
}

impl Tally {
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            new: self.new + other.new,
            vacated: self.vacated + other.vacated,
            late: self.late + other.late,
            reached: self.reached + other.reached,
            dirty: self.dirty + other.dirty,
        }
    }
}

impl<'w, F: Format> Hand<'w, F> {
    pub(crate) fn new(world: &'w World<F>, rng: SmallRng) -> Self {
        let (used, lost) = (Vec::new(), Vec::new());
        Self { world, rng, used, duty: None, lost, tally: Tally::default() }
    }

    /// Settles what a map of a frame that is the table's by now came to.
    fn mapped(&mut self, pfn: HostPfn, mapped: Result<Mapped, MapError>) {
        let ledger = &self.world.ledger;
        match mapped {
            // Somebody else's unmap may have it already.
            Ok(Mapped::New) => self.tally.new += 1,
            Err(MapError::Occupied(there)) => {
                assert_ne!(there.pfn, pfn, "nobody else has the frame");
                ledger.put([ledger.refused(pfn)]);
            }
            Err(MapError::NotPopulated { .. }) => ledger.put([ledger.refused(pfn)]),
            Err(MapError::Vacated { dirty, .. }) => {
                self.tally.late += 1;
                // Invariant 2: through a paging-structure cache an MMU came there.
                self.tally.dirty -= i64::from(dirty);
                self.lost.push(ledger.unmapped(pfn));
            }
            other => panic!("{other:?}: nobody else has {pfn}"),
        }
    }

    pub(crate) fn unmapped(&mut self, mapping: &Mapping) {
        let used = self.world.ledger.unmapped(mapping.pfn);
        self.tally.dirty -= i64::from(mapping.dirty);
        self.used.push(used);
    }

    pub(crate) fn owe(&mut self, flush: Flush<'w>) {
        match &mut self.duty {
            Some(duty) => duty.merge(flush).unwrap(),
            None => self.duty = Some(flush),
        }
    }

    /// Maps one page, as a fault handler does.
    pub(crate) fn map(&mut self, pin: &Pin<'_, F>, gpa: Gpa) -> Option<Result<Mapped, MapError>> {
        let pfn = self.world.ledger.lend(self.world.ledger.take()?, gpa);
        let mapped = match self.rng.random_range(0..3) {
            0 => pin.slot(gpa).unwrap().map(pfn, SMALL, RWX),
            _ => pin.map(gpa, pfn, SMALL, RWX),
        };
        self.mapped(pfn, mapped);
        Some(mapped)
    }

    fn map_many(&mut self, pin: &Pin<'_, F>) {
        let ledger = &self.world.ledger;
        let area = self.world.some_area(&mut self.rng);
        let frames = (0..self.rng.random_range(0..20)).map_while(|_| ledger.take());
        let pages: Vec<_> = frames
            .map(|frame| {
                let gpa = area.page(area.some_page(&mut self.rng));
                (gpa, ledger.lend(frame, gpa))
            })
            .collect();
        let mut pfns = pages.clone().into_iter();
        pin.map_many(pages, RWX, |gpa, mapped| {
            let (next, pfn) = pfns.next().unwrap();
            assert_eq!(gpa, next);
            self.mapped(pfn, mapped);
        });
    }

    fn map_range(&mut self, pin: &Pin<'_, F>) {
        let range = self.world.some_area(&mut self.rng).some_pages(&mut self.rng);
        let Some(frames) = self.world.ledger.take_run(range.pages()) else { return };
        let lend = |(page, frame)| self.world.ledger.lend(frame, range_page(range, page));
        let pfns: Vec<_> = (0..).zip(frames).map(lend).collect();
        let (done, error) = match pin.map_range(range, pfns[0], RWX) {
            Ok(done) => (done, None),
            Err(MapRangeError::Page { done, source }) => (done, Some(source)),
            other => panic!("{other:?}"),
        };
        assert_eq!(done.same, 0, "nobody else has the frames");
        let (new, refused) = pfns.split_at(done.new as usize);
        new.iter().for_each(|&pfn| self.mapped(pfn, Ok(Mapped::New)));
        if let (Some((&pfn, rest)), Some(error)) = (refused.split_first(), error) {
            self.mapped(pfn, Err(error));
            let ledger = &self.world.ledger;
            ledger.put(rest.iter().map(|&pfn| ledger.refused(pfn)));
        }
        assert_eq!(refused.is_empty(), error.is_none());
    }

    pub(crate) fn unmap_range(&mut self, pin: &Pin<'w, F>, range: GpaRange) {
        let mut count = 0;
        let (pages, flush) = pin
            .unmap_range(range, |mapping| {
                count += 1;
                self.unmapped(&mapping);
            })
            .unwrap();
        assert_eq!((pages, flush.is_empty()), (count, count == 0));
        self.owe(flush);
    }

    /// Does anything that can be done under a pin.
    pub(crate) fn step(&mut self, reader: &Reader<F, Arc<Jolts>>) {
        let area = self.world.some_area(&mut self.rng);
        let gpa = area.page(area.some_page(&mut self.rng));
        match self.rng.random_range(0..16) {
            0..5 => drop(self.map(&reader.pin(), gpa)),
            5 => self.map_many(&reader.pin()),
            6 => self.map_range(&reader.pin()),
            7 | 8 => self.reset(&reader.pin(), gpa),
            9 => self.look(&reader.pin(), gpa),
            10 => {
                let gone = reader.pin().unmap(gpa);
                if let Ok((mapping, flush)) = gone {
                    self.tally.dirty -= i64::from(mapping.dirty);
                    let used = self.world.ledger.unmapped(mapping.pfn);
                    self.world.wait(&mut flush.shootdown());
                    self.world.ledger.recycle([used]);
                }
            }
            // The duties of a reader's pins do not outlive the reader; these go to other threads.
            _ => self.take_away(&self.world.table.pin(), area, gpa),
        }
    }

    /// Takes leaves, or rights, away.
    fn take_away(&mut self, pin: &Pin<'w, F>, area: &Area, gpa: Gpa) {
        let flush = match self.rng.random_range(0..5) {
            0..2 => match pin.unmap(gpa) {
                Ok((mapping, flush)) => {
                    assert_eq!(mapping.gpa, gpa);
                    self.unmapped(&mapping);
                    flush
                }
                Err(error) => return assert_eq!(error, UnmapError::NotMapped { gpa }),
            },
            2 => {
                let count = self.rng.random_range(0..20);
                let pages: Vec<_> =
                    (0..count).map(|_| area.page(area.some_page(&mut self.rng))).collect();
                pin.unmap_many(pages, |_, gone| {
                    gone.iter().for_each(|mapping| self.unmapped(mapping));
                })
            }
            3 => {
                let range = area.some_pages(&mut self.rng);
                return self.unmap_range(pin, range);
            }
            _ => {
                let prot = [Prot::R, Prot::RW, Prot::RWX][self.rng.random_range(0..3)];
                pin.protect(area.some_pages(&mut self.rng), prot).unwrap().1
            }
        };
        self.owe(flush);
    }

    fn reset(&mut self, pin: &Pin<'_, F>, gpa: Gpa) {
        let slot = pin.slot(gpa).unwrap();
        match self.rng.random_range(0..3) {
            0 => drop(slot.clear_accessed()),
            1 => drop(slot.set_accessed()),
            _ => self.tally.dirty -= i64::from(slot.clear_dirty()),
        }
    }

    fn look(&mut self, pin: &Pin<'_, F>, gpa: Gpa) {
        if let Some(there) = pin.lookup(gpa) {
            assert_eq!((there.gpa, there.size), (gpa, SMALL));
        }
    }

    /// Serves the duty of what was unmapped, in one of several ways, and recycles the frames. No pin
    /// is held.
    pub(crate) fn serve(&mut self, shooter: &Sender<Parcel<'w>>) {
        if self.rng.random_range(0..8) == 0 && self.lost.len() > 4 {
            self.world.flush_all(self.lost.drain(..));
        }
        let Some(duty) = self.duty.take() else { return };
        let used = mem::take(&mut self.used);
        match self.rng.random_range(0..8) {
            // Nobody serves it: its pages are not used again.
            0 => {
                drop(duty);
                self.lost.extend(used);
            }
            // Another has served it, perhaps.
            1 if duty.is_served() => self.world.ledger.recycle(used),
            // Begun, and given up.
            1 => {
                drop(duty.shootdown());
                self.lost.extend(used);
            }
            2 | 3 => shooter.send((duty, used)).unwrap(),
            4 => self.poll(duty, used),
            _ => {
                self.world.wait(&mut duty.shootdown());
                self.world.ledger.recycle(used);
            }
        }
    }

    /// Returns all frames that nobody served, when the thread is done. The duty is dropped.
    pub(crate) fn close(mut self) -> (Vec<Used>, Tally) {
        self.used.append(&mut self.lost);
        (self.used, self.tally)
    }

    /// Looks now and then, and goes on meanwhile: with what it holds it may not do without.
    fn poll(&mut self, duty: Flush<'w>, used: Vec<Used>) {
        let mut shootdown = duty.shootdown();
        for _ in 0..10 {
            if shootdown.poll() == Progress::Complete {
                break;
            }
            let laggards: Vec<_> = shootdown.laggards().collect();
            laggards.into_iter().for_each(|id| self.world.kick(id));
            let reader = self.world.table.reader();
            self.step(&reader);
        }
        self.world.wait(&mut shootdown);
        self.world.ledger.recycle(used);
    }
}

fn range_page(range: GpaRange, page: u64) -> Gpa {
    at(range.start().get() + page * PAGE)
}
