//! Copy on write, over another backing.
//!
//! A page is in one of three states, and a lock guards them all:
//!
//! | state | `frame` answers | who leaves it |
//! | --- | --- | --- |
//! | the base's | what the base does, without the right to write | the first answer to a write: to *copying* |
//! | copying | `Wait`, to everybody | `fetch`: to *copied*, or back to *the base's* if it fails or panics |
//! | copied | the copy's frame, with all rights | the last release of the copy, once it was unmapped: to *the base's* |
//!
//! *The base's* is no entry in the map, so what is never written costs nothing. A write that was told to wait
//! and whose thread never fetches leaves the page copying; the next fault is told to wait too, and fetches.
//!
//! The fault path elsewhere has no lock, and this one does no harm there: it is this backing's own, held to look a page
//! up in a map and to count, never while a pool or the base is called. What it costs, a fault pays that
//! already leaves the guest; a page that is mapped meets it no more.

use alloc::{collections::BTreeMap, sync::Arc};
use core::mem;

use super::{
    Answer, Backing, BackingError, BeyondEnd, Ended, FramePool, OutOfMemory, Released, Want, extent,
};
use crate::{
    addr::{Gpa, HostPfn},
    attr::{Attr, Prot},
    level::PageSize,
    sync::Mutex,
};

/// A source of frames that can copy what is in them.
pub trait CopyPool: FramePool {
    /// Copies the 4 KiB of frame `from`, which may be any that a backing answers with, to frame `to`, which
    /// was taken from this pool. No pin is held; others may read `from` meanwhile.
    fn copy(&self, from: HostPfn, to: HostPfn);
}

/// A private view of another backing: its pages are shared until they are first written, and then copied.
///
/// A page stays a copy until it is unmapped for good; then it is the base's again. Leaves have 4 KiB.
///
/// It belongs to one region. If two had a page of it mapped, a page that was copied for one of them would stay
/// the base's in the other, and what either unmaps the other one may still need. Its base may be the base of
/// many.
///
/// # Concurrency
/// Each answer looks its page up under a lock of this backing; nothing of the base or the pool is called
/// under it.
#[derive(Debug)]
pub struct CopyOnWrite {
    base: Arc<dyn Backing>,
    pool: Arc<dyn CopyPool>,
    /// The pages that are not the base's.
    pages: Mutex<BTreeMap<u64, State>>,
}

/// Whose a page is, if it is not the base's.
#[derive(Clone, Copy, Debug)]
enum State {
    Copying,
    Copied(Copied),
}

/// A copy.
#[derive(Clone, Copy, Debug)]
struct Copied {
    frame: HostPfn,
    /// Answers with this frame that have not come back: mapped, or about to be.
    answers: u64,
    /// Whether one of them was unmapped. Others may be about to map the frame again, so it goes when the last
    /// has come back.
    unmapped: bool,
}

impl CopyOnWrite {
    /// Makes a view of `base`, whose copies are in frames of `pool`.
    #[must_use]
    pub fn new(base: Arc<dyn Backing>, pool: Arc<dyn CopyPool>) -> Self {
        Self { base, pool, pages: Mutex::new(BTreeMap::new()) }
    }

    /// Answers, unless the page is the base's and is not to be written.
    fn own_answer(&self, want: &Want) -> Option<Answer> {
        let mut pages = self.pages.lock();
        match pages.get_mut(&want.page) {
            Some(State::Copying) => Some(Answer::Wait),
            Some(State::Copied(copy)) => {
                // What is present is not given anew, and does not come back.
                copy.answers += u64::from(want.present != Some(copy.frame));
                Some(Answer::Frame(copy.frame, Prot::all()))
            }
            None if want.access.contains(Prot::W) => {
                pages.insert(want.page, State::Copying);
                Some(Answer::Wait)
            }
            None => None,
        }
    }

    /// Takes back one page.
    fn release_page(&self, released: Released) {
        let mut pages = self.pages.lock();
        let copy = match pages.get_mut(&released.page) {
            Some(State::Copied(copy)) if copy.frame == released.frame => copy,
            _ => {
                drop(pages);
                return self.base.release(released);
            }
        };
        copy.answers = copy.answers.saturating_sub(1);
        copy.unmapped |= released.ended != Ended::Unused;
        if copy.answers == 0 && copy.unmapped {
            pages.remove(&released.page);
            drop(pages);
            self.pool.give_back(released.frame, PageSize::Size4K);
        }
    }
}

