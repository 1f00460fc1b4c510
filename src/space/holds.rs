//! The frames of one backing that somebody holds, and what is put off until they do not.
//!
//! Who takes a hold enters the frame under the pin under which it found it mapped. A frame that is unmapped is
//! given back when the pins have ended that were held then, under the lock of this list; or it is put on it, if it is
//! held.

use alloc::{collections::BTreeMap, vec::Vec};

use super::backing::Released;
use crate::{addr::HostPfn, sync::Mutex};

#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// How often each frame is held; never 0.
    frames: BTreeMap<u64, u64>,
    /// What was unmapped while some frame of it was held.
    put_off: Vec<Released>,
    /// Whether the backing is no longer in its region.
    gone: bool,
}

impl Held {
    fn is_held(&self, released: &Released) -> bool {
        let first = released.frame.get();
        self.frames.range(first..first + released.size.pages()).next().is_some()
    }
}

impl Holds {
    /// Enters a frame.
    pub(super) fn add(&self, frame: HostPfn) {
        *self.0.lock().frames.entry(frame.get()).or_default() += 1;
    }

    /// Takes a frame out again. Returns whether the backing is gone, and what can be given back now.
    pub(super) fn remove(&self, frame: HostPfn) -> (bool, Vec<Released>) {
        let mut held = self.0.lock();
        let count = held.frames.get_mut(&frame.get()).expect("the frame was entered");
        *count -= 1;
        if *count == 0 {
            held.frames.remove(&frame.get());
        }
        let put_off = core::mem::take(&mut held.put_off);
        let (still, free) = put_off.into_iter().partition(|released| held.is_held(released));
        held.put_off = still;
        (held.gone, free)
    }

    /// Returns what can be given back at once; what cannot is, later.
    pub(super) fn put_off(&self, released: Released) -> Option<Released> {
        let mut held = self.0.lock();
        if held.is_held(&released) {
            held.put_off.push(released);
            return None;
        }
        Some(released)
    }

    /// Says that the backing is no longer in its region.
    pub(super) fn set_gone(&self) {
        self.0.lock().gone = true;
    }

    /// Tells whether the backing is no longer in its region.
    pub(super) fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// Returns how many frames are held.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().frames.len() as u64
    }
}
