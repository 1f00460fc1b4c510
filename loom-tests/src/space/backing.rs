//! Backings that know who has their frames.

use std::{collections::BTreeSet, sync::Arc};

use slat::{
    Answer, Backing, BackingError, CopyPool, Ended, FramePool, HostPfn, PageSize, Prot, Released,
    Want,
};

use super::{GONE, Ram};
use crate::{frame, sched::Lock};

/// Frames with contents, each of which is in one hand: the pool's, or who has taken it.
#[derive(Debug)]
pub struct Pool {
    ram: Arc<Ram>,
    count: usize,
    free: Lock<BTreeSet<u64>>,
    /// What the next frame that is taken contains, if each contains something else.
    next: Option<Lock<u64>>,
}

impl Pool {
    pub(super) fn new(ram: &Arc<Ram>, first: u64, end: u64) -> Self {
        let free: BTreeSet<u64> = (first..end).map(|number| frame(number).get()).collect();
        for &number in &free {
            ram.write(HostPfn::new(number), GONE);
        }
        Self { ram: Arc::clone(ram), count: free.len(), free: Lock::new(free), next: None }
    }

    /// Has each frame that is taken contain another number, so that it can be told whose it is.
    #[must_use]
    pub(super) fn numbered(mut self) -> Self {
        self.next = Some(Lock::new(0));
        self
    }

    fn contents(&self) -> u64 {
        let next = |next: &mut u64| {
            *next += 1;
            *next
        };
        self.next.as_ref().map_or(0, |lock| lock.with(next))
    }

    /// Returns how many frames are taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        (self.count - self.free.with(|free| free.len())) as u64
    }
}

impl FramePool for Pool {
    fn take(&self, size: PageSize) -> Option<HostPfn> {
        assert_eq!(size, PageSize::Size4K);
        let frame = HostPfn::new(self.free.with(BTreeSet::pop_first)?);
        self.ram.write(frame, self.contents());
        Some(frame)
    }

    fn give_back(&self, frame: HostPfn, size: PageSize) {
        assert_eq!(size, PageSize::Size4K);
        self.ram.write(frame, GONE);
        let is_new = self.free.with(|free| free.insert(frame.get()));
        assert!(is_new, "{frame} came back twice");
    }
}

impl CopyPool for Pool {
    fn copy(&self, from: HostPfn, to: HostPfn) {
        self.ram.write(to, self.ram.read(from));
    }
}

/// One page that is always the same frame, and perhaps has to be fetched.
///
/// The frame belongs to who was answered with it, until the last answer has come back.
#[derive(Debug)]
pub struct Lot {
    ram: Arc<Ram>,
    frame: HostPfn,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// Answers that have not come back.
    answers: u64,
    /// Whether it has to be fetched.
    is_away: bool,
    /// How often it was.
    fetches: u64,
}

impl Lot {
    pub(super) fn new(ram: &Arc<Ram>, number: u64) -> Self {
        ram.write(frame(number), GONE);
        let state = Lock::new(State { answers: 0, is_away: false, fetches: 0 });
        Self { ram: Arc::clone(ram), frame: frame(number), state }
    }

    /// Says that the page has to be fetched.
    pub fn send_away(&self) {
        self.state.with(|state| state.is_away = true);
    }

    /// Returns how many answers have not come back.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.state.with(|state| state.answers)
    }

    /// Returns how often the page was fetched.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.state.with(|state| state.fetches)
    }
}

impl Backing for Lot {
    fn pages(&self) -> u64 {
        1
    }

    fn frame(&self, want: &Want) -> Answer {
        self.state.with(|state| {
            if state.is_away {
                return Answer::Wait;
            }
            if want.present != Some(self.frame) {
                if state.answers == 0 {
                    self.ram.write(self.frame, 0);
                }
                state.answers += 1;
            }
            Answer::Frame(self.frame, Prot::all())
        })
    }

    fn fetch(&self, _want: &Want) -> Result<(), BackingError> {
        self.state.with(|state| {
            state.is_away = false;
            state.fetches += 1;
        });
        Ok(())
    }

    fn release(&self, released: Released) {
        assert_eq!(released.frame, self.frame);
        self.state.with(|state| {
            state.answers = state.answers.checked_sub(1).expect("it came back once too often");
            if state.answers == 0 {
                self.ram.write(self.frame, GONE);
            } else {
                assert_eq!(
                    released.ended,
                    Ended::Unused,
                    "others are answered with what was unmapped"
                );
            }
        });
    }
}
