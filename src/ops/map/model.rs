//! What comes too late: mappers, and an unmap, in a slot whose range was vacated while they were on
//! their way. Every frame goes back to one of them.

use loom::thread;

use super::*;
use crate::{
    addr::GpaRange,
    arena::HeapFrames,
    attr::Prot,
    epoch::Participant,
    format::{Ept, EptCaps, PhysWidth, Tracking},
    level::Levels,
    mmu::Access,
    observe::{Domain, Observer},
    sync::{Arc, explore},
    table::Shape,
};

const EPT: Ept = Ept::new(Levels::Two, PhysWidth::MAX, EptCaps::USUAL);
const SIZE: PageSize = PageSize::Size4K;
const GPA: Gpa = Gpa::of_page(1);
const TABLE: GpaRange = GpaRange::between(0, 4);

type Tables = Domain<Ept, HeapFrames>;

fn leaf(number: u64) -> Entry {
    EPT.leaf(SIZE, HostPfn::new(number), Attr::new(Prot::RWX)).unwrap()
}

/// Puts a leaf in an empty slot, as a mapper does, and does not look at the claim.
fn put(walker: Walker<'_, Ept, HeapFrames>, place: Place<'_>, number: u64) {
    walker.commit(place.slot, place.level, Entry::EMPTY, leaf(number)).unwrap();
}

/// Two that walk before a claim of the whole table is committed, and act after it: `one` puts leaf 7
/// there first, and then they go on at the same time. Returns what they come to.
fn late<T: Send + 'static>(
    one: impl FnOnce(Walker<'_, Ept, HeapFrames>, Place<'_>) -> Result<Mapped, MapError>,
    two: impl FnOnce(Walker<'_, Ept, HeapFrames>, Place<'_>) -> T + Send + 'static,
) -> (Result<Mapped, MapError>, T) {
    let domain = Arc::new(Tables::new(EPT, HeapFrames::new(2)).unwrap());
    domain.populate(TABLE, SIZE).unwrap();
    let [here, there] = [(); 2].map(|()| domain.tree().epoch().join());
    let pin = here.pin();
    let walker = domain.tree().walk_to_change(&pin);
    // All of it comes before the commit, and stays good until their pins end.
    let shape = walker.claims().sample();
    let structure = domain.lock();
    let claim = structure.writer().claim(TABLE);
    assert!(claim.commit());
    put(walker, shaped(walker, shape), 7);
    let other = Arc::clone(&domain);
    let second = thread::spawn(move || {
        let pin = there.pin();
        let walker = other.tree().walk_to_change(&pin);
        let result = two(walker, shaped(walker, shape));
        drop(pin);
        (result, there)
    });
    let first = one(walker, shaped(walker, shape));
    let (second, _there): (T, Participant) = second.join().unwrap();
    assert_eq!(walker.descend(1).entry, Entry::EMPTY);
    (first, second)
}

/// Returns the slot of the page, as a walk came to it when the shape was another.
fn shaped<'p>(walker: Walker<'p, Ept, HeapFrames>, shape: Shape) -> Place<'p> {
    Place { shape, ..walker.descend(1).place }
}

#[test]
fn a_late_map_whose_leaf_was_unmapped_was_a_map() {
    explore(3, || {
        let (mapped, taken) = late(
            |walker, place| walker.keep(place, GPA, SIZE, leaf(7)),
            |walker, place| walker.update(place, 1, |_, _| Some(Entry::EMPTY)).is_some(),
        );
        match mapped {
            Ok(Mapped::New) => assert!(taken, "frame 7 has no owner"),
            Err(MapError::Vacated { .. }) => assert!(!taken, "frame 7 has two owners"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_map_does_not_take_a_late_leaf_for_one_of_the_tree() {
    explore(3, || {
        let (first, second) = late(
            |walker, place| walker.keep(place, GPA, SIZE, leaf(7)),
            |walker, place| walker.map_at(place, GPA, SIZE, leaf(7)),
        );
        assert!(matches!(first, Err(MapError::Vacated { .. })), "{first:?}");
        // It found the leaf, or the slot empty again.
        assert!(
            matches!(second, Err(MapError::NotPopulated { .. } | MapError::Vacated { .. })),
            "{second:?}"
        );
    });
}

#[test]
fn a_map_of_room_that_was_seen_before_comes_too_late_as_well() {
    explore(3, || {
        let (first, second) = late(
            |walker, place| walker.keep(place, GPA, SIZE, leaf(7)),
            |walker, place| {
                let seen = Terminal { place, entry: Entry::EMPTY };
                walker.map_seen(seen, GPA, SIZE, leaf(9))
            },
        );
        assert!(matches!(first, Err(MapError::Vacated { .. })), "{first:?}");
        // The room was there again, or another's leaf.
        assert!(
            matches!(second, Err(MapError::NotPopulated { .. } | MapError::Vacated { .. })),
            "{second:?}"
        );
    });
}

#[test]
fn a_late_map_takes_out_no_leaf_but_its_own() {
    explore(3, || {
        let (mapped, (taken, back)) = late(
            |walker, place| walker.keep(place, GPA, SIZE, leaf(7)),
            |walker, place| {
                // Takes 7 out, if it comes in time, and puts 8 there; but that is late too.
                let taken = walker.update(place, 1, |_, _| Some(Entry::EMPTY)).is_some();
                put(walker, place, 8);
                (taken, walker.keep(place, GPA, SIZE, leaf(8)))
            },
        );
        assert_eq!(mapped == Ok(Mapped::New), taken, "{mapped:?}");
        assert!(matches!(back, Err(MapError::Vacated { .. })), "{back:?}");
    });
}

/// The MMU comes to the late leaf as by a stale paging-structure cache: what it writes is in the answer.
#[test]
fn a_late_map_reports_what_the_mmu_left_in_its_leaf() {
    explore(3, || {
        let domain = Arc::new(Tables::new(EPT, HeapFrames::new(2)).unwrap());
        domain.populate(TABLE, SIZE).unwrap();
        let mut observer = Observer::new(Arc::clone(&domain));
        let participant = domain.tree().epoch().join();
        let pin = participant.pin();
        let walker = domain.tree().walk_to_change(&pin);
        let shape = walker.claims().sample();
        let structure = domain.lock();
        let claim = structure.writer().claim(TABLE);
        assert!(claim.commit());
        put(walker, shaped(walker, shape), 7);
        let guest = thread::spawn(move || {
            let written = observer.enter(Tracking::On).mmu().translate(GPA, Access::WRITE).is_ok();
            (written, observer)
        });
        let mapped = walker.keep(shaped(walker, shape), GPA, SIZE, leaf(7));
        let (written, _observer) = guest.join().unwrap();
        let vacated = MapError::Vacated { gpa: GPA, accessed: written, dirty: written };
        assert_eq!(mapped, Err(vacated));
    });
}
