//! The tables as an MMU sees them: it reaches what lookup shows, with the rights that it shows, and
//! the bits that it sets are the ones that lookup then shows.
#![cfg(not(any(loom, shuttle)))]
#![expect(unsafe_code, reason = "reads tables through the frame source")]

#[expect(clippy::allow_attributes, reason = "each test program uses another part")]
#[allow(dead_code, unused_imports, reason = "each test program uses another part")]
mod common;

use common::{
    Checked, GIB, PAGE, RWX, SMALL, Space, at, dump, every_format, pfn, populated, range,
};
use slat::{
    Attr, Format, GpaRange, LeafFlags, Prot, Tracking,
    mmu::{Access, AccessKind, Cause, DirtyChange, Mode},
};

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];

/// Every set of rights and every choice of user mode that the format can encode.
fn attrs(format: &impl Format) -> Vec<Attr> {
    let prots = (0..16).map(Prot::from_bits_truncate);
    let flags = [LeafFlags::empty(), LeafFlags::USER, LeafFlags::GLOBAL, LeafFlags::IGNORE_PAT];
    let all = prots.flat_map(|prot| flags.map(|flags| Attr::new(prot).with_flags(flags)));
    all.filter(|&attr| format.leaf(SMALL, pfn(1), attr).is_ok()).collect()
}

/// What the attributes promise of an access, said without bits.
fn allows(format: &impl Format, attr: Attr, access: Access) -> bool {
    let prot = attr.prot();
    let (is_ept, user_mode) = (format.name() == "ept", access.mode == Mode::User);
    if format.name() == "long-mode" && user_mode && !attr.flags().contains(LeafFlags::USER) {
        return false;
    }
    match access.kind {
        AccessKind::Read => prot.contains(Prot::R),
        AccessKind::Write => prot.contains(Prot::W),
        // Only the five-level EPT of these tests tells the modes apart.
        AccessKind::Fetch if is_ept && user_mode && format.levels() == slat::Levels::Five => {
            prot.contains(Prot::XU)
        }
        AccessKind::Fetch => prot.contains(Prot::X),
    }
}

every_format! {
    fn the_mmu_reaches_what_lookup_shows_with_the_rights_it_shows(format: impl Format) {
        let table = Checked::new(format, 24);
        let start = GIB - 40 * PAGE;
        let attrs = attrs(&format);
        table.populate_pages(start, (attrs.len() as u64 + 1) * PAGE);
        let mut observer = table.observer();
        let inside = observer.enter(Tracking::On);
        let (mmu, pin) = (inside.mmu(), table.pin());
        for (page, &attr) in (0..).zip(&attrs) {
            pin.map(at(start + page * PAGE), pfn(0x700 + page), SMALL, attr).unwrap();
        }
        for (page, &attr) in (0..).zip(&attrs) {
            let gpa = at(start + page * PAGE + 0x321);
            let slot = pin.slot(gpa).unwrap();
            for (kind, mode) in KINDS.into_iter().flat_map(|kind| {
                [(kind, Mode::User), (kind, Mode::Supervisor)]
            }) {
                slot.clear_accessed();
                slot.clear_dirty();
                let access = Access::new(kind).in_mode(mode);
                let writes = kind == AccessKind::Write;
                let allowed = allows(&format, attr, access);
                match mmu.translate(gpa, access) {
                    Ok(reached) => {
                        assert!(allowed, "{attr:?} {access:?}");
                        assert_eq!((reached.pfn, reached.size), (pfn(0x700 + page), SMALL));
                        assert_eq!(reached.dirty == DirtyChange::Set, writes);
                    }
                    Err(fault) => {
                        assert!(!allowed, "{attr:?} {access:?}: {fault:?}");
                        assert_eq!(fault.cause(), Cause::Rights);
                    }
                }
                let there = pin.lookup(gpa).unwrap();
                assert_eq!((there.accessed, there.dirty), (allowed, allowed && writes));
                assert_eq!(there.attr, attr);
            }
        }
        for gpa in [start + attrs.len() as u64 * PAGE, start - PAGE, 4 * GIB, 700 * GIB] {
            let fault = mmu.translate(at(gpa), Access::READ).unwrap_err();
            assert_eq!(fault.cause(), Cause::NotPresent);
        }
        // The dump checks that no entry has a stray bit, whatever the MMU set.
        let bits = format.accessed_bit() | format.dirty_bit();
        assert!(dump(&table).iter().all(|line| format.is_present(line.4) || !line.4.has(bits)));
    }

    fn the_mmu_follows_protect_unmap_and_populate_mapped(format: impl Format) {
        let table = Checked::new(format, 24);
        let mut observer = table.observer();
        let inside = observer.enter(Tracking::On);
        let (mmu, pin) = (inside.mmu(), table.pin());
        let pages = range(GIB - 8 * PAGE, 16 * PAGE);
        table.populate_mapped(pages, SMALL, pfn(0x50), RWX).unwrap();
        let write = Access::WRITE.in_mode(Mode::Supervisor);
        for page in 0..16 {
            let reached = mmu.translate(at(GIB - 8 * PAGE + page * PAGE), write).unwrap();
            assert_eq!(reached.pfn, pfn(0x50 + page));
        }
        assert!(pin.mappings(pages).unwrap().all(|mapping| mapping.accessed && mapping.dirty));
        let _ = pin.protect(pages, Prot::R).unwrap();
        assert_eq!(mmu.translate(at(GIB), write).unwrap_err().cause(), Cause::Rights);
        assert!(pin.mappings(pages).unwrap().all(|mapping| mapping.accessed && mapping.dirty));
        let (mapping, _) = pin.unmap(at(GIB)).unwrap();
        assert!(mapping.accessed && mapping.dirty);
        assert_eq!(mmu.translate(at(GIB), write).unwrap_err().cause(), Cause::NotPresent);
        // Mapped again, the page begins clean.
        table.map(GIB, 0x99);
        let fresh = pin.lookup(at(GIB)).unwrap();
        assert!(!fresh.accessed && !fresh.dirty);
    }

    fn the_mmu_reaches_the_ends_of_the_space(format: impl Format) {
        let space = Space::of(&format);
        let table = Checked::new(format, 24);
        let ends = [0, space.last_low_page(), space.upper, space.last_page()];
        for (frame, gpa) in (1..).zip(ends) {
            let page = GpaRange::from_pages(at(gpa), 1).unwrap();
            let _ = table.populate_mapped(page, SMALL, pfn(frame), RWX);
        }
        let read = Access::READ.in_mode(Mode::Supervisor);
        let mut observer = table.observer();
        let inside = observer.enter(Tracking::On);
        for gpa in ends {
            let reached = inside.mmu().translate(at(gpa | 0xfff), read).unwrap();
            assert_eq!(Some(reached.pfn), table.pin().lookup(at(gpa)).map(|there| there.pfn));
        }
        for gpa in space.outside() {
            let fault = inside.mmu().translate(at(gpa), read).unwrap_err();
            assert!(matches!(fault.cause(), Cause::NotPresent | Cause::BadAddress), "{fault:?}");
        }
        let pages = if space.is_split() { 4 } else { 2 };
        assert_eq!(populated(&table).iter().map(|(_, count)| count).sum::<u64>(), pages);
    }
}