impl Backing for CopyOnWrite {
    fn pages(&self) -> u64 {
        self.base.pages()
    }

    /// What the base says, but what it does not let be written can be: the copy.
    fn attr(&self, asked: Attr) -> Attr {
        let attr = self.base.attr(asked);
        attr.with_prot(attr.prot() | asked.prot() & Prot::W)
    }

    fn largest(&self, _page: u64, _gpa: Gpa) -> PageSize {
        PageSize::Size4K
    }

    fn frame(&self, want: &Want) -> Answer {
        if let Err(answer) = extent::check_small(want, self.pages()) {
            return answer;
        }
        if let Some(answer) = self.own_answer(want) {
            return answer;
        }
        match self.base.frame(want) {
            Answer::Frame(frame, rights) => Answer::Frame(frame, rights.difference(Prot::W)),
            other => other,
        }
    }

    fn fetch(&self, want: &Want) -> Result<(), BackingError> {
        BeyondEnd::check(want.page, self.pages()).map_err(BackingError::new)?;
        let state = self.pages.lock().get(&want.page).copied();
        match state {
            Some(State::Copying) => Copying::new(self, want.page).run(want.present),
            Some(State::Copied(_)) => Ok(()),
            // Another's copy failed since, and the base's frame may be mapped again: the fault asks anew.
            None if want.access.contains(Prot::W) => Ok(()),
            None => self.base.fetch(want),
        }
    }

    fn release(&self, released: Released) {
        // A collapse joins what was answered page by page.
        for index in 0..released.size.pages() {
            if let Some(frame) = released.frame.checked_add(index) {
                let page = released.page.saturating_add(index);
                self.release_page(Released { page, frame, size: PageSize::Size4K, ..released });
            }
        }
    }
}

impl Drop for CopyOnWrite {
    fn drop(&mut self) {
        // No region, fault or hold is left: these were copied, and never mapped.
        for state in mem::take(&mut *self.pages.lock()).into_values() {
            if let State::Copied(copy) = state {
                self.pool.give_back(copy.frame, PageSize::Size4K);
            }
        }
    }
}

/// A copy that is being made. If it does not come to its end, by an error or a panic, the page is the base's
/// again and every frame goes back where it was taken.
struct Copying<'a> {
    of: &'a CopyOnWrite,
    page: u64,
    /// The base's frame, if it was taken for the copy alone.
    from: Option<HostPfn>,
    /// The pool's.
    to: Option<HostPfn>,
}

impl<'a> Copying<'a> {
    const fn new(of: &'a CopyOnWrite, page: u64) -> Self {
        Self { of, page, from: None, to: None }
    }

    fn run(mut self, present: Option<HostPfn>) -> Result<(), BackingError> {
        let from = match present {
            Some(frame) => frame,
            None => self.take_source()?,
        };
        let to = self.of.pool.take(PageSize::Size4K);
        let to = to.ok_or_else(|| BackingError::new(OutOfMemory { page: self.page }))?;
        self.to = Some(to);
        self.of.pool.copy(from, to);
        if let Some(state @ State::Copying) = self.of.pages.lock().get_mut(&self.page) {
            *state = State::Copied(Copied { frame: to, answers: 0, unmapped: false });
            self.to = None;
        }
        Ok(())
    }

    /// Asks the base for its frame, to read it once.
    fn take_source(&mut self) -> Result<HostPfn, BackingError> {
        let want = Want::new(self.page, PageSize::Size4K, Prot::R);
        loop {
            match self.of.base.frame(&want) {
                Answer::Frame(frame, _) => {
                    self.from = Some(frame);
                    return Ok(frame);
                }
                Answer::Wait => self.of.base.fetch(&want)?,
                Answer::Failed(error) => return Err(error),
                Answer::Smaller => {
                    return Err(BackingError::new("the base has no page as small as 4 KiB"));
                }
            }
        }
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let size = PageSize::Size4K;
        if let Some(frame) = self.to.take() {
            self.of.pool.give_back(frame, size);
        }
        if let Some(frame) = self.from.take() {
            self.of.base.release(Released::unused(self.page, frame, size));
        }
        let mut pages = self.of.pages.lock();
        if let Some(State::Copying) = pages.get(&self.page) {
            pages.remove(&self.page);
        }
    }
}
