//! Two mappers that came too late, and an unmap, in one slot: every frame goes back to one of them.
//!
//! That the slot is in a table that nobody comes to any more is of no matter to what is tried here, so
//! it is in one that is.

use loom::thread;

use super::*;
use crate::{
    addr::GpaRange,
    arena::HeapFrames,
    attr::Prot,
    format::{Ept, EptCaps, PhysWidth},
    level::Levels,
    observe::Domain,
    sync::Arc,
};

const EPT: Ept = Ept::new(Levels::Two, PhysWidth::MAX, EptCaps::USUAL);
const SIZE: PageSize = PageSize::Size4K;

fn leaf(number: u64) -> Entry {
    EPT.leaf(SIZE, HostPfn::new(number), Attr::new(Prot::RWX)).unwrap()
}

#[test]
fn a_late_map_takes_out_no_leaf_but_its_own() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let domain = Arc::new(Domain::new(EPT, HeapFrames::new(2)).unwrap());
        domain.populate(GpaRange::between(0, 4), SIZE).unwrap();
        let participants = [domain.tree().epoch().join(), domain.tree().epoch().join()];
        let [here, there] = participants;
        let gpa = Gpa::of_page(1);
        let first = {
            let pin = here.pin();
            domain.tree().walk(&pin).map(gpa, HostPfn::new(7), SIZE, Attr::new(Prot::RWX))
        };
        assert_eq!(first, Ok(Mapped::New));

        let other = Arc::clone(&domain);
        // Takes 7 out, if it comes in time, and puts 8 there; but that is late too.
        let second = thread::spawn(move || {
            let pin = there.pin();
            let walker = other.tree().walk(&pin);
            let old = walker.unmap(gpa).is_ok();
            let at = walker.descend(1);
            assert_eq!(at.entry, Entry::EMPTY);
            walker.commit(at.place.slot, at.place.level, Entry::EMPTY, leaf(8)).unwrap();
            let back = walker.withdraw(at.place, SIZE, leaf(8));
            drop(pin);
            (old, back.is_some(), there)
        });
        let back = {
            let pin = here.pin();
            let walker = domain.tree().walk(&pin);
            walker.withdraw(walker.descend(1).place, SIZE, leaf(7)).is_some()
        };
        let (taken, other_back, _there) = second.join().unwrap();
        assert!(back != taken, "frame 7 has {} owners", u8::from(back) + u8::from(taken));
        assert!(other_back, "frame 8 has no owner");
        let pin = here.pin();
        assert_eq!(domain.tree().walk(&pin).descend(1).entry, Entry::EMPTY);
    });
}
