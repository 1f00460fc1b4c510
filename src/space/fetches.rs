//! Who is fetching which page: one thread at a time for each.

use alloc::{sync::Arc, vec::Vec};

use super::region::Ground;
use crate::sync::{Condvar, Mutex};

/// The pages of one backing that somebody is fetching.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pages: Mutex<Vec<u64>>,
    /// Some page is no longer among them.
    changed: Condvar,
}

impl Fetches {
    /// Enters the page, unless somebody is fetching it; tells whether it did.
    fn enter(&self, page: u64) -> bool {
        let mut pages = self.pages.lock();
        let free = !pages.contains(&page);
        if free {
            pages.push(page);
        }
        free
    }

    fn leave(&self, page: u64) {
        self.pages.lock().retain(|&other| other != page);
        self.changed.notify_all();
    }

    /// Waits until nobody is fetching the page.
    pub(super) fn wait(&self, page: u64) {
        let mut pages = self.pages.lock();
        while pages.contains(&page) {
            pages = self.changed.wait(pages);
        }
    }
}

/// The right to fetch a page, until dropped; then those who wait for it look again.
#[derive(Debug)]
pub(super) struct Claim {
    ground: Arc<Ground>,
    page: u64,
}

impl Claim {
    /// Claims a page of the backing, unless somebody is fetching it.
    pub(super) fn take(ground: &Arc<Ground>, page: u64) -> Option<Self> {
        ground.fetches.enter(page).then(|| Self { ground: Arc::clone(ground), page })
    }

    /// Tells whether it is for that page.
    pub(super) fn is_for(&self, ground: &Arc<Ground>, page: u64) -> bool {
        Arc::ptr_eq(&self.ground, ground) && self.page == page
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ground.fetches.leave(self.page);
    }
}
