//! One vacate, step by step, beside walks that begin in the middle of it.

use super::*;
use crate::{
    addr::HostPfn,
    arena::HeapFrames,
    attr::{Attr, Prot},
    format::{Ept, EptCaps, PhysWidth},
    level::Levels,
    observe::Covered,
    ops::{MapError, Mapped},
};

const EPT: Ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);

/// One leaf table.
const RANGE: GpaRange = GpaRange::between(0, SLOTS as u64);

/// Makes a domain in which one leaf table is populated.
fn populated() -> Domain<Ept, HeapFrames> {
    let domain = Domain::new(EPT, HeapFrames::new(4)).unwrap();
    domain.populate(RANGE, PageSize::Size4K).unwrap();
    domain
}

/// The walk begins behind the commit, and is in the table when that is unlinked and the claim closed.
#[test]
fn a_walk_that_began_behind_the_commit_neither_maps_nor_unmaps_when_the_claim_is_closed() {
    let domain = populated();
    let participant = domain.tree().epoch().join();
    let pin = participant.pin();
    let walker = domain.tree().walk_to_change(&pin);
    let gpa = Gpa::of_page(1);
    let late = walker.descend(1).place;

    let structure = domain.lock();
    let claim = structure.writer().claim(RANGE);
    let mut scan = Scan::new(structure.writer(), &claim);
    let (root, level) = walker.root();
    scan.part(root, level, RANGE).unwrap();
    let plan = scan.plan;
    assert!(claim.commit());
    let slow = walker.resume(walker.top(1), 1).place;
    assert!(walker.is_lost(slow, 1));
    let dead = plan.carry_out(structure.writer());
    drop(claim);

    let size = PageSize::Size4K;
    let leaf = EPT.leaf(size, HostPfn::new(7), Attr::new(Prot::RW)).unwrap();
    // Of a mapper whose walk is older than the claim. It is his to take out.
    walker.commit(late.slot, late.level, Entry::EMPTY, leaf).unwrap();
    assert_eq!(walker.update(slow, 1, |_, _| Some(Entry::EMPTY)), None);
    assert_eq!(late.slot.load(), leaf);
    walker.commit(late.slot, late.level, leaf, Entry::EMPTY).unwrap();
    assert_eq!(walker.map_at(slow, gpa, size, leaf), Err(MapError::NotPopulated { gpa }));
    structure.retire(dead, RANGE);
}

/// The leaf of the first was unmapped. Then the second, whose walk began before the commit, puts the
/// same one there, and the first takes it for its own.
#[test]
fn of_two_late_maps_of_one_frame_as_many_are_new_as_were_unmapped() {
    let domain = populated();
    let participant = domain.tree().epoch().join();
    let pin = participant.pin();
    let walker = domain.tree().walk_to_change(&pin);
    let (gpa, size) = (Gpa::of_page(1), PageSize::Size4K);
    let leaf = EPT.leaf(size, HostPfn::new(7), Attr::new(Prot::RW)).unwrap();
    let place = walker.resume(walker.top(1), 1).place;

    walker.commit(place.slot, place.level, Entry::EMPTY, leaf).unwrap();
    assert!(walker.unmap(gpa, &mut Covered::default()).is_ok());
    domain.vacate(RANGE).unwrap();
    walker.commit(place.slot, place.level, Entry::EMPTY, leaf).unwrap();

    let vacated = MapError::Vacated { gpa, accessed: false, dirty: false };
    assert_eq!(walker.keep(place, gpa, size, leaf), Err(vacated));
    assert_eq!(walker.keep(place, gpa, size, leaf), Ok(Mapped::New));
    assert_eq!(place.slot.load(), Entry::EMPTY);
}
