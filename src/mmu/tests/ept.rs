//! EPT against the literal tables of the manual.

use super::*;

/// What an access of the rig's address comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Reached,
    Violation(u64),
    Misconfigured,
}
use Outcome::{Misconfigured as Mis, Reached as Ok, Violation as V};

fn outcome(rig: &Rig, access: Access) -> Outcome {
    match rig.reach(access) {
        Result::Ok(_) => Ok,
        Err(Fault::EptViolation { gpa, qualification }) => {
            assert_eq!(gpa, rig.gpa);
            V(qualification)
        }
        Err(Fault::EptMisconfiguration { gpa }) => {
            assert_eq!(gpa, rig.gpa);
            Mis
        }
        Err(other) => panic!("{other} from EPT"),
    }
}

/// By R, W and X as a number: what a read, a write and a fetch come to.
const BY_RIGHTS: [[Outcome; 3]; 8] = [
    [V(0x181), V(0x182), V(0x184)],
    [Ok, V(0x18a), V(0x18c)],
    [Mis, Mis, Mis],
    [Ok, Ok, V(0x19c)],
    [V(0x1a1), V(0x1a2), Ok],
    [Ok, V(0x1aa), Ok],
    [Mis, Mis, Mis],
    [Ok, Ok, Ok],
];

/// Every entry that can be on the path: a table entry of each upper level, a leaf of each size.
fn places(rig: &Rig) -> impl Iterator<Item = (Level, Place)> + use<> {
    let tables = rig.upper().map(|level| (level, Place::Table));
    tables.chain([Level::L1, Level::L2, Level::L3].map(|level| (level, Place::Leaf)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Table,
    Leaf,
}

/// Puts `rights` and `extra` bits at one place of the path and everything at the others.
fn arrange(rig: &Rig, (level, place): (Level, Place), rights: u64, extra: u64) {
    rig.link_all();
    match place {
        Place::Table => {
            rig.plant_leaf(Level::L1, ALL);
            rig.plant(level, rig.link(level) & !ALL | rights | extra);
        }
        Place::Leaf => rig.plant_leaf(level, rights | extra),
    }
}

fn all_caps() -> impl Iterator<Item = EptCaps> {
    let [ad, xo] = [EptCaps::ACCESSED_DIRTY, EptCaps::EXECUTE_ONLY];
    let large = EptCaps::PAGES_2M | EptCaps::PAGES_1G;
    [large, large | ad, large | xo, large | ad | xo].into_iter()
}

#[test]
fn rights_at_any_one_level_decide_as_the_manual_says() {
    for (levels, caps) in BOTH_MODES.into_iter().flat_map(|l| all_caps().map(move |c| (l, c))) {
        let rig = Rig::new(ept(levels, caps));
        for place in places(&rig) {
            for mem_type in 0..8 {
                let leaf = place.1 == Place::Leaf;
                let extra = if leaf { mem_type << 3 } else { 0 };
                for (rights, &expected) in BY_RIGHTS.iter().enumerate() {
                    let bad_type = leaf && rights != 0 && [2, 3, 7].contains(&mem_type);
                    let no_execute_only = rights == 4 && !caps.contains(EptCaps::EXECUTE_ONLY);
                    for (kind, expected) in KINDS.into_iter().zip(expected) {
                        arrange(&rig, place, rights as u64, extra);
                        let expected = if bad_type || no_execute_only { Mis } else { expected };
                        let found = outcome(&rig, Access::new(kind));
                        assert_eq!(found, expected, "{levels:?} {caps:?} {place:?} {rights:03b}");
                    }
                }
            }
        }
    }
}

#[test]
fn rights_are_those_that_all_levels_have() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    for (above, below) in (0..64).map(|n| (n >> 3, n & 7)) {
        let shared = above & below;
        for (kind, wanted) in KINDS.into_iter().zip([1, 2, 4]) {
            rig.plant(Level::L3, rig.link(Level::L3) & !ALL | above);
            rig.plant_leaf(Level::L1, below);
            let expected = match () {
                // The walk goes from the top: what stops it first is reported.
                () if above == 0 => V(0x180 | wanted),
                () if above & 3 == 2 => Mis,
                () if below == 0 => V(0x180 | wanted),
                () if below & 3 == 2 => Mis,
                () if shared & wanted != 0 => Ok,
                () => V(0x180 | shared << 3 | wanted),
            };
            assert_eq!(outcome(&rig, Access::new(kind)), expected, "{above:03b} {below:03b}");
        }
    }
}

#[test]
fn mode_based_execute_has_a_right_of_its_own_for_user_fetches() {
    for execute_only in [EptCaps::empty(), EptCaps::EXECUTE_ONLY] {
        let caps = EptCaps::MODE_BASED_EXECUTE | EptCaps::PAGES_2M | EptCaps::PAGES_1G;
        let rig = Rig::new(ept(Levels::Four, caps | execute_only));
        for level in rig.upper() {
            rig.plant(level, rig.link(level) | 1 << 10);
        }
        let fetches = [
            (Access::READ, 1, 1),
            (Access::WRITE, 2, 2),
            (Access::FETCH, 4, 1 << 10),
            (Access::FETCH.in_mode(Mode::Supervisor), 4, 4),
        ];
        for rights in (0..16).map(|n: u64| n & 7 | (n & 8) << 7) {
            for (access, report, wanted) in fetches {
                rig.plant_leaf(Level::L1, rights);
                let expected = match () {
                    () if rights == 0 => V(0x180 | report),
                    () if rights & 3 == 2 => Mis,
                    () if rights & 1 == 0 && execute_only.is_empty() => Mis,
                    () if rights & wanted != 0 => Ok,
                    () => V(0x180 | (rights & 7) << 3 | (rights & 1 << 10) >> 4 | report),
                };
                assert_eq!(outcome(&rig, access), expected, "{rights:#x} {access:?}");
            }
        }
    }
    // Spelled out: readable and user-executable, fetched by a supervisor.
    let rig = Rig::new(ept(Levels::Four, EVERYTHING | EptCaps::MODE_BASED_EXECUTE));
    rig.upper().for_each(|level| rig.plant(level, rig.link(level) | 1 << 10));
    rig.plant_leaf(Level::L1, 1 | 1 << 10);
    assert_eq!(outcome(&rig, Access::FETCH.in_mode(Mode::Supervisor)), V(0x1cc));
}

#[test]
fn without_mode_based_execute_bit_10_is_nothing() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, 1 << 10);
    assert_eq!(outcome(&rig, Access::FETCH), V(0x184));
    rig.plant_leaf(Level::L1, 1 | 1 << 10);
    assert_eq!(outcome(&rig, Access::FETCH), V(0x18c));
}

