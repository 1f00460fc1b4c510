//! A plain cell with loom's interface, for the schedulers that do not look into it: shuttle's executions
//! are sequentially consistent, and real threads are watched from outside, by a sanitizer.
//!
//! shuttle parts threads at its own words only, so there is such a place before each access: else what was found of a
//! page and what is read in it would be one step.

use std::cell::UnsafeCell;

#[derive(Debug)]
pub(crate) struct Cell(UnsafeCell<u64>);

impl Cell {
    pub(crate) fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(*const u64) -> T) -> T {
        super::part();
        f(self.0.get())
    }

    pub(crate) fn with_mut<T>(&self, f: impl FnOnce(*mut u64) -> T) -> T {
        super::part();
        f(self.0.get())
    }
}
