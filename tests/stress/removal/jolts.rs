//! A frame source that makes its callers stumble: now and then a thread stops in the middle of a walk
//! until tables have come or gone, so that this happens between two of its steps.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, ScopedJoinHandle},
    vec::Vec,
};

use slat::HostPfn;

use crate::common::{Frames, Over, frame_source_over};

/// One of so many steps from table to table is the last one for a while.
const RARITY: u32 = 64;
/// How often a thread that stumbled gives its processor away at most, if nothing happens.
const PATIENCE: u32 = 20;

#[derive(Debug)]
pub(crate) struct Jolts {
    pub(crate) frames: Frames,
    /// How often tables came or went; who stops waits for the next time.
    turns: AtomicU64,
    /// How often a thread stopped where it was told to.
    stops: AtomicU64,
}

thread_local! {
    /// A generator of the xorshift kind, since a step must not cost more; zero, and so it stays, where
    /// a thread does not stumble.
    static DICE: Cell<u32> = const { Cell::new(0) };
    /// Where a thread stops, the next place first.
    static STOPS: RefCell<VecDeque<Stop>> = const { RefCell::new(VecDeque::new()) };
}

/// Lets this thread stumble.
pub(crate) fn stumble(seed: u64) {
    DICE.set(seed as u32 | 1);
}

/// A place where a thread stops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// After so many steps from table to table, counted from the last stop.
    pub(crate) steps: u32,
    /// Until so many turns have come.
    pub(crate) turns: u64,
}

/// Stops this thread at each of these places, on its way from now on.
pub(crate) fn stop_at(stops: &[Stop]) {
    STOPS.replace(stops.iter().copied().collect());
}

impl Jolts {
    pub(crate) fn new(frames: Frames) -> Self {
        Self { frames, turns: AtomicU64::new(0), stops: AtomicU64::new(0) }
    }

    /// Says that tables came or went.
    pub(crate) fn turn(&self) {
        // Release: what was done before is done for who was waiting.
        self.turns.fetch_add(1, Ordering::Release);
    }

    /// Returns how often a thread has stopped.
    pub(crate) fn stops(&self) -> u64 {
        self.stops.load(Ordering::Acquire)
    }

    /// Gives the processor away until a turn comes, or for a while.
    pub(crate) fn linger(&self) {
        let turn = self.turns.load(Ordering::Relaxed);
        let waits = |_: &u32| self.turns.load(Ordering::Relaxed) == turn;
        (0..PATIENCE).take_while(waits).for_each(|_| thread::yield_now());
    }

    /// Waits until as many threads have stopped, or this one is done.
    pub(crate) fn wait_for<T>(&self, stops: u64, thread: &ScopedJoinHandle<'_, T>) {
        while self.stops() < stops && !thread.is_finished() {
            thread::yield_now();
        }
    }

    fn jolt(&self) {
        let mut dice = DICE.get();
        dice ^= dice << 13;
        dice ^= dice >> 17;
        dice ^= dice << 5;
        DICE.set(dice);
        if dice % RARITY == 1 {
            self.linger();
        }
        let next = STOPS.with_borrow_mut(|stops| {
            stops.pop_front_if(|next| {
                let here = next.steps == 0;
                next.steps = next.steps.saturating_sub(1);
                here
            })
        });
        if let Some(Stop { turns, .. }) = next {
            let turn = self.turns.load(Ordering::Acquire) + turns;
            self.stops.fetch_add(1, Ordering::Release);
            while self.turns.load(Ordering::Acquire) < turn {
                thread::yield_now();
            }
        }
    }
}

impl Over for Jolts {
    type Source = Frames;

    fn source(&self) -> &Frames {
        &self.frames
    }

    fn before_table(&self, _pfn: HostPfn) {
        self.jolt();
    }
}

frame_source_over!(Jolts);
