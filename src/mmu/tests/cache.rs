//! Caches that go stale, and the invalidations that mend them.

use super::*;
use crate::{
    addr::GpaRange,
    format::{LongMode, Npt},
};

const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const TLB_ALONE: CacheConfig = CacheConfig { tlb_entries: 64, walk_entries: 0 };
const WALK_ALONE: CacheConfig = CacheConfig { tlb_entries: 0, walk_entries: 64 };

fn rig() -> Rig {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, ALL);
    rig
}

/// The ways to forget a page.
const WAYS: [fn(&mut TranslationCache, Gpa); 3] = [
    TranslationCache::invalidate_page,
    |cache, gpa| cache.invalidate_range(GpaRange::from_pages(gpa.page_base(), 1).unwrap()),
    |cache, _| cache.invalidate_all(),
];

/// A cache that a write of the rig's page has filled.
fn warm(mmu: Mmu<'_, HeapFrames>, gpa: Gpa, config: CacheConfig) -> TranslationCache {
    let mut cache = TranslationCache::new(config);
    mmu.translate_cached(&mut cache, gpa, Access::WRITE).unwrap();
    cache
}

#[test]
fn a_write_after_a_cleared_dirty_bit_is_lost_without_an_invalidation() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = warm(mmu, rig.gpa, CacheConfig::default());
    rig.plant_leaf(Level::L1, ALL | ACCESSED);
    let write = |cache: &mut _| mmu.translate_cached(cache, rig.gpa, Access::WRITE).unwrap();
    assert_eq!(write(&mut cache).dirty, DirtyChange::None);
    assert_eq!(rig.raw(Level::L1) & DIRTY, 0);
    cache.invalidate_page(rig.gpa);
    assert_eq!(write(&mut cache).dirty, DirtyChange::Set);
    assert_eq!(rig.raw(Level::L1) & DIRTY, DIRTY);
}

#[test]
fn the_tlb_serves_a_page_that_is_gone_until_it_is_invalidated() {
    for (invalidate, leaf) in WAYS.into_iter().flat_map(|w| [1, 2, 3].map(|n| (w, n))) {
        let leaf = Level::ALL[leaf - 1];
        let rig = Rig::new(ept(Levels::Five, EVERYTHING));
        rig.plant_leaf(leaf, ALL);
        let mmu = rig.mmu();
        let mut cache = warm(mmu, rig.gpa, TLB_ALONE);
        rig.plant(leaf, 0);
        let stale = mmu.translate_cached(&mut cache, rig.gpa, Access::FETCH).unwrap();
        assert_eq!(stale.pfn.get(), rig.frame_at(leaf));
        assert_eq!(cache.stats().tlb_hits, 1);
        invalidate(&mut cache, rig.gpa);
        let fault = mmu.translate_cached(&mut cache, rig.gpa, Access::FETCH).unwrap_err();
        assert_eq!(fault.cause(), Cause::NotPresent);
        assert_eq!(rig.raw(leaf), 0);
    }
}

#[test]
fn a_large_leaf_serves_all_its_pages_from_one_entry() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L2, ALL);
    let mmu = rig.mmu();
    let mut cache = warm(mmu, rig.gpa, TLB_ALONE);
    let other = Gpa::new(rig.gpa.get() ^ 0x1f_f000);
    let found = mmu.translate_cached(&mut cache, other, Access::READ).unwrap();
    assert_eq!(found.pfn.get(), (DATA >> 12) + (other.page() & 511));
    assert_eq!(cache.stats().tlb_hits, 1);
    // Any of its addresses invalidates it.
    cache.invalidate_page(other);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    assert_eq!(cache.stats().tlb_hits, 1);
}

#[test]
fn a_write_through_a_clean_entry_sets_dirty_in_the_entry_of_now() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = TranslationCache::new(TLB_ALONE);
    let mut go = |access| mmu.translate_cached(&mut cache, rig.gpa, access);
    go(Access::READ).unwrap();
    let moved = DATA + 0x1000;
    rig.plant(Level::L1, moved | ALL);
    assert_eq!(go(Access::READ).unwrap().pfn.get(), DATA >> 12);
    let written = go(Access::WRITE).unwrap();
    assert_eq!((written.pfn.get(), written.dirty), (moved >> 12, DirtyChange::Set));
    assert_eq!(rig.raw(Level::L1), moved | ALL | ACCESSED | DIRTY);
    // The entry with the bit took the place of the one without.
    assert_eq!(go(Access::READ).unwrap().pfn.get(), moved >> 12);
}

