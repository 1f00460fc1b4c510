//! nPT and long mode against the literal values of the manual.

use super::*;
use crate::format::{LongMode, Npt};

const NX: u64 = 1 << 63;
/// P, W, U and NX in all combinations.
fn rights() -> impl Iterator<Item = u64> {
    (0..16).map(|n| n & 7 | (n & 8) << 60)
}

fn npt(levels: Levels) -> Npt {
    Npt::new(levels, PhysWidth::new(43).unwrap())
}

fn long_mode(levels: Levels) -> LongMode {
    LongMode::new(levels, PhysWidth::new(43).unwrap())
}

/// EXITINFO1 of the access of the rig's address, or 0.
fn exitinfo1(rig: &Rig, access: Access) -> u64 {
    match rig.reach(access) {
        Ok(_) => 0,
        Err(Fault::NestedPageFault { gpa, exitinfo1 }) => {
            assert_eq!(gpa, rig.gpa);
            exitinfo1
        }
        Err(other) => panic!("{other} from nPT"),
    }
}

/// The error code of the access of the rig's address, or 0.
fn error_code(rig: &Rig, access: Access) -> u32 {
    match rig.reach(access) {
        // A present user read that is refused has P and U, so no failure reads as 0 but this one.
        Ok(_) => 0,
        Err(Fault::PageFault { address, error_code: 0 }) => {
            assert_eq!(address, rig.gpa);
            NOT_PRESENT_TO_SUPERVISOR
        }
        Err(Fault::PageFault { address, error_code }) => {
            assert_eq!(address, rig.gpa);
            error_code
        }
        Err(other) => panic!("{other} from long mode"),
    }
}
const NOT_PRESENT_TO_SUPERVISOR: u32 = 1 << 31;

/// Plants `rights` in one place, everything in the others, and runs `check`.
fn at_each_place(rig: &Rig, rights: u64, mut check: impl FnMut(Level)) {
    for level in rig.upper() {
        rig.link_all();
        rig.plant_leaf(Level::L1, ALL);
        rig.plant(level, rig.link(level) & !ALL | rights);
        check(level);
    }
    for level in [Level::L1, Level::L2, Level::L3] {
        rig.link_all();
        rig.plant_leaf(level, rights);
        check(level);
    }
}

#[test]
fn nested_faults_have_the_literal_values_of_the_manual() {
    for levels in BOTH_MODES {
        let rig = Rig::new(npt(levels));
        let cases: [(u64, Access, u64); 9] = [
            (0, Access::READ, 0x1_0000_0004),
            (0, Access::WRITE, 0x1_0000_0006),
            (0, Access::FETCH, 0x1_0000_0014),
            (ALL | NX, Access::FETCH, 0x1_0000_0015),
            (0b011, Access::READ, 0x1_0000_0005),
            (0b011, Access::READ.in_mode(Mode::Supervisor), 0x1_0000_0005),
            (0b101, Access::WRITE, 0x1_0000_0007),
            (0b101, Access::READ.of_guest_table(), 0x2_0000_0007),
            (0, Access::FETCH.of_guest_table(), 0x2_0000_0006),
        ];
        for (rights, access, expected) in cases {
            at_each_place(&rig, rights, |level| {
                assert_eq!(exitinfo1(&rig, access), expected, "{rights:#x} {access:?} {level:?}");
            });
        }
    }
}

#[test]
fn nested_rights_at_any_one_level_decide() {
    for levels in BOTH_MODES {
        let rig = Rig::new(npt(levels));
        for (rights, kind) in rights().flat_map(|r| KINDS.map(|kind| (r, kind))) {
            let [present, write, user] = [1, 2, 4].map(|bit| rights & bit != 0);
            let (allowed, code) = match kind {
                AccessKind::Read => (true, 0),
                AccessKind::Write => (write, 2),
                AccessKind::Fetch => (rights & NX == 0, 0x10),
            };
            let expected = match () {
                () if !present => 0x1_0000_0004 | code,
                () if user && allowed => 0,
                () => 0x1_0000_0005 | code,
            };
            at_each_place(&rig, rights, |level| {
                let found = exitinfo1(&rig, Access::new(kind));
                assert_eq!(found, expected, "{rights:#x} {kind:?} {level:?}");
            });
        }
    }
}

