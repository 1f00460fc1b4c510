//! Software that sets a bit two entries below what a round begins with: its marks come from the leaf up.

#![expect(
    clippy::disallowed_types,
    reason = "collects what the executions come to, outside of them"
)]

use std::{
    println,
    sync::{Arc as StdArc, Mutex as StdMutex},
    vec::Vec,
};

use loom::thread;

use super::*;
use crate::{
    addr::{Gpa, HostPfn},
    arena::HeapFrames,
    attr::{Attr, Prot},
    format::{Ept, EptCaps, PhysWidth},
    level::{Levels, PageSize, SLOTS},
    sync::Arc,
};

/// Tables have four slots: 256 pages, in four levels.
const EPT: Ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
/// What an entry of an L3 table translates.
const RANGE: GpaRange = GpaRange::between(0, (SLOTS * SLOTS) as u64);

/// Does a round; tells whether it reports the page.
fn round(domain: &Domain<Ept, HeapFrames>) -> bool {
    let mut found = Bitmap::new(RANGE);
    let (pages, _flush) = domain.harvest_round(RANGE, Mark::Dirty, &mut found).unwrap();
    pages == 1
}

#[test]
fn what_software_sets_is_found_whenever_a_round_comes_by_the_entries_above() {
    let ends = StdArc::new(StdMutex::new(Vec::new()));
    let seen = StdArc::clone(&ends);
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(2);
    model.max_branches = 50_000;
    model.check(move || {
        let domain = Arc::new(Domain::new(EPT, HeapFrames::new(4)).unwrap());
        let (first, attr) = (HostPfn::new(7), Attr::new(Prot::RWX));
        let page = GpaRange::between(1, 2);
        domain.populate_mapped(page, PageSize::Size4K, first, attr).unwrap();
        let setter = {
            let domain = Arc::clone(&domain);
            let participant = domain.tree().epoch().join();
            thread::spawn(move || {
                let pin = participant.pin();
                domain.tree().walk_to_change(&pin).note_dirty(Gpa::of_page(1)).unwrap();
                drop(pin);
                participant
            })
        };
        let rounds = [round(&domain), round(&domain)];
        let _participant = setter.join().unwrap();
        let all = [rounds[0], rounds[1], round(&domain)];
        let found: Vec<_> = (0..3).filter(|&index| all[index]).collect();
        assert_eq!(found.len(), 1, "{all:?}");
        let mut ends = seen.lock().unwrap();
        if !ends.contains(&found[0]) {
            ends.push(found[0]);
        }
    });
    let mut ends = ends.lock().unwrap();
    ends.sort_unstable();
    println!("{ends:?}");
    assert_eq!(*ends, [0, 1, 2]);
}