#[test]
fn a_write_through_a_clean_entry_of_a_page_that_is_gone_faults() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = TranslationCache::new(CacheConfig::default());
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    rig.plant(Level::L1, 0);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_err());
    assert_eq!(rig.raw(Level::L1), 0);
    // The fault took the stale entry away.
    assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::READ).is_err());
}

#[test]
fn rights_that_were_given_since_are_found_without_an_invalidation() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = TranslationCache::new(TLB_ALONE);
    rig.plant_leaf(Level::L1, 0b001);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    rig.plant_leaf(Level::L1, 0b011);
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
}

#[test]
fn rights_that_were_taken_since_still_serve() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = warm(mmu, rig.gpa, TLB_ALONE);
    rig.plant_leaf(Level::L1, 0b001 | ACCESSED);
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    cache.invalidate_page(rig.gpa);
    assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_err());
}

#[test]
fn without_dirty_bits_a_read_entry_serves_writes() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING - EptCaps::ACCESSED_DIRTY));
    rig.plant_leaf(Level::L1, ALL);
    let mut cache = TranslationCache::new(TLB_ALONE);
    rig.mmu().translate(rig.gpa, Access::READ).unwrap();
    let mmu = rig.mmu();
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    assert_eq!(cache.stats().tlb_hits, 1);
}

#[test]
fn the_walk_cache_sets_no_accessed_bit_in_what_it_skips() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = warm(mmu, rig.gpa, WALK_ALONE);
    rig.link_all();
    rig.plant_leaf(Level::L1, ALL);
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    assert!(rig.upper().all(|level| rig.raw(level) == rig.link(level)));
    assert_eq!(rig.raw(Level::L1), DATA | ALL | ACCESSED | DIRTY);
    cache.invalidate_page(rig.gpa);
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    assert!(rig.upper().all(|level| rig.raw(level) == rig.link(level) | ACCESSED));
    let stats = cache.stats();
    assert_eq!((stats.walk_hits, stats.walk_misses), (1, 2));
}

#[test]
fn the_walk_cache_reaches_a_table_that_was_unlinked() {
    let levels = [Level::L2, Level::L3, Level::L4];
    for (invalidate, level) in WAYS.into_iter().flat_map(|w| levels.map(|l| (w, l))) {
        let rig = rig();
        let mmu = rig.mmu();
        let mut cache = warm(mmu, rig.gpa, WALK_ALONE);
        rig.plant(level, 1 << 52);
        rig.plant_leaf(Level::L1, ALL);
        mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
        assert_eq!(rig.raw(Level::L1) & DIRTY, DIRTY, "dirty in a dead table");
        invalidate(&mut cache, rig.gpa);
        assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_err());
        assert_eq!(rig.raw(level), 1 << 52);
    }
}

#[test]
fn an_entry_that_did_not_serve_is_not_asked_again() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = TranslationCache::new(TLB_ALONE);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    // A larger leaf stands there now: it does not take the small one's place in the TLB.
    rig.plant_leaf(Level::L2, ALL);
    mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    let found = mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    assert_eq!((found.size.level(), found.pfn.get()), (Level::L2, rig.frame_at(Level::L2)));
}

#[test]
fn the_walk_cache_keeps_the_rights_above() {
    let rig = rig();
    let mmu = rig.mmu();
    rig.plant(Level::L3, rig.link(Level::L3) & !0b010);
    let mut cache = TranslationCache::new(WALK_ALONE);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
    let fault = mmu.translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap_err();
    assert_eq!(fault, Fault::EptViolation { gpa: rig.gpa, qualification: 0x1aa });
    assert_eq!(cache.stats().walk_hits, 1);
}

#[test]
fn a_spurious_fault_is_gone_at_the_next_try() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = warm(mmu, rig.gpa, WALK_ALONE);
    // Another table takes the place of the one that the cache knows, which is emptied.
    let table = rig.tables[5];
    rig.plant_in(table, Level::L1, DATA | ALL);
    rig.plant(Level::L2, table.get() << 12 | ALL);
    rig.plant(Level::L1, 0);
    assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::READ).is_err());
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
}

