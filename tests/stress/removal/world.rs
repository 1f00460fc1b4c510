//! The table that is raced for: its areas, its data frames, and how its vCPUs are kicked.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    vec::Vec,
};

use rand::{RngExt, rngs::SmallRng};
use slat::{Flush, Format, Generation, Gpa, GpaRange, Mapped, ObserverId, Pinned, Shootdown};

use super::{
    jolts::Jolts,
    ledger::{Ledger, Used},
};
use crate::common::{BASE, Checked, Frames, GIB, MIB, PAGE, RWX, SMALL, at};

/// More than all areas need, and few enough that what waits to be freed can use them up.
const TABLES: u64 = 192;
const DATA: u64 = 600;

pub(crate) type Pin<'r, F> = Pinned<'r, F, Arc<Jolts>>;

/// Pages that come and go, and behind them one that stays.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) first: u64,
    pub(crate) pages: u64,
    /// Which pages are populated. Who has the lock is the only one to change the area's structure.
    pub(crate) shape: Mutex<Vec<bool>>,
    /// The page behind, populated and mapped throughout, to this frame.
    pub(crate) stays: Gpa,
    /// Set while nobody may write the page that stays: a shoot-down of its write right is complete.
    pub(crate) sealed: AtomicBool,
}

impl Area {
    fn new(first: u64, pages: u64) -> Self {
        let shape = Mutex::new(vec![false; pages as usize]);
        let stays = Gpa::new((first + pages) * PAGE);
        Self { first, pages, shape, stays, sealed: AtomicBool::new(false) }
    }

    /// Returns some pages, by their number in the area.
    pub(crate) fn part(&self, first: u64, pages: u64) -> GpaRange {
        assert!(first + pages <= self.pages + 1);
        GpaRange::from_pages(at((self.first + first) * PAGE), pages).unwrap()
    }

    /// Returns one of the few pages that all threads meet at: on both sides of each end of a table, and
    /// of the area.
    pub(crate) fn some_page(&self, rng: &mut SmallRng) -> u64 {
        let corner = match rng.random_range(0..4) {
            0 => 0,
            1 => self.pages,
            2 => self.first.next_multiple_of(512) - self.first,
            _ => self.pages / 2,
        };
        (corner + rng.random_range(0..10)).saturating_sub(5).min(self.pages - 1)
    }

    pub(crate) fn page(&self, page: u64) -> Gpa {
        self.part(page, 1).start()
    }

    /// Returns some pages that follow each other, from one of those.
    pub(crate) fn some_pages(&self, rng: &mut SmallRng) -> GpaRange {
        let first = self.some_page(rng);
        self.part(first, rng.random_range(1..=12).min(self.pages - first))
    }
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct World<F: Format> {
    pub(crate) table: Checked<F, Jolts>,
    pub(crate) ledger: Ledger,
    pub(crate) areas: Vec<Area>,
    /// The sticky flag of each vCPU.
    flags: Mutex<Vec<(ObserverId, Arc<AtomicBool>)>>,
    /// The greatest generation that a shoot-down is known to be complete to.
    completed: Mutex<Option<Generation>>,
}

impl<F: Format> World<F> {
    pub(crate) fn new(format: F) -> Self {
        let table = Checked::with(format, Jolts::new(Frames::with_base(BASE, TABLES)));
        let areas = vec![
            // Whole leaf tables, and nothing else: they go by their parent's slots.
            Area::new(2 * MIB / PAGE, 1024),
            // Ragged at both ends, over a table of each kind; the upper end shares a table that stays.
            Area::new(GIB / PAGE - 540, 1080),
            // Over the end of a table of a higher level yet.
            Area::new(512 * GIB / PAGE - 30, 60),
        ];
        let world = Self {
            table,
            ledger: Ledger::new(DATA),
            areas,
            flags: Mutex::default(),
            completed: Mutex::default(),
        };
        world.areas.iter().for_each(|area| world.map_what_stays(area));
        world
    }

    fn map_what_stays(&self, area: &Area) {
        self.table.populate(area.part(area.pages, 1), SMALL).unwrap();
        let pfn = self.ledger.lend(self.ledger.take().unwrap(), area.stays);
        assert_eq!(self.table.pin().map(area.stays, pfn, SMALL, RWX), Ok(Mapped::New));
    }

    pub(crate) fn some_area(&self, rng: &mut SmallRng) -> &Area {
        &self.areas[rng.random_range(0..self.areas.len())]
    }

    /// Lists a vCPU under which `kick` finds its flag.
    pub(crate) fn enlist(&self, id: ObserverId) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        self.flags.lock().unwrap().push((id, Arc::clone(&flag)));
        flag
    }

    pub(crate) fn retire(&self, id: ObserverId) {
        self.flags.lock().unwrap().retain(|(listed, _)| *listed != id);
    }

    /// Makes an observer come out, or acknowledge; those that do so by themselves have no flag.
    pub(crate) fn kick(&self, id: ObserverId) {
        let flags = self.flags.lock().unwrap();
        if let Some((_, flag)) = flags.iter().find(|(listed, _)| *listed == id) {
            // Release: the generation of the shoot-down comes before.
            flag.store(true, Ordering::Release);
        }
    }

    pub(crate) fn wait(&self, shootdown: &mut Shootdown<'_>) {
        shootdown.wait(&|id| self.kick(id)).unwrap();
        self.note(shootdown.generation());
    }

    /// Notes that a shoot-down is complete.
    pub(crate) fn note(&self, generation: Generation) {
        let mut completed = self.completed.lock().unwrap();
        *completed = (*completed).max(Some(generation));
    }

    pub(crate) fn completed(&self) -> Option<Generation> {
        *self.completed.lock().unwrap()
    }

    /// Shoots down all that was ever unmapped, and recycles what is certainly unmapped.
    pub(crate) fn flush_all(&self, used: impl IntoIterator<Item = Used>) {
        let duty: Flush<'_> = self.table.flush_all();
        self.wait(&mut duty.shootdown());
        self.ledger.recycle(used);
    }
}
