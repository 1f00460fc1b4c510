//! An observer: one translation cache, and whether it is in use.
//!
//! Hardware does not pin, and a software MMU that goes on for long must not. What keeps the tables
//! that they walk is an [`Observer`] that is *inside*: from [`enter`](Observer::enter) until the
//! [`Inside`] is dropped nothing is freed that was in the tree when it entered. So entering is the
//! way to the root pointer, and the only safe one to a software MMU's view of the table.
//!
//! What the caches of an observer remember while it is out goes stale, and tables that they name may
//! be freed: so `enter` says what is [due](Inside::due).

#![expect(unsafe_code, reason = "vouches for the tables that an MMU inside can reach")]

use alloc::boxed::Box;
use core::{cell::Cell, fmt, marker::PhantomData};

use super::{
    domain::Domain,
    due::{Due, Generation, Scope, Stale},
    record::{ObserverId, Record},
};
use crate::{
    arena::FrameSource,
    format::{Format, Tracking},
    mmu::{Keep, Mmu, TranslationCache},
    sync::Arc,
};

/// One translation cache that walks the table: on KVM a vCPU's, on bare metal that of a processor and
/// its VPID or ASID, an IOMMU's, or a [`TranslationCache`].
///
/// A vCPU that moves to another processor enters through that processor's observer. It can be made on
/// one thread and used on another, and keeps the table alive. While it is out it holds nothing back.
///
/// ```
/// use slat::{Due, Ept, EptCaps, HeapFrames, Levels, PageTable, PhysWidth, Tracking};
/// # let ept = Ept::new(Levels::Four, PhysWidth::new(46)?, EptCaps::USUAL);
/// # let table = PageTable::new(ept, HeapFrames::new(8))?;
/// let mut observer = table.observer();
/// loop {
///     // Interrupts off.
///     let inside = observer.enter(Tracking::On);
///     match inside.due() {
///         Due::None => {}
///         Due::Ranges(_) | Due::All => { /* INVEPT */ }
///     }
///     let eptp = inside.root_pointer();
///     // Enter the guest with it; interrupts end the stay.
///     # assert_eq!(eptp & 0xfff, 0x5e);
///     drop(inside);
///     # break;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Observer<F: Format, S: FrameSource> {
    domain: Arc<Domain<F, S>>,
    record: Arc<Record>,
    /// How it left; `None` if it never entered, or did not leave.
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// It has invalidated everything up to this generation.
    generation: u64,
    root_pointer: u64,
}

impl<F: Format, S: FrameSource> Observer<F, S> {
    pub(crate) fn new(domain: Arc<Domain<F, S>>) -> Self {
        let record = domain.hub().register();
        Self { domain, record, last: None }
    }

    /// Returns the name by which a [`Kick`](crate::Kick) is told of it.
    #[must_use]
    pub fn id(&self) -> ObserverId {
        self.record.id
    }

    /// Enters: from now on no table is freed that can be reached from the root.
    ///
    /// Everything has to be invalidated ([`Due::All`]) when it enters for the first time, when it is
    /// too far behind, when its last [`Inside`] was leaked, and when `tracking` makes another root
    /// pointer than last time.
    ///
    /// # Concurrency
    /// Wait-free; takes no lock. Every change that a shoot-down or a structural operation announced
    /// before is in the tables that it walks, and in what is due; every later one waits for it.
    pub fn enter(&mut self, tracking: Tracking) -> Inside<'_, F, S> {
        let tree = self.domain.tree();
        let root_pointer = tree.format().root_pointer(tree.root(), tracking);
        let last = self.last.take().filter(|last| last.root_pointer == root_pointer);
        let since = last.map(|last| last.generation);
        self.record.begin();
        let generation = self.domain.hub().look();
        self.record.settle(generation);
        let due = since.map_or(Due::All, |since| self.domain.hub().due(since, generation));
        Inside {
            observer: self,
            tracking,
            root_pointer,
            generation,
            since,
            due,
            taken: Cell::new(false),
            thread: PhantomData,
        }
    }
}

impl<F: Format, S: FrameSource> Drop for Observer<F, S> {
    /// An observer that is still inside, since its [`Inside`] was leaked, stays on the table's list,
    /// holds back what it may reach, and keeps the table alive until it is
    /// [forgotten](crate::Observers::forget).
    fn drop(&mut self) {
        let domain = &self.domain;
        domain.hub().depart(&self.record, || Box::new(Arc::clone(domain)));
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Observer<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, last, .. } = self;
        f.debug_struct("Observer")
            .field("record", record)
            .field("last", last)
            .finish_non_exhaustive()
    }
}