#[test]
fn a_fault_is_never_remembered() {
    let rig = rig();
    let mmu = rig.mmu();
    let mut cache = TranslationCache::new(CacheConfig::default());
    rig.plant(Level::L1, 0);
    assert!(mmu.translate_cached(&mut cache, rig.gpa, Access::READ).is_err());
    rig.plant_leaf(Level::L1, ALL);
    mmu.translate_cached(&mut cache, rig.gpa, Access::READ).unwrap();
}

#[test]
fn a_cache_filled_from_one_tree_never_serves_another() {
    // The same frames, the same root: only the view is another.
    let rig = rig();
    let first = rig.mmu();
    let mut cache = warm(first, rig.gpa, CacheConfig::default());
    rig.plant(Level::L1, 0);
    let copy = first;
    assert!(copy.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_ok(), "stale");
    let second = rig.mmu();
    assert!(second.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_err());
    assert!(first.translate_cached(&mut cache, rig.gpa, Access::WRITE).is_err());
}

#[test]
fn views_of_one_identity_share_a_cache_for_a_generation() {
    let rig = rig();
    let identity = Identity::fresh();
    let root_pointer = rig.format.root_pointer(rig.tables[3], Tracking::On);
    let view = |when| {
        // SAFETY: the same tree, whose frames the rig never gives back.
        unsafe {
            Mmu::with_identity(rig.format, &rig.frames, root_pointer, identity, when).unwrap()
        }
    };
    let mut cache = warm(view(1), rig.gpa, TLB_ALONE);
    view(1).translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    assert_eq!(cache.stats().tlb_hits, 1);
    view(2).translate_cached(&mut cache, rig.gpa, Access::WRITE).unwrap();
    assert_eq!(cache.stats().tlb_hits, 1, "of another generation");
}

#[test]
fn no_cache_is_bigger_than_it_was_told() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    // SAFETY: the rig's own frame.
    let table = unsafe { rig.frames.table(rig.tables[0]) };
    for index in 0..512 {
        // SAFETY: leaves name no table.
        unsafe { table.plant(index, Entry::from_raw(DATA | (index as u64) << 12 | ALL)) };
    }
    let mmu = rig.mmu();
    let base = rig.gpa.page() & !511;
    for (entries, held) in [(0, 0), (1, 4), (4, 4), (5, 8), (64, 64), (512, 512)] {
        let config = CacheConfig { tlb_entries: entries, walk_entries: entries };
        let mut cache = TranslationCache::new(config);
        for round in 0..2 {
            for page in base..base + 512 {
                let found = mmu.translate_cached(&mut cache, Gpa::of_page(page), Access::READ);
                assert_eq!(found.unwrap().pfn.get(), (DATA >> 12) + (page & 511));
            }
            let most = if round == 0 { 0 } else { held };
            assert!(cache.stats().tlb_hits <= most, "{entries}");
        }
        let expected = if entries == 512 { 512 } else { cache.stats().tlb_hits };
        assert_eq!(cache.stats().tlb_hits, expected);
    }
}

#[test]
fn the_caches_agree_with_the_walk_in_every_format() {
    for levels in BOTH_MODES {
        let formats: [AnyFormat; 3] = [
            ept(levels, EVERYTHING).into(),
            Npt::new(levels, PhysWidth::MAX).into(),
            LongMode::new(levels, PhysWidth::MAX).into(),
        ];
        for (format, leaf) in formats.into_iter().flat_map(|f| [0, 1, 2].map(|n| (f, n))) {
            let rig = Rig::new(format);
            for rights in [0, 1, 3, 5, 7] {
                rig.plant_leaf(Level::ALL[leaf], rights);
                let mmu = rig.mmu();
                let mut cache = TranslationCache::new(CacheConfig::default());
                for kind in KINDS.into_iter().chain(KINDS) {
                    let access = Access::new(kind);
                    let found = mmu.translate_cached(&mut cache, rig.gpa, access);
                    let expected = mmu.translate(rig.gpa, access);
                    assert_eq!(
                        found.map(|t| (t.pfn, t.size, t.prot)),
                        expected.map(|t| (t.pfn, t.size, t.prot))
                    );
                }
            }
        }
    }
}
