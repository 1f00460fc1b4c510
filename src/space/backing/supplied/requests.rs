//! Who waits for which page, and what the supplier has not been told yet. All under one lock.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use core::ops::Range;

use crate::space::BackingError;

/// The book of all waits.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// How many pages are supplied.
    pub(super) supplied: u64,
    /// Nobody can ask any more.
    pub(super) backing_gone: bool,
    /// Nobody can answer any more.
    pub(super) supplier_gone: bool,
    /// The waits by page.
    waits: BTreeMap<u64, Wait>,
    /// The waits that were failed, by number, until the last waiter has seen it.
    failures: BTreeMap<u64, Failure>,
    /// Pages, and the numbers of their waits, which the supplier has not been told of. Those that have ended
    /// meanwhile are passed over.
    queue: VecDeque<(u64, u64)>,
    /// The number of the next wait.
    next: u64,
}

/// One or more threads wait for a page.
#[derive(Debug)]
struct Wait {
    number: u64,
    waiters: u64,
}

/// A wait that was failed.
#[derive(Debug)]
struct Failure {
    error: Arc<BackingError>,
    /// Those who have not seen it.
    waiters: u64,
}

impl Requests {
    /// Joins the wait for `page`, or begins one; returns its number.
    pub(super) fn join(&mut self, page: u64) -> u64 {
        let wait = self.waits.entry(page).or_insert_with(|| {
            let number = self.next;
            self.next += 1;
            self.queue.push_back((page, number));
            Wait { number, waiters: 0 }
        });
        wait.waiters += 1;
        wait.number
    }

    /// Returns the next page that the supplier has not been told of.
    pub(super) fn next(&mut self) -> Option<u64> {
        while let Some((page, number)) = self.queue.pop_front() {
            if self.waits.get(&page).is_some_and(|wait| wait.number == number) {
                return Some(page);
            }
        }
        None
    }

    /// Ends the waits for `pages`, which have been supplied.
    pub(super) fn end(&mut self, pages: Range<u64>) {
        self.supplied += pages.end - pages.start;
        while let Some((&page, _)) = self.waits.range(pages.clone()).next() {
            self.waits.remove(&page);
        }
    }

    /// Fails the wait for `page`, if there is one.
    pub(super) fn fail(&mut self, page: u64, error: BackingError) {
        if let Some(Wait { number, waiters }) = self.waits.remove(&page) {
            self.failures.insert(number, Failure { error: Arc::new(error), waiters });
        }
    }

    /// Returns to one of its waiters why wait `number` was failed, if it was.
    pub(super) fn failure(&mut self, number: u64) -> Option<Arc<BackingError>> {
        let failure = self.failures.get_mut(&number)?;
        failure.waiters -= 1;
        let error = Arc::clone(&failure.error);
        if failure.waiters == 0 {
            self.failures.remove(&number);
        }
        Some(error)
    }

    /// Returns how many wait for `page`.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn waiters(&self, page: u64) -> u64 {
        self.waits.get(&page).map_or(0, |wait| wait.waiters)
    }

    /// Tells whether nobody waits, and nothing is left of those who did.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn is_empty(&self) -> bool {
        self.waits.is_empty() && self.failures.is_empty()
    }
}
