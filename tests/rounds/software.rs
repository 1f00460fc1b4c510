//! Bits that software sets, between rounds: no MMU marks what is above.

use slat::{Ept, EptCaps, Fixed, Fresh, Levels, Noted, PhysWidth, Prot};

use super::*;

every_format! {
    #![and_without_bits]

    fn a_page_that_software_makes_dirty_is_in_the_next_round(format: impl Format) {
        let table = mapped(format);
        touch(&table, [page(3, 7)], READ);
        settle(&table);
        let pin = table.pin();
        let gpa = page(3, 8);

        assert!(!pin.slot(at(gpa)).unwrap().set_dirty());
        assert_eq!(round(&table, Mark::Dirty), [gpa]);
        settle(&table);

        assert_eq!(pin.note_dirty(at(gpa)), Ok(Noted::New));
        assert_eq!(round(&table, Mark::Dirty), [gpa]);
        settle(&table);

        let mut selection = Bitmap::new(area());
        selection.set(at(gpa)).unwrap();
        selection.set(at(page(40, 1))).unwrap();
        assert_eq!(pin.set_dirty(&selection), Ok(2));
        assert_eq!(round(&table, Mark::Dirty), [gpa, page(40, 1)]);
        settle(&table);

        assert!(!pin.slot(at(gpa)).unwrap().set_accessed());
        assert_eq!(round(&table, Mark::Accessed), [gpa]);
        settle(&table);

        let (_, flush) = pin.watch(range(page(3, 0), TABLE)).unwrap();
        shoot_down(flush);
        assert_eq!(pin.fix_write(at(gpa)), Ok(Fixed::Dirtied));
        assert_eq!(round(&table, Mark::Dirty), [gpa]);
        // It took the right to write away.
        assert_eq!(pin.fix_write(at(gpa)), Ok(Fixed::Dirtied));
        assert_eq!(round(&table, Mark::Accessed), [gpa]);
        assert_eq!(round(&table, Mark::Dirty), [gpa]);
        settle(&table);
    }

    /// A harvest that is no round may have been over the leaf only; and who set the bit first may have
    /// stopped before he marked anything.
    fn a_page_that_was_dirty_already_is_in_the_next_round(format: impl Format) {
        let table = mapped(format);
        let pin = table.pin();
        let gpa = page(3, 8);
        for again in 0..3 {
            assert!(!pin.slot(at(gpa)).unwrap().set_dirty());
            // Nothing leads to it any more.
            unmark(&table, gpa);
            if format.keeps_bits() {
                assert_eq!(round(&table, Mark::Dirty), NONE);
            }
            match again {
                0 => assert!(pin.slot(at(gpa)).unwrap().set_dirty()),
                1 => assert_eq!(pin.note_dirty(at(gpa)), Ok(Noted::Already)),
                _ => {
                    let mut selection = Bitmap::new(area());
                    selection.set(at(gpa)).unwrap();
                    assert_eq!(pin.set_dirty(&selection), Ok(0));
                }
            }
            if format.keeps_bits() {
                assert_eq!(round(&table, Mark::Dirty), [gpa]);
            }
            settle(&table);
        }
    }

    fn a_round_takes_the_right_to_write_with_a_watched_pages_dirty_bit(format: impl Format) {
        let table = mapped(format);
        let pin = table.pin();
        let (_, flush) = pin.watch(area()).unwrap();
        shoot_down(flush);
        for _ in 0..3 {
            assert_eq!(pin.fix_write(at(page(3, 8))), Ok(Fixed::Dirtied));
            assert_eq!(pin.fix_write(at(page(3, 8))), Ok(Fixed::Already));
            assert_eq!(round(&table, Mark::Dirty), [page(3, 8)]);
        }
        let (pages, _flush) = pin.protect(range(page(3, 8), PAGE), Prot::R).unwrap();
        assert_eq!(pages, 1);
        assert_eq!(pin.note_dirty(at(page(3, 8))), Ok(Noted::New));
        assert_eq!(round(&table, Mark::Dirty), [page(3, 8)]);
    }

    fn a_page_that_is_mapped_anew_begins_anew(format: impl Format) {
        let table = mapped(format);
        let pin = table.pin();
        for number in 0..4 {
            assert!(!pin.slot(at(page(3, 8))).unwrap().set_dirty());
            let (old, flush) = pin.unmap(at(page(3, 8))).unwrap();
            assert!(old.dirty);
            shoot_down(flush);
            table.map(page(3, 8), number);
            assert_eq!(round(&table, Mark::Dirty), NONE);
            assert!(!pin.slot(at(page(3, 8))).unwrap().set_dirty());
            assert_eq!(round(&table, Mark::Dirty), [page(3, 8)]);
        }
    }
}

/// Takes accessed and carry bits out of the entries on the way to a page, as no protocol of the library's
/// does.
fn unmark<F: Format>(table: &Checked<F>, gpa: u64) {
    let accessed = table.format().accessed_bit();
    for step in table.pin().walk(at(gpa), slat::Level::L2).iter() {
        let frame = common::table_frame(table, at(gpa), step.level);
        let index = (gpa >> (12 + 9 * (step.level as u32 - 1))) as usize % slat::SLOTS;
        // SAFETY: read from the live tree, which stays.
        let parent = unsafe { table.source().table(frame) };
        // SAFETY: nobody else uses the tree, and the entry is the one that is there, but for its marks.
        unsafe { parent.plant(index, step.entry.without(accessed | 0b11 << 54)) };
    }
}

/// A leaf that is born accessed was not touched: nothing above it is accessed.
#[test]
fn pages_that_are_born_accessed_are_in_the_next_round() {
    for caps in [EptCaps::USUAL, EptCaps::USUAL.difference(EptCaps::ACCESSED_DIRTY)] {
        let ept = Ept::new(Levels::Four, PhysWidth::MAX, caps).with_fresh(Fresh::Accessed);
        let table = mapped(ept);
        assert_eq!(round(&table, Mark::Accessed).len() as u64, TABLES * 512);
        assert_eq!(round(&table, Mark::Accessed), NONE);
        assert_eq!(round(&table, Mark::Dirty), NONE);
        let _ = table.pin().unmap(at(page(3, 8))).unwrap();
        table.map(page(3, 8), 1);
        assert_eq!(round(&table, Mark::Dirty), NONE);
        assert_eq!(round(&table, Mark::Accessed), [page(3, 8)]);
        assert!(!table.pin().slot(at(page(3, 8))).unwrap().set_dirty());
        assert_eq!(round(&table, Mark::Accessed), NONE);
        assert_eq!(round(&table, Mark::Dirty), [page(3, 8)]);
    }
}
