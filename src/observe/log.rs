//! The log: what the last few generations made stale.
//!
//! A ring of cells, written under the hub's lock and read without one. A generation finds its cell by
//! its number, and a cell says of which generation it is; it counts only if it says so before and
//! after it is read (a sequence lock). So a cell that is older (nothing was logged for that
//! generation, or not yet), newer (the ring has gone round) or half written reads as *unknown*, and a
//! reader that does not know takes everything for stale.

use super::due::{Scope, Stale};
use crate::{
    addr::GpaRange,
    sync::{AtomicU64, Ordering},
};

/// How many generations the log goes back.
pub(super) const CELLS: usize = 8;

/// What each of the last generations made stale, where it was logged.
#[derive(Debug)]
pub(super) struct Log([Cell; CELLS]);

#[derive(Debug)]
struct Cell {
    /// The generation that the cell is of, or 0 while it is written.
    generation: AtomicU64,
    /// The first page, shifted left by one; bit 0 is the scope.
    first: AtomicU64,
    /// The page after the last.
    end: AtomicU64,
}

impl Log {
    pub(super) fn new() -> Self {
        let cell = || Cell {
            generation: AtomicU64::new(0),
            first: AtomicU64::new(0),
            end: AtomicU64::new(0),
        };
        Self(core::array::from_fn(|_| cell()))
    }

    fn cell(&self, generation: u64) -> &Cell {
        &self.0[(generation % CELLS as u64) as usize]
    }

    /// Notes what `generation` made stale. One caller at a time.
    pub(super) fn write(&self, generation: u64, stale: Stale) {
        let cell = self.cell(generation);
        let structure = u64::from(stale.scope == Scope::Structure);
        // Relaxed: it comes before both words, which release it.
        cell.generation.store(0, Ordering::Relaxed);
        // Release: whoever reads one of the new words finds the cell torn, or its new generation;
        //   pairs with `read` [edge: log].
        cell.first.store(stale.range.first_page() << 1 | structure, Ordering::Release);
        cell.end.store(stale.range.end_page(), Ordering::Release);
        // Release: both words come before; pairs with `read` [edge: log].
        cell.generation.store(generation, Ordering::Release);
    }

    /// Returns what `generation` made stale, if that is known.
    pub(super) fn read(&self, generation: u64) -> Option<Stale> {
        let cell = self.cell(generation);
        // Acquire: the words are those of this generation, or later ones; pairs with `write`
        //   [edge: log].
        if cell.generation.load(Ordering::Acquire) != generation {
            return None;
        }
        // Acquire: if a later writer's word is read, so is what it did before; pairs with `write`
        //   [edge: log].
        let first = cell.first.load(Ordering::Acquire);
        let end = cell.end.load(Ordering::Acquire);
        // Relaxed: the loads above put it last.
        if cell.generation.load(Ordering::Relaxed) != generation {
            return None;
        }
        let scope = if first & 1 == 0 { Scope::Leaves } else { Scope::Structure };
        Some(Stale::new(GpaRange::between(first >> 1, end), scope))
    }
}
