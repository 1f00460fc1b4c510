//! What devices hold, while the page stays, moves, or goes (D6, D7).

use std::sync::Arc;

use slat::{CopyOnWrite, FaultError, Format, Hold, HoldEnd, Prot};

use crate::{
    common::{GIB, MIB, PAGE, at, every_format, range},
    rig::{Audited, Frames, Rig, nth, part, refused},
};

/// How a hold is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Written,
    Unwritten,
    Dropped,
    Deferred,
}

const WAYS: [Way; 4] = [Way::Written, Way::Unwritten, Way::Dropped, Way::Deferred];

/// Lets a hold go; says what became of it, where that is told.
fn let_go<F: Format>(hold: Hold<F, Frames>, way: Way) -> Option<HoldEnd> {
    match way {
        Way::Written => Some(hold.release_written()),
        Way::Unwritten => Some(hold.release()),
        Way::Dropped => {
            drop(hold);
            None
        }
        Way::Deferred => {
            hold.defer_written();
            None
        }
    }
}

/// A page is held, and the test notes that.
fn hold<F: Format>(rig: &Rig<F>, backing: &Audited, gpa: u64, access: Prot) -> Hold<F, Frames> {
    let hold = rig.cpu().vcpu.hold(at(gpa), access).unwrap();
    backing.hold(hold.frame());
    hold
}

