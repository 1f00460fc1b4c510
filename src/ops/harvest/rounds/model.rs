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
    addr::HostPfn,
    arena::HeapFrames,
    attr::{Attr, Prot},
    epoch::Participant,
    format::{Ept, EptCaps, PhysWidth},
    level::{Levels, PageSize, SLOTS},
    sync::{Arc, explore},
};

/// Tables have four slots: 256 pages, in four levels.
const EPT: Ept = Ept::new(Levels::Four, PhysWidth::MAX, EptCaps::USUAL);
/// What an entry of an L3 table translates.
const RANGE: GpaRange = GpaRange::between(0, (SLOTS * SLOTS) as u64);

/// The page that is made dirty beside rounds.
const PAGE: GpaRange = GpaRange::between(1, 2);
/// One of another leaf table.
const OTHER: GpaRange = GpaRange::between(SLOTS as u64, SLOTS as u64 + 1);

type Shared = Domain<Ept, HeapFrames>;

/// Does a round; tells whether it reports the page.
fn round(domain: &Shared) -> bool {
    let mut found = Bitmap::new(RANGE);
    let _ = domain.harvest_round(RANGE, Mark::Dirty, &mut found).unwrap();
    found.contains(PAGE.start())
}

fn note(domain: &Shared, participant: &Participant, page: GpaRange) {
    let pin = participant.pin();
    domain.tree().walk_to_change(&pin).note_dirty(page.start()).unwrap();
}

/// Makes the page dirty beside two rounds; in the beginning `before` is dirty.
fn beside_two_rounds(before: Option<GpaRange>) {
    let ends = StdArc::new(StdMutex::new(Vec::new()));
    let seen = StdArc::clone(&ends);
    explore(2, move || {
        let domain = Arc::new(Domain::new(EPT, HeapFrames::new(5)).unwrap());
        for page in [PAGE, OTHER] {
            let (first, attr) = (HostPfn::new(7), Attr::new(Prot::RWX));
            domain.populate_mapped(page, PageSize::Size4K, first, attr).unwrap();
        }
        let participant = domain.tree().epoch().join();
        if let Some(page) = before {
            note(&domain, &participant, page);
        }
        let setter = {
            let domain = Arc::clone(&domain);
            thread::spawn(move || {
                note(&domain, &participant, PAGE);
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

#[test]
fn what_software_sets_is_found_whenever_a_round_comes_by_the_entries_above() {
    beside_two_rounds(None);
}

/// The upper entry is accessed already, and a round takes that before the lower one is.
#[test]
fn what_software_sets_is_found_if_a_round_takes_what_was_accessed_above() {
    beside_two_rounds(Some(OTHER));
}
