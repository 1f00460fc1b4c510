//! Pages that somebody else supplies, on request or unasked: what userfaultfd is between a kernel and a
//! process, between two threads.
//!
//! Whether a page is there is a bit, and who only looks takes no lock. What is asked for, and by whom, is under one:
//!
//! - a page that is waited for has a *wait*, with a number that no other wait has. It is put into the queue
//!   once, when it is made, so each is handed to the supplier once at most;
//! - a wait ends when its page is supplied, or failed, or the supplier goes. If it was failed, its
//!   waiters find the error under its number; who asks after that begins a new wait.

mod error;
mod requests;

use core::{fmt, ops::Range};

pub use self::error::{SupplierGone, SupplyError, SupplyFailed};
use self::requests::Requests;
use super::{
    Answer, Backing, BackingError, BeyondEnd, FramesError, Want,
    extent::{self, Frames},
};
use crate::{
    addr::HostPfn,
    attr::Prot,
    sync::{Arc, Bits, Condvar, Mutex, MutexGuard},
};

/// Memory whose pages somebody else fills: a migration's source, a snapshot, a file. Who does holds the
/// [`Supplier`].
///
/// The frames are there from the beginning; a page is mapped once the supplier said that its content is in
/// its frame, and a fault before that asks for it, and waits. A supplied page stays so, also when it is unmapped.
/// Leaves have 4 KiB.
///
/// ```
/// use std::{sync::Arc, thread};
/// use slat::{Answer, Backing, HostPfn, PageSize, Prot, Supplied, Want};
///
/// let (backing, supplier) = Supplied::new(HostPfn::new(0x1000), 8)?;
/// let source = thread::spawn(move || {
///     while let Some(request) = supplier.next_request() {
///         // Here the content of page `request.page` goes to frame `request.frame`.
///         supplier.supply(request.page).unwrap();
///     }
/// });
/// let want = Want::new(3, PageSize::Size4K, Prot::R);
/// assert!(matches!(backing.frame(&want), Answer::Wait));
/// backing.fetch(&want)?;
/// assert!(matches!(backing.frame(&want), Answer::Frame(frame, _) if frame == HostPfn::new(0x1003)));
/// drop(backing);
/// source.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Concurrency
/// An answer reads one bit, without a lock. A fetch waits.
#[derive(Debug)]
pub struct Supplied(Arc<Shared>);

/// The end of [`Supplied`] memory that supplies its pages. Dropping it fails whoever waits, and who would.
///
/// # Concurrency
/// Any number of threads may use it at a time, to serve requests or to supply what nobody asked for.
#[derive(Debug)]
pub struct Supplier(Arc<Shared>);

/// A page that is waited for. Each is handed out once, and then has to be supplied or failed: until then
/// whoever needs the page waits, and asks no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The page, in 4 KiB pages from the beginning of the backing.
    pub page: u64,
    /// The frame that its content goes to.
    pub frame: HostPfn,
}

/// What both ends share.
struct Shared {
    frames: Frames,
    /// The pages that are supplied. Set under the lock.
    present: Bits,
    requests: Mutex<Requests>,
    /// A wait has ended.
    ended: Condvar,
    /// A wait has begun, or nobody is left to begin one, or to serve it.
    begun: Condvar,
}

impl Shared {
    fn is_supplied(&self, page: u64) -> bool {
        page < self.frames.pages() && self.present.is_set(page)
    }

    fn supplied(&self) -> u64 {
        self.requests.lock().supplied
    }

    /// Checks that none of `pages` is supplied yet. The lock keeps it so.
    fn check(&self, pages: Range<u64>) -> Result<MutexGuard<'_, Requests>, SupplyError> {
        let count = self.frames.pages();
        BeyondEnd::check(pages.end - 1, count)
            .map_err(|_| BeyondEnd { page: pages.start.max(count), pages: count })?;
        let requests = self.requests.lock();
        match pages.into_iter().find(|&page| self.present.is_set(page)) {
            Some(page) => Err(SupplyError::AlreadySupplied { page }),
            None => Ok(requests),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A bit a page is too much to read.
        let Self { frames, requests, .. } = self;
        f.debug_struct("Shared")
            .field("frames", frames)
            .field("requests", requests)
            .finish_non_exhaustive()
    }
}

impl Supplied {
    /// Makes a backing of the `pages` frames from `first` on, of which none is supplied yet, and its other end.
    ///
    /// It takes one bit a page.
    ///
    /// # Errors
    /// [`FramesError`] if there are none, or the last one has no number.
    ///
    /// # Panics
    /// As a `Vec` does, if there is no memory for a bit for each page.
    pub fn new(first: HostPfn, pages: u64) -> Result<(Self, Supplier), FramesError> {
        let shared = Arc::new(Shared {
            frames: Frames::new(first, pages)?,
            present: Bits::new(pages),
            requests: Mutex::new(Requests::default()),
            ended: Condvar::default(),
            begun: Condvar::default(),
        });
        Ok((Self(Arc::clone(&shared)), Supplier(shared)))
    }

    /// Tells whether `page` is supplied; false beyond the end.
    #[must_use]
    pub fn is_supplied(&self, page: u64) -> bool {
        self.0.is_supplied(page)
    }

    /// Returns how many pages are supplied.
    #[must_use]
    pub fn supplied(&self) -> u64 {
        self.0.supplied()
    }