/// An observer that is inside: its MMU may walk the table. Dropping it leaves.
///
/// Nothing may walk with the [root pointer](Self::root_pointer) any more when it is dropped. It stays
/// on the thread that entered:
///
/// ```compile_fail,E0277
/// # fn sent(inside: slat::Inside<'static, slat::Ept, slat::HeapFrames>) {
/// std::thread::spawn(move || drop(inside)); // `Inside` is not `Send`
/// # }
/// ```
///
/// and a software MMU's view does not outlive it:
///
/// ```compile_fail,E0505
/// # fn kept(observer: &mut slat::Observer<slat::Ept, slat::HeapFrames>) {
/// let inside = observer.enter(slat::Tracking::On);
/// let mmu = inside.mmu();
/// drop(inside);
/// let _ = mmu.translate(slat::Gpa::new(0), slat::mmu::Access::READ);
/// # }
/// ```
#[must_use = "dropping it leaves at once"]
pub struct Inside<'o, F: Format, S: FrameSource> {
    observer: &'o mut Observer<F, S>,
    tracking: Tracking,
    root_pointer: u64,
    /// What the record says. It was read from the hub when the record already held everything back.
    generation: u64,
    /// Up to where nothing was due; `None` if everything is.
    since: Option<u64>,
    /// What became stale between the two.
    due: Due,
    /// Whether the caller was told.
    taken: Cell<bool>,
    thread: PhantomData<*mut ()>,
}

impl<F: Format, S: FrameSource> Inside<'_, F, S> {
    /// Returns the value of the register that points the MMU at the table: EPTP, nCR3 or CR3. An MMU
    /// may have it loaded, and walk, until this is dropped.
    #[must_use]
    pub fn root_pointer(&self) -> u64 {
        self.root_pointer
    }

    /// Returns what has to be invalidated before the MMU walks: what became stale since the observer
    /// was last inside, or since it last [acknowledged](Self::acknowledge).
    ///
    /// Who asks takes over the duty. As long as nobody does, it is not lost: what was due and not
    /// asked for is due again at the next entry.
    pub fn due(&self) -> &Due {
        self.taken.set(true);
        &self.due
    }

    /// Returns the generation up to which the observer knows everything.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation::new(self.generation)
    }

    /// Returns the observer's name.
    #[must_use]
    pub fn id(&self) -> ObserverId {
        self.observer.id()
    }

    /// Returns the view that a processor has of this table with the
    /// [root pointer](Self::root_pointer) loaded: a software MMU, which sets accessed and dirty bits as
    /// hardware does.
    ///
    /// A [`TranslationCache`] that is used with it and was not [refreshed](Self::refresh) since
    /// something became due is emptied first.
    #[must_use]
    pub fn mmu(&self) -> Mmu<'_, S> {
        let domain = &*self.observer.domain;
        // SAFETY: the view borrows `self`, so the record says "inside at `generation`" for as long as
        // it lives; only `acknowledge` and dropping change that, and `Observers::forget`, whose caller
        // vouches that no view is used. What the record holds back (invariant of `Limbo`) is all that
        // was retired after that generation; and nothing else is freed that was in the tree, or in a
        // cache of any view of this generation: it was read there after the generation was.
        unsafe { Mmu::of_tree(domain.tree(), self.tracking, domain.identity(), self.generation) }
    }

    /// Makes a software cache good for [`mmu`](Self::mmu): drops just what is due, if it was good for
    /// the generation at which this observer left, or was before it acknowledged; else everything.
    pub fn refresh(&self, cache: &mut TranslationCache) {
        let keep = |stale: &Stale| match stale.scope {
            Scope::Leaves => (stale.range, Keep::Structure),
            Scope::Structure => (stale.range, Keep::Nothing),
        };
        let ranges: &[Stale] = match self.due() {
            Due::Ranges(ranges) => ranges,
            Due::None | Due::All => &[],
        };
        let since = self.since.filter(|_| self.due != Due::All);
        let stale = since.map(|_| ranges.iter().map(keep));
        self.mmu().refresh(cache, since.unwrap_or(self.generation), stale);
    }

    /// Catches up without leaving: for IOMMUs, and software caches that are always in use. `apply` is
    /// told what became stale since, and invalidates it; when it returns, shoot-downs and reclamation
    /// no longer wait for what it was told.
    ///
    /// If `apply` panics, nothing is acknowledged.
    ///
    /// # Concurrency
    /// Wait-free but for `apply`; takes no lock.
    pub fn acknowledge(&mut self, apply: impl FnOnce(&Due)) {
        let hub = self.observer.domain.hub();
        let generation = hub.look();
        let since = if self.taken.get() { Some(self.generation) } else { self.since };
        let due = since.map_or(Due::All, |since| hub.due(since, generation));
        apply(&due);
        self.since = since;
        self.due = due;
        self.taken.set(true);
        self.generation = generation;
        self.observer.record.settle(generation);
    }
}

impl<F: Format, S: FrameSource> Drop for Inside<'_, F, S> {
    fn drop(&mut self) {
        let Self { root_pointer, generation, since, .. } = *self;
        let told = self.taken.get() || self.due == Due::None;
        let flushed = if told { Some(generation) } else { since };
        self.observer.last = flushed.map(|generation| Last { generation, root_pointer });
        self.observer.record.leave();
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Inside<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root_pointer, generation, due, .. } = self;
        f.debug_struct("Inside")
            .field("observer", &self.id())
            .field("root_pointer", root_pointer)
            .field("generation", generation)
            .field("due", due)
            .finish_non_exhaustive()
    }
}
