//! Root pointers: EPTP, nCR3 and CR3.

use super::*;
use crate::format::{LongMode, Npt};

fn refused(rig: &Rig, root_pointer: u64) -> Option<BadRootPointer> {
    rig.try_mmu(root_pointer).err()
}

#[test]
fn an_eptp_is_refused_for_each_of_its_rules() {
    let (rig, rig5) =
        (Rig::new(ept(Levels::Four, EVERYTHING)), Rig::new(ept(Levels::Five, EVERYTHING)));
    let root = rig.tables[3].get() << 12;
    for mem_type in 0..8 {
        let expected = (mem_type != 0 && mem_type != 6)
            .then_some(BadRootPointer::MemType { raw: mem_type as u8 });
        assert_eq!(refused(&rig, root | 3 << 3 | mem_type), expected);
    }
    for length in 0..8 {
        let wrong = BadRootPointer::WalkLength { levels: length as u8 + 1 };
        assert_eq!(refused(&rig, root | length << 3 | 6), (length != 3).then_some(wrong));
        assert_eq!(refused(&rig5, root | length << 3 | 6), (length != 4).then_some(wrong));
    }
    for bit in (7..12).chain(46..64) {
        let expected = BadRootPointer::Reserved { bits: 1 << bit };
        assert_eq!(refused(&rig, root | 3 << 3 | 6 | 1 << bit), Some(expected));
    }
    assert_eq!(refused(&rig, root | 1 << 6 | 3 << 3 | 6), None);
    let without = Rig::new(ept(Levels::Four, EVERYTHING - EptCaps::ACCESSED_DIRTY));
    let expected = Some(BadRootPointer::AccessedDirty);
    assert_eq!(refused(&without, root | 1 << 6 | 3 << 3 | 6), expected);
}

#[test]
fn an_eptp_without_bit_6_turns_accessed_and_dirty_flags_off() {
    let rig = Rig::new(ept(Levels::Four, EVERYTHING));
    rig.plant_leaf(Level::L1, ALL);
    let mmu = rig.try_mmu(rig.tables[3].get() << 12 | 3 << 3).unwrap();
    assert_eq!(mmu.translate(rig.gpa, Access::WRITE).unwrap().dirty, DirtyChange::None);
    assert_eq!(rig.raw(Level::L1), DATA | ALL);
}

#[test]
fn a_cr3_is_refused_for_bits_above_the_width_alone() {
    let width = PhysWidth::new(43).unwrap();
    let encrypted = Npt::new(Levels::Four, width).with_encryption_bit(47).unwrap();
    let plain = LongMode::new(Levels::Four, width);
    for (rig, encryption) in [(Rig::new(encrypted), 47), (Rig::new(plain), 64)] {
        let root = rig.tables[3].get() << 12;
        assert_eq!(refused(&rig, root | 0xfff), None);
        for bit in 43..64 {
            let reserved = BadRootPointer::Reserved { bits: 1 << bit };
            assert_eq!(refused(&rig, root | 1 << bit), (bit != encryption).then_some(reserved));
        }
    }
}

#[test]
fn every_root_pointer_that_a_format_makes_is_accepted() {
    for levels in BOTH_MODES {
        let formats: [AnyFormat; 4] = [
            ept(levels, EVERYTHING).into(),
            ept(levels, EptCaps::empty()).into(),
            Npt::new(levels, PhysWidth::MAX).into(),
            LongMode::new(levels, PhysWidth::MAX).into(),
        ];
        for format in formats {
            let rig = Rig::new(format);
            assert!(rig.mmu().translate(rig.gpa, Access::READ).is_err());
        }
    }
}
