//! The fault path: finds the region, asks its backing, and maps.
//!
//! An [`Agent`] is what one thread needs for that. One try runs under one pin, from the look at the layout to
//! the compare-exchange of the leaf, and so on account of one layout: who changes regions waits for it
//! ([`Layout`](super::region::Layout)). A try that needs something slow says what, and it is done with no pin held:
//! a table for smaller leaves, a shoot-down, or a page that has to be fetched. Then comes another try, which
//! knows nothing of the first: the region may be gone, or another.
//!
//! A page is fetched by one thread at a time ([`fetches`](super::fetches)). When it has the claim it tries once
//! more, since who had it before may have brought the page. Then it waits for the pins: whoever was
//! answered by the backing before it said [`Wait`](super::backing::Answer::Wait) has mapped what it was told. A leaf that does
//! not allow the access is unmapped, and shot down, before the backing is let go on. So by the time that
//! another frame is there to be mapped, nobody reaches the old one, and nobody will map it.

mod attempt;

use alloc::sync::Arc;
use core::{cell::Cell, fmt};

use self::attempt::Try;
use super::{
    backing::{Released, Want},
    errors::FaultError,
    fetches::Claim,
    region::Ground,
    shared::Shared,
    stats::Stripe,
};
use crate::{
    addr::Gpa,
    arena::FrameSource,
    attr::Prot,
    format::{Format, Tracking},
    level::PageSize,
    ops::{RefineError, SplitError},
    reader::Reader,
};

/// What a fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The page is mapped and allows the access, now or already: let the guest try again.
    Resolved,
    /// Another is fetching the page, or the region's backing is being replaced: let the guest try again,
    /// or do something else first.
    Retry,
}

/// Whether to wait for a page that another is fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    Wait,
}

/// What one thread needs to resolve faults.
pub(super) struct Agent<F: Format, S: FrameSource> {
    pub(super) reader: Reader<F, S>,
    pub(super) stripe: Arc<Stripe>,
    /// The index of the region of the last fault.
    last: Cell<usize>,
    /// How many pages to map around one that faulted, itself included.
    around: u64,
}

impl<F: Format, S: FrameSource> Agent<F, S> {
    pub(super) fn new(shared: &Shared<F, S>) -> Self {
        let (reader, stripe) = (shared.table.reader(), shared.stripes.take());
        Self { reader, stripe, last: Cell::new(0), around: 1 }
    }

    pub(super) fn set_around(&mut self, pages: u64) {
        self.around = pages;
    }

    /// Resolves a fault, and counts it.
    #[inline]
    pub(super) fn fault(
        &self,
        shared: &Shared<F, S>,
        gpa: Gpa,
        access: Prot,
        patience: Patience,
    ) -> Result<Fault, FaultError> {
        self.stripe.faults.add(1);
        match self.resolve(shared, gpa, access, patience) {
            Ok(Some(_)) => Ok(Fault::Resolved),
            Ok(None) => {
                self.stripe.retries.add(1);
                Ok(Fault::Retry)
            }
            Err(error) => {
                self.stripe.refused.add(1);
                Err(error)
            }
        }
    }

    /// Sees to it that the page is mapped and allows `access`; returns the size of its leaf, or `None` if
    /// another has to be waited for.
    #[inline]
    pub(super) fn resolve(
        &self,
        shared: &Shared<F, S>,
        gpa: Gpa,
        access: Prot,
        patience: Patience,
    ) -> Result<Option<PageSize>, FaultError> {
        match self.attempt(shared, gpa, access)? {
            Try::Resolved(size) => Ok(Some(size)),
            other => self.resolve_slowly(shared, gpa, access, patience, other),
        }
    }

