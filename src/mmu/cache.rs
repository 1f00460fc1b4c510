//! Translation caches: a TLB of leaves and a paging-structure cache of table entries.
//!
//! Both go stale as those of a processor do: nothing here watches the tables. What is kept, and when
//! it is dropped, follows Intel SDM vol. 3A, 4.10, and vol. 3C, 29.4 (AMD APM vol. 2, 5.5):
//!
//! - Only present, valid entries are kept, with their accessed bit set; never that nothing is there.
//! - An access that a TLB entry does not allow, and a write through one without the dirty bit, drop
//!   it and walk. That walk may begin in the paging-structure cache, so the fault in which it ends
//!   may be spurious.
//! - A fault drops all that is kept for its address, so the access tried again sees the tables as
//!   they are.

use alloc::vec::Vec;

use super::{
    rules::Want,
    view::Stamp,
    walk::{Cursor, Leaf},
};
use crate::{
    addr::{Gpa, GpaRange},
    level::{Level, PageSize},
};

/// Places that one key may go to.
const WAYS: usize = 4;

/// How much a [`TranslationCache`] holds. Each number is rounded up to four times a power of two; 0
/// means that there is no such cache.
///
/// ```
/// use slat::mmu::{CacheConfig, TranslationCache};
///
/// let tlb_alone = CacheConfig { walk_entries: 0, ..CacheConfig::default() };
/// let cache = TranslationCache::new(tlb_alone);
/// assert_eq!(cache.stats().tlb_hits, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheConfig {
    /// Leaves, of any size, that the TLB holds.
    pub tlb_entries: u16,
    /// Table entries that the paging-structure cache holds.
    pub walk_entries: u16,
}

impl Default for CacheConfig {
    /// 256 leaves and 32 table entries.
    fn default() -> Self {
        Self { tlb_entries: 256, walk_entries: 32 }
    }
}

/// What an invalidation of a range leaves in the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The table entries that were passed on the way to its pages.
    Structure,
    /// Nothing.
    Nothing,
}

/// How often a [`TranslationCache`] helped, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Translations that the TLB answered alone.
    pub tlb_hits: u64,
    /// Translations that had to walk.
    pub tlb_misses: u64,
    /// Walks that began below the root.
    pub walk_hits: u64,
    /// Walks that began at the root.
    pub walk_misses: u64,
}

/// The translation caches of one processor: a TLB and a paging-structure cache.
///
/// [`Mmu::translate_cached`](super::Mmu::translate_cached) fills it and looks there first. It is not
/// told of changes to the tables, and goes on translating by what it has read until it is told to
/// forget: software that forgets an invalidation can be seen to fail.
///
/// It serves one tree at a time. Used with an [`Mmu`](super::Mmu) of another (one that is no copy of
/// the one that filled it), it first forgets everything. So it does with the view of an observer that
/// has entered, or acknowledged, at another generation, unless it was
/// [refreshed](crate::Inside::refresh): tables that it knows may have been freed since.
///
/// An invalidation here is of this cache alone; a shoot-down calls it on each processor's.
#[derive(Debug)]
pub struct TranslationCache {
    /// What all contents are of: elsewhere the frame numbers in it mean nothing.
    stamp: Option<Stamp>,
    /// By the level of the leaf.
    tlb: Sets<Leaf>,
    /// By the level of the table entry: where a walk stands that has passed through it.
    walk: Sets<Cursor>,
    stats: CacheStats,
}

impl Default for TranslationCache {
    /// Makes empty caches of the default sizes.
    fn default() -> Self {
        Self::new(CacheConfig::default())
    }
}

impl TranslationCache {
    /// Makes empty caches of these sizes.
    #[must_use]
    pub fn new(config: CacheConfig) -> Self {
        Self {
            stamp: None,
            tlb: Sets::new(config.tlb_entries),
            walk: Sets::new(config.walk_entries),
            stats: CacheStats::default(),
        }
    }

    /// Forgets the translation of the page that holds `gpa`, whatever the size of its leaf, and every
    /// table entry that a walk for it could have used.
    ///
    /// INVLPG does as much for a linear address, and may forget more. For guest-physical addresses
    /// processors only have invalidations of everything: INVEPT, a new ASID.
    pub fn invalidate_page(&mut self, gpa: Gpa) {
        for level in Level::ALL {
            self.tlb.remove(level, gpa.page());
            self.walk.remove(level, gpa.page());
        }
    }

    /// Forgets the same for every page of `range`.
    pub fn invalidate_range(&mut self, range: GpaRange) {
        self.invalidate(range, Keep::Nothing);
    }

    /// Forgets everything, global pages too.
    pub fn invalidate_all(&mut self) {
        self.tlb.clear();
        self.walk.clear();
    }

    /// Returns how often the caches helped.
    #[must_use]
    pub const fn stats(&self) -> CacheStats {
        self.stats
    }