#[test]
fn long_mode_rights_at_any_one_level_decide() {
    for levels in BOTH_MODES {
        let rig = Rig::new(long_mode(levels));
        for (rights, kind) in rights().flat_map(|r| KINDS.map(|kind| (r, kind))) {
            for mode in [Mode::User, Mode::Supervisor] {
                let (allowed, code) = match kind {
                    AccessKind::Read => (true, 0),
                    AccessKind::Write => (rights & 2 != 0, 2),
                    AccessKind::Fetch => (rights & NX == 0, 0x10),
                };
                let from_user = mode == Mode::User;
                let code = code | if from_user { 4 } else { 0 };
                let expected = match () {
                    () if rights & 1 == 0 && code == 0 => NOT_PRESENT_TO_SUPERVISOR,
                    () if rights & 1 == 0 => code,
                    () if allowed && (!from_user || rights & 4 != 0) => 0,
                    () => code | 1,
                };
                at_each_place(&rig, rights, |level| {
                    let found = error_code(&rig, Access::new(kind).in_mode(mode));
                    assert_eq!(found, expected, "{rights:#x} {kind:?} {mode:?} {level:?}");
                });
            }
        }
    }
}

/// Whether bit `bit`, set in a good entry, is reserved; `None` if it belongs to the frame or to what
/// the entry is.
fn is_reserved(level: Level, leaf: bool, bit: u32) -> Option<bool> {
    Some(match bit {
        0 | 2 | 63 => return None,
        7 | 8 if level >= Level::L4 => true,
        7 if !leaf => return None,
        1..=11 => false,
        43..=51 => true,
        12..=42 if !leaf => return None,
        12 => false,
        13..=20 => level >= Level::L2,
        21..=29 => level == Level::L3,
        _ => false,
    })
}

