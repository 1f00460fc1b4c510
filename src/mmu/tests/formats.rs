//! The MMU and the encoders were written apart: here they must agree.

use super::{
    super::rules::{Meaning, Rules},
    *,
};
use crate::{
    attr::{Attr, LeafFlags, MemType, Prot, SoftBits},
    format::{Fresh, Kind, LongMode, Npt},
    level::PageSize,
};

/// Every format, with each capability at least once on and once off. The paging mode does not bear on
/// what an entry says, so the longest tests take one.
fn formats(modes: &[Levels]) -> Vec<AnyFormat> {
    let mut formats: Vec<AnyFormat> = Vec::new();
    for (levels, width) in modes.iter().flat_map(|&l| [36, 52].map(|w| (l, w))) {
        let width = PhysWidth::new(width).unwrap();
        formats.push(Ept::new(levels, width, EVERYTHING).into());
        formats.push(Npt::new(levels, width).into());
        formats.push(Npt::new(levels, width).without_1g_pages().with_fresh(Fresh::Accessed).into());
        formats.push(LongMode::new(levels, width).into());
        formats.push(LongMode::new(levels, width).without_1g_pages().into());
    }
    let narrow = PhysWidth::new(43).unwrap();
    for caps in 0..=EptCaps::all().bits() {
        formats.push(Ept::new(modes[0], narrow, EptCaps::from_bits_truncate(caps)).into());
    }
    formats.push(Npt::new(Levels::Four, narrow).with_encryption_bit(47).unwrap().into());
    formats.push(LongMode::new(Levels::Five, narrow).with_encryption_bit(51).unwrap().into());
    formats
}

fn rules(format: AnyFormat) -> Rules {
    Rules::new(format, format.root_pointer(HostPfn::new(1), Tracking::On)).unwrap().0
}

/// Every set of attributes that exists in some format.
fn attrs() -> impl Iterator<Item = Attr> {
    let prots = (0..16).map(Prot::from_bits_truncate);
    prots.flat_map(|prot| {
        MemType::ALL.into_iter().flat_map(move |mem_type| {
            (0..8).map(move |flags| {
                Attr::new(prot)
                    .with_mem_type(mem_type)
                    .with_flags(LeafFlags::from_bits_truncate(flags))
                    .with_soft(SoftBits::from_bits_truncate(flags & 3))
            })
        })
    })
}

/// Whether `attr` allows the access, by its meaning and not by any bit.
fn allows(format: AnyFormat, attr: Attr, access: Access) -> bool {
    let user = access.mode == Mode::User;
    let mode_based = match format {
        AnyFormat::Ept(ept) => ept.caps().contains(EptCaps::MODE_BASED_EXECUTE),
        _ => false,
    };
    let owner = match format {
        AnyFormat::LongMode(_) => !user || attr.flags().contains(LeafFlags::USER),
        _ => true,
    };
    let right = match access.kind {
        AccessKind::Read => Prot::R,
        AccessKind::Write => Prot::W,
        AccessKind::Fetch if user && mode_based => Prot::XU,
        AccessKind::Fetch => Prot::X,
    };
    owner && attr.prot().contains(right)
}

#[test]
fn every_leaf_that_can_be_encoded_is_accepted_with_exactly_its_rights() {
    let mut encoded = 0;
    for format in formats(&BOTH_MODES) {
        let rules = rules(format);
        let pfn = HostPfn::new(7 << 18);
        for (attr, size) in attrs().flat_map(|attr| PageSize::ALL.map(|size| (attr, size))) {
            let Ok(entry) = format.leaf(size, pfn, attr) else { continue };
            encoded += 1;
            let Meaning::Leaf { frame, size: found, rights } = rules.meaning(size.level(), entry)
            else {
                panic!("{format:?} {size:?} {attr:?}: {entry:?} is not a leaf to the MMU");
            };
            assert_eq!((frame, found), (pfn, size));
            for (kind, mode) in KINDS.into_iter().flat_map(|k| MODES.map(|m| (k, m))) {
                let access = Access::new(kind).in_mode(mode);
                let allowed = rights.contains(rules.want(access).rights);
                assert_eq!(allowed, allows(format, attr, access), "{format:?} {attr:?} {access:?}");
            }
        }
    }
    assert!(encoded > 3_000);
}
const MODES: [Mode; 2] = [Mode::User, Mode::Supervisor];