    #[cold]
    fn resolve_slowly<'r>(
        &'r self,
        shared: &Shared<F, S>,
        gpa: Gpa,
        access: Prot,
        patience: Patience,
        first: Try<'r>,
    ) -> Result<Option<PageSize>, FaultError> {
        let mut next = first;
        let mut claim: Option<Claim> = None;
        let mut fetched = false;
        loop {
            match next {
                Try::Resolved(size) => return Ok(Some(size)),
                Try::Again => {}
                Try::Closed if patience == Patience::None => return Ok(None),
                Try::Closed => shared.wait_for_change()?,
                Try::Refine(size) => self.refine(gpa, size)?,
                Try::Split(size) => self.split(shared, gpa, size)?,
                Try::Serve(flush) => shared.serve(flush)?,
                Try::Watch(flush) => {
                    shared.serve(flush)?;
                    // Whatever was written unnoticed until then. Gone, if it fails: it was reported.
                    let _ = self.reader.pin().note_dirty(gpa);
                }
                Try::Fetch(ground, want) => {
                    // One for another page is dropped: nobody waits for a page while others wait for it.
                    let mine = claim.take().filter(|mine| mine.is_for(&ground, want.page));
                    if mine.is_none() {
                        claim = Claim::take(&ground, want.page);
                        if claim.is_none() && patience == Patience::None {
                            return Ok(None);
                        }
                        if claim.is_none() {
                            // Who fetches may be waiting for the caller's own observer.
                            shared.check_outside()?;
                            ground.fetches.wait(want.page);
                        }
                    } else if core::mem::replace(&mut fetched, true) && patience == Patience::None {
                        // It came, and is gone again.
                        return Ok(None);
                    } else {
                        self.bring(shared, gpa, access, &ground, want)?;
                    }
                }
                Try::Vacated(ground, released) => {
                    shared.check_outside()?;
                    shared.serve(shared.flush(released.size.leaf_range(gpa.page())))?;
                    ground.release(released);
                    return Err(FaultError::NotPopulated { gpa });
                }
            }
            next = self.attempt(shared, gpa, access)?;
        }
    }

    /// Makes room for leaves of `size`.
    fn refine(&self, gpa: Gpa, size: PageSize) -> Result<(), FaultError> {
        match self.reader.table().refine(size.leaf_range(gpa.page()), size) {
            // Mapped meanwhile, by a large leaf; or the region went. The next try says what to do.
            Ok(()) | Err(RefineError::Mapped { .. } | RefineError::NotPopulated { .. }) => Ok(()),
            Err(source) => Err(FaultError::Refine { gpa, source }),
        }
    }

    /// Makes the leaf one of `size`.
    fn split(&self, shared: &Shared<F, S>, gpa: Gpa, size: PageSize) -> Result<(), FaultError> {
        match self.reader.table().split(gpa, size, shared.kick()) {
            Ok(()) | Err(SplitError::NotMapped { .. } | SplitError::Busy) => Ok(()),
            Err(source) => Err(FaultError::Split { gpa, source }),
        }
    }

    /// Has a page fetched, by who has claimed it.
    fn bring(
        &self,
        shared: &Shared<F, S>,
        gpa: Gpa,
        access: Prot,
        ground: &Arc<Ground>,
        want: Want,
    ) -> Result<(), FaultError> {
        shared.check_outside()?;
        // Whoever was told of a frame before the backing said `Wait` has mapped it.
        shared.wait_for_pins();
        let pin = self.reader.pin();
        // Gone, or closed: the next try says what to do.
        let layout = pin.read(&shared.layout);
        let region = layout.region_on(ground, gpa).filter(|_| !layout.is_closed(gpa));
        let Some(region) = region else { return Ok(()) };
        let Some(leaf) = pin.lookup(gpa) else {
            drop(pin);
            // What was there may be somebody else's by now.
            return self.fetch(ground, gpa, &Want { present: None, ..want });
        };
        if leaf.attr.prot().contains(access) || leaf.size != want.size {
            return Ok(());
        }
        // This region's still: who takes it away waits for the pin. And nobody else takes the page away.
        let Ok((leaf, flush)) = pin.unmap(gpa) else { return Ok(()) };
        let released = region.released(&leaf);
        if leaf.dirty && layout.tracking == Tracking::On {
            // What was written goes on in another frame, whose leaf begins clean.
            shared.moved.lock().push(leaf.range());
        }
        drop(pin);
        self.stripe.unmapped.add(leaf.size.pages());
        shared.serve(flush)?;
        // And who looked the leaf up before it went.
        shared.wait_for_pins();
        let _back = Taken { ground, released };
        self.fetch(ground, gpa, &want.with_present(leaf.pfn))
    }

    fn fetch(&self, ground: &Ground, gpa: Gpa, want: &Want) -> Result<(), FaultError> {
        self.stripe.fetches.add(1);
        ground.backing.fetch(want).map_err(|source| FaultError::Backing { gpa, source })
    }
}

/// A leaf that was taken away and shot down: it is given back when the page was fetched, or was not.
struct Taken<'g> {
    ground: &'g Ground,
    released: Released,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.ground.release(self.released);
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Agent<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("stripe", &self.stripe).finish_non_exhaustive()
    }
}