#[test]
fn each_reserved_bit_faults_as_one_and_no_other_bit_does() {
    for levels in BOTH_MODES {
        let (nested, ordinary) = (Rig::new(npt(levels)), Rig::new(long_mode(levels)));
        let places = nested.upper().map(|level| (level, false));
        for (level, leaf) in places.chain([Level::L1, Level::L2, Level::L3].map(|l| (l, true))) {
            for bit in 0..64 {
                let Some(reserved) = is_reserved(level, leaf, bit) else { continue };
                for (access, code) in [(Access::READ, 4), (Access::WRITE, 6), (Access::FETCH, 0x14)]
                {
                    for rig in [&nested, &ordinary] {
                        rig.link_all();
                        rig.plant_leaf(Level::L1, ALL);
                        let entry = rig.link(level.max(Level::L2));
                        if leaf {
                            rig.plant_leaf(level, ALL | 1 << bit);
                        } else {
                            rig.plant(level, entry | 1 << bit);
                        }
                    }
                    let expected = if reserved { code | 9 } else { 0 };
                    let found = exitinfo1(&nested, access);
                    assert_eq!(found & 0xffff_ffff, expected, "{level:?} leaf {leaf} bit {bit}");
                    let found = u64::from(error_code(&ordinary, access));
                    assert_eq!(found, expected, "{level:?} leaf {leaf} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn reserved_bits_have_the_literal_values_of_the_manual() {
    let rig = Rig::new(npt(Levels::Four));
    for (level, bit) in [(Level::L1, 43), (Level::L2, 13), (Level::L2, 20)] {
        rig.link_all();
        rig.plant_leaf(level, ALL | 1 << bit);
        assert_eq!(exitinfo1(&rig, Access::READ), 0x1_0000_000d);
        assert_eq!(exitinfo1(&rig, Access::FETCH), 0x1_0000_001d);
    }
    for (level, bit) in [(Level::L3, 13), (Level::L3, 29), (Level::L4, 7), (Level::L4, 8)] {
        rig.link_all();
        match level {
            Level::L3 => rig.plant_leaf(level, ALL | 1 << bit),
            _ => rig.plant(level, rig.link(level) | 1 << bit),
        }
        assert_eq!(exitinfo1(&rig, Access::READ.of_guest_table()), 0x2_0000_000f);
    }
}

#[test]
fn a_1g_leaf_is_reserved_on_a_processor_without_them() {
    let rig = Rig::new(npt(Levels::Four).without_1g_pages());
    rig.plant_leaf(Level::L3, ALL);
    assert_eq!(exitinfo1(&rig, Access::READ), 0x1_0000_000d);
    assert_eq!(exitinfo1(&rig, Access::READ.of_guest_table()), 0x2_0000_000f);
}

#[test]
fn not_present_means_that_no_other_bit_counts() {
    let (nested, ordinary) = (Rig::new(npt(Levels::Five)), Rig::new(long_mode(Levels::Five)));
    for level in Level::ALL {
        nested.link_all();
        ordinary.link_all();
        nested.plant(level, !1);
        ordinary.plant(level, !1);
        assert_eq!(exitinfo1(&nested, Access::READ), 0x1_0000_0004);
        assert_eq!(error_code(&ordinary, Access::READ), 4);
        assert_eq!(nested.raw(level), !1);
    }
}

#[test]
fn the_encryption_bit_is_no_part_of_the_frame_and_its_neighbours_are_reserved() {
    let format = npt(Levels::Four).with_encryption_bit(47).unwrap();
    let rig = Rig::new(format);
    for level in rig.upper() {
        rig.plant(level, rig.link(level) | 1 << 47);
    }
    rig.plant_leaf(Level::L1, ALL | 1 << 47);
    assert_eq!(rig.reach(Access::WRITE), Ok(rig.frame_at(Level::L1)));
    for bit in [43, 46, 48, 51] {
        rig.plant_leaf(Level::L1, ALL | 1 << bit);
        assert_eq!(exitinfo1(&rig, Access::READ), 0x1_0000_000d);
    }
}

#[test]
fn a_guest_table_access_through_npt_makes_its_page_dirty() {
    let rig = Rig::new(npt(Levels::Four));
    rig.plant_leaf(Level::L1, ALL);
    let found = rig.mmu().translate(rig.gpa, Access::READ.of_guest_table()).unwrap();
    assert_eq!(found.dirty, DirtyChange::Set);
    assert_eq!(rig.raw(Level::L1), DATA | ALL | 0x60);
}

#[test]
fn only_canonical_linear_addresses_are_walked_for() {
    for (levels, bits) in BOTH_MODES.into_iter().zip([48, 57]) {
        let rig = Rig::new(long_mode(levels));
        rig.plant_leaf(Level::L1, ALL);
        for bit in bits - 1..64 {
            let address = Gpa::new(rig.gpa.get() | 1 << bit);
            let fault = rig.mmu().translate(address, Access::READ).unwrap_err();
            assert_eq!(fault, Fault::NonCanonical { address });
            assert_eq!(fault.cause(), Cause::BadAddress);
        }
        // The upper half: index 256 and up of the root, where nothing is.
        let address = Gpa::new(rig.gpa.get() | u64::MAX << (bits - 1));
        let fault = rig.mmu().translate(address, Access::READ).unwrap_err();
        assert_eq!(fault, Fault::PageFault { address, error_code: 4 });
    }
}

#[test]
fn the_upper_half_translates() {
    let rig = Rig::new(long_mode(Levels::Four));
    // A root with every slot leading to the same tables: both halves reach the leaf.
    rig.plant_leaf(Level::L1, ALL);
    let upper = Gpa::new(rig.gpa.get() | u64::MAX << 47);
    // SAFETY: the rig's own frame; the entry names the next one of the rig.
    let root = unsafe { rig.frames.table(rig.tables[3]) };
    // SAFETY: as above.
    unsafe { root.plant(Level::L4.index(upper.page()), Entry::from_raw(rig.link(Level::L4))) };
    let found = rig.mmu().translate(upper, Access::WRITE).unwrap();
    assert_eq!(found.pfn.get(), rig.frame_at(Level::L1));
}

#[test]
fn a_nested_address_beyond_the_width_is_not_present() {
    for (levels, bits) in BOTH_MODES.into_iter().zip([48, 57]) {
        let rig = Rig::new(npt(levels));
        rig.plant_leaf(Level::L1, ALL);
        let gpa = Gpa::new(rig.gpa.get() | 1 << bits);
        let fault = rig.mmu().translate(gpa, Access::WRITE).unwrap_err();
        assert_eq!(fault, Fault::NestedPageFault { gpa, exitinfo1: 0x1_0000_0006 });
    }
}