    /// Returns how many wait for `page`.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn waiters(&self, page: u64) -> u64 {
        self.0.requests.lock().waiters(page)
    }

    /// Tells whether nobody waits, and nothing is left of those who did.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn is_quiet(&self) -> bool {
        self.0.requests.lock().is_empty()
    }
}

impl Backing for Supplied {
    fn pages(&self) -> u64 {
        self.0.frames.pages()
    }

    fn frame(&self, want: &Want) -> Answer {
        if let Err(answer) = extent::check_small(want, self.pages()) {
            return answer;
        }
        match self.0.frames.at(want.page) {
            Some(frame) if self.0.is_supplied(want.page) => Answer::Frame(frame, Prot::all()),
            _ => Answer::Wait,
        }
    }

    /// Asks for the page, unless somebody has, and waits until it is supplied.
    ///
    /// # Errors
    /// [`SupplyFailed`] with what the supplier said, or [`SupplierGone`].
    fn fetch(&self, want: &Want) -> Result<(), BackingError> {
        let Shared { requests, begun, ended, .. } = &*self.0;
        let page = want.page;
        BeyondEnd::check(page, self.pages()).map_err(BackingError::new)?;
        let mut requests = requests.lock();
        let mut wait = None;
        loop {
            if let Some(error) = wait.and_then(|number| requests.failure(number)) {
                return Err(BackingError::new(SupplyFailed { page, error }));
            }
            if self.is_supplied(page) {
                return Ok(());
            }
            if requests.supplier_gone {
                return Err(BackingError::new(SupplierGone { page }));
            }
            if wait.is_none() {
                wait = Some(requests.join(page));
                begun.notify_all();
            }
            requests = ended.wait(requests);
        }
    }
}

impl Drop for Supplied {
    fn drop(&mut self) {
        self.0.requests.lock().backing_gone = true;
        self.0.begun.notify_all();
    }
}

impl Supplier {
    /// Returns the next page that is waited for, or `None` if nobody is left to ask. Waits until there is
    /// one; a [`Supplied`] that is dropped ends the wait, and so does [`close`](Self::close).
    #[must_use]
    pub fn next_request(&self) -> Option<Request> {
        let mut requests = self.0.requests.lock();
        loop {
            if requests.backing_gone || requests.supplier_gone {
                return None;
            }
            if let Some(page) = requests.next() {
                return self.request(page);
            }
            requests = self.0.begun.wait(requests);
        }
    }

    /// Returns the next page that is waited for, or `None` if there is none now.
    #[must_use]
    pub fn try_request(&self) -> Option<Request> {
        let mut requests = self.0.requests.lock();
        let page = if requests.supplier_gone { None } else { requests.next() };
        drop(requests);
        self.request(page?)
    }

    /// Says that no request is served any more, as dropping it says, where several threads share it: whoever
    /// waits fails with [`SupplierGone`], and who would, and no thread gets another request. A page that is
    /// supplied nevertheless is there.
    ///
    /// For the thread that finds the connection to the source closed, while another waits in
    /// [`next_request`](Self::next_request).
    pub fn close(&self) {
        self.0.requests.lock().supplier_gone = true;
        self.0.ended.notify_all();
        self.0.begun.notify_all();
    }

    fn request(&self, page: u64) -> Option<Request> {
        let frame = self.frame_of(page)?;
        Some(Request { page, frame })
    }

    /// Says that the content of `page` is in its frame: from now on it is mapped, and who waited goes on. The
    /// caller must have written it before, and leave the frame to the guest from now on.
    ///
    /// # Errors
    /// [`SupplyError`] if there is no such page, or it is supplied already: of several calls for a page one
    /// succeeds.
    pub fn supply(&self, page: u64) -> Result<(), SupplyError> {
        BeyondEnd::check(page, self.0.frames.pages())?;
        self.supply_range(page..page + 1)
    }

    /// The same for a range of pages, all of them or, on an error, none. An empty one is no error.
    ///
    /// # Errors
    /// [`SupplyError`] with the first page that is not there, or is supplied already.
    pub fn supply_range(&self, pages: Range<u64>) -> Result<(), SupplyError> {
        if pages.is_empty() {
            return Ok(());
        }
        let mut requests = self.0.check(pages.clone())?;
        for page in pages.clone() {
            self.0.present.set(page);
        }
        requests.end(pages);
        self.0.ended.notify_all();
        Ok(())
    }

    /// Fails `page`: who waits for it gets the error. Who needs it later asks again.
    ///
    /// # Errors
    /// [`SupplyError`] if there is no such page, or it is supplied already.
    pub fn fail(&self, page: u64, error: BackingError) -> Result<(), SupplyError> {
        BeyondEnd::check(page, self.0.frames.pages())?;
        self.0.check(page..page + 1)?.fail(page, error);
        self.0.ended.notify_all();
        Ok(())
    }

    /// Returns the frame that the content of `page` goes to, or `None` beyond the end.
    #[must_use]
    pub fn frame_of(&self, page: u64) -> Option<HostPfn> {
        self.0.frames.at(page)
    }

    /// Returns how many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.0.frames.pages()
    }

    /// Tells whether `page` is supplied; false beyond the end.
    #[must_use]
    pub fn is_supplied(&self, page: u64) -> bool {
        self.0.is_supplied(page)
    }

    /// Returns how many pages are supplied.
    #[must_use]
    pub fn supplied(&self) -> u64 {
        self.0.supplied()
    }
}

impl Drop for Supplier {
    fn drop(&mut self) {
        self.close();
    }
}