/// Whether bit `bit`, set in a good entry, makes it a misconfiguration; `None` if the bit belongs to
/// the frame, or to what the entry is.
fn is_reserved(level: Level, place: Place, bit: u32, width: u32) -> Option<bool> {
    Some(match (bit, place) {
        (0..=2, _) => return None,
        (3..=6, Place::Table) => true,
        (7, Place::Table) if level >= Level::L4 => true,
        (7, Place::Table) => return None,
        // The leaves here are UC, 0: bit 4 alone makes type 2.
        (4, Place::Leaf) => true,
        (3..=11, _) => false,
        (12..52, _) if bit >= width => true,
        (12..52, Place::Table) => return None,
        (12..21, Place::Leaf) if level >= Level::L2 => true,
        (21..30, Place::Leaf) if level == Level::L3 => true,
        _ => false,
    })
}

#[test]
fn each_reserved_bit_is_a_misconfiguration_and_no_other_bit_is() {
    for (levels, width) in BOTH_MODES.into_iter().flat_map(|l| [40, 46, 52].map(|w| (l, w))) {
        let width_bits = PhysWidth::new(width as u8).unwrap();
        let rig = Rig::new(Ept::new(levels, width_bits, EVERYTHING));
        for place in places(&rig) {
            for bit in 0..64 {
                let Some(reserved) = is_reserved(place.0, place.1, bit, width) else { continue };
                for (kind, report) in KINDS.into_iter().zip([0x181, 0x182, 0x184]) {
                    let access = Access::new(kind);
                    arrange(&rig, place, ALL, 1 << bit);
                    let expected = if reserved { Mis } else { Ok };
                    assert_eq!(outcome(&rig, access), expected, "{place:?} bit {bit}");
                    // Not present: nothing else counts.
                    arrange(&rig, place, 0, 1 << bit);
                    assert_eq!(outcome(&rig, access), V(report), "{place:?} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn a_leaf_of_a_size_that_the_processor_lacks_is_a_misconfiguration() {
    for (caps, level) in [(EptCaps::PAGES_2M, Level::L3), (EptCaps::PAGES_1G, Level::L2)] {
        let rig = Rig::new(ept(Levels::Four, caps));
        rig.plant_leaf(level, ALL);
        assert_eq!(outcome(&rig, Access::READ), Mis);
    }
}

#[test]
fn what_is_found_below_comes_before_the_rights_above() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant(Level::L4, rig.link(Level::L4) & !ALL | 1);
    assert_eq!(outcome(&rig, Access::WRITE), V(0x182));
    rig.plant_leaf(Level::L1, 2);
    assert_eq!(outcome(&rig, Access::WRITE), Mis);
    rig.plant_leaf(Level::L1, ALL);
    assert_eq!(outcome(&rig, Access::WRITE), V(0x18a));
}

#[test]
fn a_guest_table_access_is_a_write_while_accessed_and_dirty_flags_are_kept() {
    let of_table = KINDS.map(|kind| Access::new(kind).of_guest_table());
    let kept = Rig::new(ept(Levels::Four, EVERYTHING));
    let not_kept = Rig::new(ept(Levels::Four, EVERYTHING - EptCaps::ACCESSED_DIRTY));
    for rights in [0, 1, 3, 4, 5, 7] {
        kept.plant_leaf(Level::L1, rights);
        not_kept.plant_leaf(Level::L1, rights);
        for (access, as_data) in of_table.into_iter().zip([1, 2, 1]) {
            let expected = if rights & 2 != 0 { Ok } else { V(0x083 | rights << 3) };
            assert_eq!(outcome(&kept, access), expected);
            let expected =
                if rights & as_data != 0 { Ok } else { V(0x080 | rights << 3 | as_data) };
            assert_eq!(outcome(&not_kept, access), expected);
        }
    }
}

#[test]
fn an_address_beyond_the_width_is_a_violation() {
    for (levels, bits) in BOTH_MODES.into_iter().zip([48, 57]) {
        let rig = Rig::new(ept(levels, EVERYTHING));
        rig.plant_leaf(Level::L1, ALL);
        for bit in bits..64 {
            let gpa = Gpa::new(rig.gpa.get() | 1 << bit);
            let fault = rig.mmu().translate(gpa, Access::WRITE).unwrap_err();
            assert_eq!(fault, Fault::EptViolation { gpa, qualification: 0x182 });
            assert_eq!((fault.gpa(), fault.cause()), (gpa, Cause::NotPresent));
        }
    }
}

#[test]
fn the_cause_says_what_to_do() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    let cause = |access| {
        let fault = rig.reach(access).unwrap_err();
        assert_eq!(fault.gpa(), rig.gpa);
        fault.cause()
    };
    assert_eq!(cause(Access::READ), Cause::NotPresent);
    rig.plant_leaf(Level::L1, 1);
    assert_eq!(cause(Access::WRITE), Cause::Rights);
    rig.plant_leaf(Level::L1, 2);
    assert_eq!(cause(Access::WRITE), Cause::Reserved);
}