#[test]
fn every_table_entry_that_can_be_encoded_leads_on_with_all_rights() {
    for format in formats(&BOTH_MODES) {
        let rules = rules(format);
        let pfn = HostPfn::new(0x00ab_cdef);
        let entry = format.table(pfn);
        for software in [0, format.accessed_bit(), Entry::CARRY] {
            for level in [Level::L2, Level::L3, Level::L4, Level::L5] {
                let meaning = rules.meaning(level, entry.with(software));
                let Meaning::Table { frame, rights } = meaning else {
                    panic!("{format:?} {level:?}: {meaning:?}");
                };
                assert_eq!(frame, pfn);
                for (kind, mode) in KINDS.into_iter().flat_map(|k| MODES.map(|m| (k, m))) {
                    let access = Access::new(kind).in_mode(mode);
                    assert!(rights.contains(rules.want(access).rights));
                }
            }
        }
    }
}

/// Raw values: every combination of the low bits, with each of some high ones.
fn raws() -> impl Iterator<Item = Entry> {
    let high = [0, DATA, 1 << 12, 1 << 20, 1 << 29, 1 << 43, 1 << 51, 0x1f << 52, 1 << 63];
    (0..4096).flat_map(move |low| high.into_iter().map(move |high| Entry::from_raw(low | high)))
}

#[test]
fn both_sides_agree_on_what_every_value_is() {
    for format in formats(&[Levels::Four]) {
        let rules = rules(format);
        for (entry, level) in raws().flat_map(|entry| [1, 2, 3, 4].map(|n| (entry, n))) {
            let level = Level::ALL[level - 1];
            match (rules.meaning(level, entry), format.kind(level, entry)) {
                (Meaning::NotPresent, Kind::Empty | Kind::Unpopulated | Kind::Stray) => {
                    assert!(!format.is_present(entry));
                }
                (Meaning::Table { frame, .. }, Kind::Table(same)) => assert_eq!(frame, same),
                (Meaning::Leaf { frame, size, rights }, Kind::Leaf) => {
                    assert_eq!(frame, format.leaf_frame(size, entry));
                    let mut prot = format.attr(size, entry).prot();
                    // The MMU does not know of leaves that are watched.
                    if entry.has(1 << 53) && !entry.has(2) {
                        prot.remove(Prot::W);
                    }
                    assert_eq!(rights.prot(), prot);
                }
                // The library never writes these; what it takes them for is all one.
                (Meaning::Reserved, _) => assert!(format.is_present(entry)),
                (meaning, kind) => panic!("{format:?} {level:?} {entry:?}: {meaning:?} {kind:?}"),
            }
        }
    }
}

#[test]
fn a_value_that_the_encoder_could_have_written_is_never_reserved() {
    for format in formats(&[Levels::Four]) {
        let rules = rules(format);
        for (entry, size) in raws().flat_map(|entry| PageSize::ALL.map(|size| (entry, size))) {
            let level = size.level();
            if format.kind(level, entry) != Kind::Leaf {
                continue;
            }
            let again = format.leaf(size, format.leaf_frame(size, entry), format.attr(size, entry));
            let kept = !(format.accessed_bit() | format.dirty_bit() | Entry::LATE);
            if again.is_ok_and(|again| again.raw() & kept == entry.raw() & kept) {
                assert!(format.is_well_formed(level, entry));
                let meaning = rules.meaning(level, entry);
                assert!(matches!(meaning, Meaning::Leaf { .. }), "{format:?} {size:?} {entry:?}");
            }
        }
    }
}

#[test]
fn rights_that_the_ept_encoder_refuses_the_mmu_refuses_too() {
    for format in formats(&BOTH_MODES) {
        let AnyFormat::Ept(ept) = format else { continue };
        let rules = rules(format);
        for prot in (0..16).map(Prot::from_bits_truncate) {
            let user = if prot.contains(Prot::XU) { 1 << 10 } else { 0 };
            let raw = u64::from((prot & Prot::RWX).bits()) | user | DATA | 6 << 3;
            let accepted = matches!(
                rules.meaning(Level::L1, Entry::from_raw(raw & !DATA | 1 << 30)),
                Meaning::Leaf { .. }
            );
            let encoded = ept.leaf(PageSize::Size4K, HostPfn::new(1 << 18), Attr::new(prot));
            // Without the control bit 10 is ignored: the encoder must refuse what it cannot say.
            let ignored = user != 0 && !ept.caps().contains(EptCaps::MODE_BASED_EXECUTE);
            assert_eq!(encoded.is_ok(), accepted && !ignored, "{ept:?} {prot:?}");
        }
    }
}
