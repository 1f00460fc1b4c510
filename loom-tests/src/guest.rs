//! A guest: a processor's MMU with caches that go stale, and the observer through which it enters.

use slat::{
    Ept, Gpa, HostPfn, Inside, InsideVcpu, Observer, ObserverId, PageSize, Tracking,
    mmu::{Access, CacheConfig, Cause, Translation, TranslationCache},
};

use crate::{Frames, World, gpa};

/// An observer of the world's table, and the translation cache that it stands for.
#[derive(Debug)]
pub struct Guest {
    observer: Observer<Ept, Frames>,
    cache: TranslationCache,
}

impl Guest {
    /// Makes a guest that never entered.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self::with(world, CacheConfig { tlb_entries: 4, walk_entries: 4 })
    }

    /// Makes a guest that never entered, whose caches remember the way to leaves, but no leaves.
    #[must_use]
    pub fn forgetful(world: &World) -> Self {
        Self::with(world, CacheConfig { tlb_entries: 0, walk_entries: 4 })
    }

    fn with(world: &World, config: CacheConfig) -> Self {
        Self { observer: world.table.observer(), cache: TranslationCache::new(config) }
    }

    /// Makes a guest that has read `page` already, so that its caches know the way, and is out again.
    ///
    /// # Panics
    /// If the page is not mapped.
    #[must_use]
    pub fn warm(world: &World, page: u64) -> Self {
        let mut guest = Self::new(world);
        guest.enter().access(page, Access::READ).unwrap();
        guest
    }

    /// Enters, and invalidates what is due.
    pub fn enter(&mut self) -> Stay<'_> {
        self.enter_with(Tracking::On)
    }

    /// Enters, with an MMU that keeps accessed and dirty bits or does not, and invalidates what is due.
    pub fn enter_with(&mut self, tracking: Tracking) -> Stay<'_> {
        Stay::begin(self.observer.enter(tracking), &mut self.cache)
    }
}

/// What says that a guest is inside.
pub trait Enter<'g> {
    /// The observer that is.
    fn inside(&self) -> &Inside<'g, Ept, Frames>;
}

impl<'g> Enter<'g> for Inside<'g, Ept, Frames> {
    fn inside(&self) -> &Self {
        self
    }
}

impl<'g> Enter<'g> for InsideVcpu<'g, Ept, Frames> {
    fn inside(&self) -> &Inside<'g, Ept, Frames> {
        self
    }
}

/// A guest that is inside, until it is dropped.
#[derive(Debug)]
pub struct Stay<'g, I = Inside<'g, Ept, Frames>> {
    inside: I,
    cache: &'g mut TranslationCache,
}

impl<'g, I: Enter<'g>> Stay<'g, I> {
    /// Enters with caches that may be stale: invalidates what is due.
    pub(crate) fn begin(inside: I, cache: &'g mut TranslationCache) -> Self {
        inside.inside().refresh(cache);
        Self { inside, cache }
    }

    /// Accesses `page` with the help of the caches; returns the frame that it reached.
    ///
    /// # Errors
    /// Why the MMU faulted.
    pub fn access(&mut self, page: u64, access: Access) -> Result<HostPfn, Cause> {
        self.translate(page, access).map(|translation| translation.pfn)
    }

    /// Does the same; returns the size of the leaf by which it reached the page.
    ///
    /// # Errors
    /// Why the MMU faulted.
    pub fn size(&mut self, page: u64, access: Access) -> Result<PageSize, Cause> {
        self.translate(page, access).map(|translation| translation.size)
    }

    fn translate(&mut self, page: u64, access: Access) -> Result<Translation, Cause> {
        let address: Gpa = gpa(page);
        let translated = self.inside.inside().mmu().translate_cached(self.cache, address, access);
        translated.map_err(|fault| fault.cause())
    }
}

impl Stay<'_> {
    /// Invalidates what became due, without leaving.
    pub fn acknowledge(&mut self) {
        self.inside.acknowledge(|_| ());
        self.inside.refresh(self.cache);
    }
}

/// Kicks nobody: the guests of the scenarios leave by themselves.
pub fn no_kick(_: ObserverId) {}