every_format! {
    #![and_without_bits]
    /// D6.
    fn a_hold_that_was_written_makes_its_page_dirty(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(2 * MIB - 3 * PAGE, 6 * PAGE);
        let mut cpu = rig.cpu();
        (0..6).for_each(|page| cpu.writes(nth(area, page), 1));
        rig.track();
        for way in WAYS {
            for access in [Prot::R, Prot::W, Prot::RW] {
                let hold = cpu.vcpu.hold(at(nth(area, 2) + 0x123), access).unwrap();
                assert_eq!((hold.gpa().get(), hold.access()), (nth(area, 2) + 0x123, access));
                assert_eq!(hold.frame(), rig.frame(nth(area, 2)));
                assert_eq!(rig.stats().held, 1);
                rig.memory.write(hold.frame(), 77);
                if let Some(end) = let_go(hold, way) {
                    assert_eq!(end, HoldEnd::InPlace, "{way:?}");
                }
                let written = match way {
                    Way::Written | Way::Deferred => true,
                    Way::Unwritten => false,
                    Way::Dropped => access.contains(Prot::W),
                };
                let dirty = if written { vec![nth(area, 2)] } else { vec![] };
                assert_eq!(rig.look(area), dirty, "{way:?} {access:?}");
                assert!(rig.look(area).is_empty());
                cpu.reads(nth(area, 2), 77);
            }
        }
        let hold = cpu.vcpu.hold(at(nth(area, 4)), Prot::W).unwrap();
        for _ in 0..3 {
            assert_eq!(hold.mark_written(), HoldEnd::InPlace);
            assert_eq!(rig.look(area), [nth(area, 4)]);
        }
        assert_eq!(hold.release(), HoldEnd::InPlace);
        assert!(rig.look(area).is_empty());
        rig.audit();
    }

    /// D6: the page moved.
    fn a_hold_of_a_page_that_was_discarded_keeps_its_frame(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB, 8 * PAGE);
        let mut cpu = rig.cpu();
        for tracked in [false, true] {
            for way in WAYS {
                if tracked {
                    rig.track();
                }
                cpu.writes(nth(area, 1), 11);
                let hold = hold(&rig, &backing, nth(area, 1), Prot::RW);
                let free = rig.memory.free();
                assert_eq!(rig.discard(part(area, 1, 1)), Ok(1));
                assert!(!hold.is_gone());
                // Another frame, wiped; the old one is the device's still.
                cpu.reads(nth(area, 1), 0);
                assert_ne!(rig.frame(nth(area, 1)), hold.frame());
                assert_eq!((rig.memory.free(), rig.memory.read(hold.frame())), (free - 1, 11));
                rig.memory.write(hold.frame(), 12);
                if tracked {
                    rig.look(area);
                }
                backing.let_go(hold.frame());
                if let Some(end) = let_go(hold, way) {
                    assert_eq!(end, HoldEnd::Moved, "{way:?}");
                }
                if tracked {
                    assert!(rig.look(area).is_empty(), "{way:?}: another page is dirty");
                } else if way == Way::Deferred {
                    // Whenever somebody looks, or changes something.
                    rig.discard(part(area, 7, 1)).unwrap();
                }
                assert_eq!(rig.memory.free(), free, "{way:?}");
                cpu.reads(nth(area, 1), 0);
                rig.audit();
            }
        }
    }

    /// D7.
    fn a_hold_outlives_its_region(format: impl Format) {
        for way in WAYS {
            let rig = Rig::new(format);
            let (area, backing) = rig.map_demand(GIB - PAGE, 2 * PAGE);
            let total = rig.memory.free();
            let mut cpu = rig.cpu();
            cpu.writes(nth(area, 0), 5);
            cpu.writes(nth(area, 1), 6);
            let hold = hold(&rig, &backing, nth(area, 1), Prot::RW);
            rig.unmap(area);
            assert!(hold.is_gone());
            assert_eq!((rig.memory.free(), rig.memory.read(hold.frame())), (total - 1, 6));
            // Another region at the same place is none of its business.
            let (_, _) = rig.map_demand(GIB - PAGE, 2 * PAGE);
            rig.track();
            cpu.reads(nth(area, 1), 0);
            rig.look(area);
            rig.memory.write(hold.frame(), 7);
            assert_eq!(hold.mark_written(), HoldEnd::RegionGone);
            backing.let_go(hold.frame());
            if let Some(end) = let_go(hold, way) {
                assert_eq!(end, HoldEnd::RegionGone);
            }
            assert!(rig.look(area).is_empty());
            backing.check();
            assert_eq!(rig.memory.free(), total - 1);
            cpu.reads(nth(area, 1), 0);
        }
    }

    fn a_hold_outlives_its_backing_and_the_end_of_its_region(format: impl Format) {
        for way in WAYS {
            let rig = Rig::new(format);
            let (area, backing) = rig.map_demand(GIB, 8 * PAGE);
            let mut cpu = rig.cpu();
            (0..8).for_each(|page| cpu.writes(nth(area, page), page + 1));
            let first = hold(&rig, &backing, nth(area, 6), Prot::RW);
            let shorter = part(area, 0, 4);
            rig.resize_region(area, shorter).unwrap();
            assert_eq!(rig.memory.read(first.frame()), 7);
            backing.let_go(first.frame());
            assert!(matches!(let_go(first, way), None | Some(HoldEnd::RegionGone)));
            let second = hold(&rig, &backing, nth(area, 2), Prot::RW);
            let next = rig.demand(4);
            rig.replace_backing(shorter, rig.watch(&next), 0).unwrap();
            assert!(second.is_gone());
            assert_eq!(rig.memory.read(second.frame()), 3);
            cpu.reads(nth(area, 2), 0);
            backing.let_go(second.frame());
            assert!(matches!(let_go(second, way), None | Some(HoldEnd::RegionGone)));
            // What was put off is done with the next change, if not before.
            rig.discard(part(area, 0, 1)).unwrap();
            backing.check();
            rig.audit();
        }
    }

    fn a_frame_that_is_held_twice_goes_with_the_second(format: impl Format) {
        let rig = Rig::new(format);
        let (area, backing) = rig.map_demand(GIB, 2 * PAGE);
        let total = rig.memory.free();
        let (one, two) =
            (hold(&rig, &backing, GIB, Prot::R), hold(&rig, &backing, GIB + 9, Prot::RW));
        assert_eq!((one.frame(), rig.stats().held), (two.frame(), 1));
        rig.unmap(area);
        assert_eq!(rig.memory.free(), total - 1);
        backing.let_go(one.frame());
        assert_eq!(one.release(), HoldEnd::RegionGone);
        assert_eq!(rig.memory.free(), total - 1);
        backing.let_go(two.frame());
        assert_eq!(two.release_written(), HoldEnd::RegionGone);
        assert_eq!(rig.memory.free(), total);
    }

    fn many_holds_that_were_put_off_are_noted_and_released(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 4 * PAGE);
        let mut cpu = rig.cpu();
        (0..4).for_each(|page| cpu.writes(nth(area, page), 1));
        rig.track();
        // More than are put off: some are noted before anybody looks.
        for round in 0..3000 {
            cpu.vcpu.hold(at(nth(area, round % 3)), Prot::W).unwrap().defer_written();
        }
        assert_eq!(rig.look(area), [0, 1, 2].map(|page| nth(area, page)));
        assert!(rig.look(area).is_empty());
        rig.audit();
    }

    fn a_range_is_held_whole_or_not_at_all(format: impl Format) {
        let rig = Rig::new(format);
        let (area, _) = rig.map_demand(GIB, 8 * PAGE);
        let memory = rig.fixed(8);
        let second = range(GIB + 8 * PAGE, 8 * PAGE);
        rig.map(second, &memory);
        let mut cpu = rig.cpu();
        (0..16).for_each(|page| cpu.writes(nth(area, page), page));
        rig.track();
        let all = cpu.vcpu.hold_range(at(GIB + 100), 16 * PAGE - 300, Prot::RW).unwrap();
        assert_eq!((all.pages().len(), rig.stats().held), (16, 16));
        let runs: Vec<_> = all.runs().collect();
        assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), 16 * PAGE - 300);
        assert_eq!((runs[0].offset, runs[0].pfn), (100, rig.frame(GIB)));
        let last = runs.last().unwrap();
        assert!(last.len >= 8 * PAGE - 200, "consecutive frames are one run: {runs:?}");
        assert_eq!(all.release(), HoldEnd::InPlace);
        assert!(rig.look(range(GIB, 16 * PAGE)).is_empty());
        // Nothing is held, and nothing counts as written, if a page cannot be.
        for (start, len) in [(GIB + 14 * PAGE, 3 * PAGE), (GIB, 17 * PAGE), (GIB, u64::MAX)] {
            let refused = cpu.vcpu.hold_range(at(start), len, Prot::RW);
            refused!(refused, FaultError::NoRegion { .. });
            assert_eq!(rig.stats().held, 0);
            assert!(rig.look(range(GIB, 16 * PAGE)).is_empty(), "{start:#x}, {len:#x} bytes");
        }
        let none = cpu.vcpu.hold_range(at(0), 0, Prot::RW).unwrap();
        assert_eq!((none.pages().len(), none.runs().count()), (0, 0));
        let some = cpu.vcpu.hold_range(at(GIB + 7 * PAGE + 9), PAGE, Prot::RW).unwrap();
        rig.discard(part(area, 7, 1)).unwrap();
        assert_eq!(some.release_written(), HoldEnd::Moved);
        assert_eq!(rig.look(range(GIB, 16 * PAGE)), [GIB + 7 * PAGE, GIB + 8 * PAGE]);
        rig.audit();
    }

    fn a_hold_for_writing_copies_first(format: impl Format) {
        let rig = Rig::new(format);
        let area = range(GIB, 4 * PAGE);
        let base = Arc::new(slat::Contiguous::new(rig.memory.fixed(4), 4).unwrap());
        let view = Audited::over(CopyOnWrite::new(base, Arc::clone(&rig.memory) as _));
        rig.map(area, &view);
        let shared = rig.memory.fixed(4);
        rig.memory.write(shared, 40);
        let mut cpu = rig.cpu();
        let reading = cpu.vcpu.hold(at(GIB), Prot::R).unwrap();
        assert_eq!(reading.frame(), shared);
        let writing = cpu.vcpu.hold(at(GIB), Prot::W).unwrap();
        assert_ne!(writing.frame(), shared);
        assert_eq!(rig.memory.read(writing.frame()), 40);
        rig.memory.write(writing.frame(), 41);
        cpu.reads(GIB, 41);
        assert_eq!(rig.memory.read(shared), 40);
        assert_eq!(reading.release(), HoldEnd::Moved);
        assert_eq!(writing.release_written(), HoldEnd::InPlace);
        rig.audit();
    }
}
