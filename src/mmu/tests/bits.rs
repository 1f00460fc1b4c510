//! Accessed and dirty bits.

use super::*;
use crate::format::{LongMode, Npt};

/// A format, with its accessed and dirty bits by the manual.
fn formats() -> Vec<(AnyFormat, u64, u64)> {
    let mut formats: Vec<(AnyFormat, u64, u64)> = Vec::new();
    for levels in BOTH_MODES {
        formats.push((ept(levels, EVERYTHING).into(), 1 << 8, 1 << 9));
        formats.push((ept(levels, EVERYTHING - EptCaps::ACCESSED_DIRTY).into(), 0, 0));
        formats.push((Npt::new(levels, PhysWidth::MAX).into(), 1 << 5, 1 << 6));
        formats.push((LongMode::new(levels, PhysWidth::MAX).into(), 1 << 5, 1 << 6));
    }
    formats
}

const LEAVES: [Level; 3] = [Level::L1, Level::L2, Level::L3];

#[test]
fn accessed_is_set_on_every_level_and_dirty_on_the_leaf_alone() {
    for (format, accessed, dirty) in formats() {
        for (leaf, kind) in LEAVES.into_iter().flat_map(|l| KINDS.map(|kind| (l, kind))) {
            let rig = Rig::new(format);
            rig.plant_leaf(leaf, ALL);
            let before = rig.raw(leaf);
            assert_eq!(rig.reach(Access::new(kind)), Ok(rig.frame_at(leaf)));
            for level in rig.upper().filter(|&level| level > leaf) {
                assert_eq!(rig.raw(level), rig.link(level) | accessed, "{format:?} {level:?}");
            }
            let set = if kind == AccessKind::Write { accessed | dirty } else { accessed };
            assert_eq!(rig.raw(leaf), before | set, "{format:?} {leaf:?} {kind:?}");
        }
    }
}

#[test]
fn an_access_that_faults_sets_nothing_in_the_entry_that_stopped_it() {
    for (format, accessed, _) in formats() {
        let read_only = if format.name() == "ept" { 0b001 } else { 0b101 };
        for leaf in LEAVES {
            let rig = Rig::new(format);
            rig.plant_leaf(leaf, read_only);
            let before = rig.raw(leaf);
            assert!(rig.reach(Access::WRITE).is_err());
            assert_eq!(rig.raw(leaf), before, "{format:?} {leaf:?}");
            // The entries above were used, and a processor marks them as it goes.
            for level in rig.upper().filter(|&level| level > leaf) {
                assert_eq!(rig.raw(level), rig.link(level) | accessed);
            }
        }
    }
}

#[test]
fn nothing_is_ever_set_in_an_entry_that_is_not_present() {
    // UNPOPULATED, and everything that makes no entry present.
    for (format, ..) in formats() {
        let absent = if format.name() == "ept" { !ALL } else { !1 };
        for level in Level::ALL.into_iter().filter(|&level| level <= format.levels().root()) {
            for raw in [0, 1 << 52, absent] {
                let rig = Rig::new(format);
                rig.plant(level, raw);
                assert_eq!(rig.reach(Access::WRITE).unwrap_err().cause(), Cause::NotPresent);
                assert_eq!(rig.raw(level), raw, "{format:?} {level:?}");
                for below in Level::ALL.into_iter().filter(|&below| below < level) {
                    let untouched = if below == Level::L1 { 0 } else { rig.link(below) };
                    assert_eq!(rig.raw(below), untouched);
                }
            }
        }
    }
}

#[test]
fn nothing_is_set_in_a_reserved_entry() {
    for levels in BOTH_MODES {
        let rig = Rig::new(ept(levels, EVERYTHING));
        rig.plant_leaf(Level::L1, ALL | 7 << 3);
        let before = rig.raw(Level::L1);
        assert!(rig.reach(Access::WRITE).is_err());
        assert_eq!(rig.raw(Level::L1), before);
    }
}

#[test]
fn only_the_first_write_is_logged() {
    for (format, accessed, dirty) in formats() {
        let rig = Rig::new(format);
        rig.plant_leaf(Level::L1, ALL | accessed);
        let change = |access| rig.mmu().translate(rig.gpa, access).unwrap().dirty;
        let first = if dirty == 0 { DirtyChange::None } else { DirtyChange::Set };
        assert_eq!(change(Access::READ), DirtyChange::None);
        assert_eq!(change(Access::WRITE), first);
        assert_eq!(change(Access::WRITE), DirtyChange::None);
        rig.plant_leaf(Level::L1, ALL);
        assert_eq!(change(Access::WRITE), first);
    }
}

#[test]
fn a_guest_table_walk_through_ept_makes_its_page_dirty() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, ALL);
    let found = rig.mmu().translate(rig.gpa, Access::READ.of_guest_table()).unwrap();
    assert_eq!(found.dirty, DirtyChange::Set);
    assert_eq!(rig.raw(Level::L1), DATA | ALL | 0x300);
}

#[test]
fn the_translation_shows_the_leaf_as_it_was_left() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L2, 3 | 6 << 3 | 1 << 54);
    let found = rig.mmu().translate(rig.gpa, Access::WRITE).unwrap();
    assert_eq!(found.leaf.raw(), rig.raw(Level::L2));
    assert_eq!(found.size.level(), Level::L2);
    assert_eq!(found.prot, crate::attr::Prot::RW);
}