    /// Forgets `range`, but for what shall be kept.
    pub(super) fn invalidate(&mut self, range: GpaRange, keep: Keep) {
        self.tlb.remove_range(range);
        match keep {
            Keep::Structure => {}
            Keep::Nothing => self.walk.remove_range(range),
        }
    }

    /// Tells whether all contents are of `stamp`.
    pub(super) fn is_of(&self, stamp: Stamp) -> bool {
        self.stamp == Some(stamp)
    }

    /// States that all contents are good for `stamp`.
    pub(super) fn claim(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
    }

    /// Makes the contents good for `stamp`: forgets them unless they are.
    pub(super) fn serve(&mut self, stamp: Stamp) {
        if !self.is_of(stamp) {
            self.invalidate_all();
            self.claim(stamp);
        }
    }

    /// Returns the leaf that the TLB holds for `page`, if it serves the access without a walk.
    pub(super) fn leaf(&mut self, page: u64, want: Want) -> Option<Leaf> {
        let held = PageSize::ALL.iter().find_map(|size| self.tlb.find(size.level(), page));
        if let Some(leaf) = held
            && leaf.rights.contains(want.rights)
            && leaf.entry.raw() & want.dirty == want.dirty
        {
            self.stats.tlb_hits += 1;
            return Some(leaf);
        }
        self.stats.tlb_misses += 1;
        if let Some(leaf) = held {
            self.tlb.remove(leaf.size.level(), page);
        }
        None
    }

    /// Returns the lowest place from which a walk for `page` can begin.
    pub(super) fn start(&mut self, page: u64) -> Option<Cursor> {
        let start = Level::ALL.iter().find_map(|&level| self.walk.find(level, page));
        match start {
            Some(_) => self.stats.walk_hits += 1,
            None => self.stats.walk_misses += 1,
        }
        start
    }

    /// Keeps where a walk stands that has passed through the entry of `level` for `page`.
    pub(super) fn keep_cursor(&mut self, level: Level, page: u64, below: Cursor) {
        self.walk.insert(level, page, below);
    }

    /// Keeps a leaf that a walk for `page` ended at.
    pub(super) fn keep_leaf(&mut self, page: u64, leaf: Leaf) {
        self.tlb.insert(leaf.size.level(), page, leaf);
    }
}

/// A set-associative store of values by level and page.
#[derive(Debug)]
struct Sets<T> {
    /// `WAYS` lines a set; the number of sets is a power of two, or zero.
    lines: Vec<Option<Line<T>>>,
    /// Which line of a full set goes next.
    victim: usize,
}

#[derive(Clone, Copy, Debug)]
struct Line<T> {
    level: Level,
    /// The page number less the bits below an entry of the level.
    tag: u64,
    value: T,
}

impl<T: Copy> Sets<T> {
    fn new(entries: u16) -> Self {
        let sets = match usize::from(entries).div_ceil(WAYS) {
            0 => 0,
            sets => sets.next_power_of_two(),
        };
        let mut lines = Vec::new();
        lines.resize_with(sets * WAYS, || None);
        Self { lines, victim: 0 }
    }

    /// Returns the lines that the key may be in: none, if there is no cache.
    fn set(&mut self, level: Level, tag: u64) -> &mut [Option<Line<T>>] {
        let sets = self.lines.len() / WAYS;
        if sets == 0 {
            return &mut [];
        }
        // Levels of one address must not all meet in one set.
        let first = (tag as usize).wrapping_add(level as usize) % sets * WAYS;
        &mut self.lines[first..first + WAYS]
    }

    fn find(&mut self, level: Level, page: u64) -> Option<T> {
        let tag = page >> level.span_shift();
        let mut lines = self.set(level, tag).iter().flatten();
        lines.find(|line| line.is(level, tag)).map(|line| line.value)
    }

    fn insert(&mut self, level: Level, page: u64, value: T) {
        let tag = page >> level.span_shift();
        let victim = self.victim % WAYS;
        self.victim = self.victim.wrapping_add(1);
        let set = self.set(level, tag);
        let held = |line: &Option<Line<T>>| line.as_ref().is_some_and(|line| line.is(level, tag));
        let way = set
            .iter()
            .position(held)
            .or_else(|| set.iter().position(Option::is_none))
            .unwrap_or(victim);
        if let Some(line) = set.get_mut(way) {
            *line = Some(Line { level, tag, value });
        }
    }

    fn remove(&mut self, level: Level, page: u64) {
        let tag = page >> level.span_shift();
        for line in self.set(level, tag) {
            line.take_if(|line| line.is(level, tag));
        }
    }

    fn remove_range(&mut self, range: GpaRange) {
        for line in &mut self.lines {
            line.take_if(|line| line.overlaps(range));
        }
    }

    fn clear(&mut self) {
        self.lines.fill(None);
    }
}

impl<T> Line<T> {
    fn is(&self, level: Level, tag: u64) -> bool {
        self.level == level && self.tag == tag
    }

    fn overlaps(&self, range: GpaRange) -> bool {
        let first = self.tag << self.level.span_shift();
        first < range.end_page() && range.first_page() < first + self.level.span_pages()
    }
}
