//! One round of a claim, step by step, against one mapper: how each of the two may win.

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
    format::{Ept, EptCaps, PhysWidth},
    level::Levels,
    ops::Mapped,
    sync::{Arc, explore},
};

const EPT: Ept = Ept::new(Levels::Two, PhysWidth::MAX, EptCaps::USUAL);

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The scan found the leaf; the mapper did not notice the claim.
    Seen,
    /// The scan found the leaf of a mapper that had broken the claim.
    BrokenBefore,
    /// The scan found nothing, and the claim was broken behind it.
    BrokenAfter,
    Committed,
}

fn pages(first: u64, end: u64) -> GpaRange {
    GpaRange::between(first, end)
}

/// Claims `range` and maps its page 1; returns how that ended, for all executions.
fn rounds(range: GpaRange) -> Vec<(Round, bool)> {
    let ends = StdArc::new(StdMutex::new(Vec::new()));
    let seen = StdArc::clone(&ends);
    explore(3, move || {
        let domain = Arc::new(Domain::new(EPT, HeapFrames::new(2)).unwrap());
        domain.populate(pages(0, SLOTS as u64), PageSize::Size4K).unwrap();
        let mapper = {
            let domain = Arc::clone(&domain);
            let participant = domain.tree().epoch().join();
            thread::spawn(move || {
                let pin = participant.pin();
                let attr = Attr::new(Prot::RWX);
                let gpa = Gpa::of_page(1);
                let mapped = domain.tree().walk_to_change(&pin).map(
                    gpa,
                    HostPfn::new(7),
                    PageSize::Size4K,
                    attr,
                );
                drop(pin);
                (mapped == Ok(Mapped::New), participant)
            })
        };
        let round = round(&domain, range);
        let (new, _participant) = mapper.join().unwrap();
        assert_eq!(new, round != Round::Committed);
        let mut ends = seen.lock().unwrap();
        if !ends.contains(&(round, new)) {
            ends.push((round, new));
        }
    });
    let ends = ends.lock().unwrap();
    println!("{ends:?}");
    ends.clone()
}

fn round(domain: &Domain<Ept, HeapFrames>, range: GpaRange) -> Round {
    let structure = domain.lock();
    let writer = structure.writer();
    let claim = writer.claim(range);
    let mut scan = Scan::new(writer, &claim);
    let (root, level) = writer.walk().root();
    let found = scan.part(root, level, range);
    let plan = scan.plan;
    if found.is_err() {
        let round = if claim.is_broken() { Round::BrokenBefore } else { Round::Seen };
        plan.undo(writer);
        return round;
    }
    if !claim.commit() {
        plan.undo(writer);
        return Round::BrokenAfter;
    }
    // Their frames go with the frame source.
    drop(plan.carry_out(writer));
    Round::Committed
}

fn are(ends: &[(Round, bool)], expected: &[Round]) {
    let all = [Round::Seen, Round::BrokenBefore, Round::BrokenAfter, Round::Committed];
    for round in all {
        let happened = ends.iter().any(|end| end.0 == round);
        assert_eq!(happened, expected.contains(&round), "{round:?}");
    }
}

#[test]
fn a_claim_of_a_whole_table_is_broken_before_or_after_the_scan_or_committed() {
    let ends = rounds(pages(0, SLOTS as u64));
    are(&ends, &[Round::Seen, Round::BrokenBefore, Round::BrokenAfter, Round::Committed]);
}

/// A mapper breaks it only through a mark, so behind the scan of its slot.
#[test]
fn a_claim_of_a_part_is_broken_after_the_scan_or_committed() {
    let ends = rounds(pages(1, 3));
    are(&ends, &[Round::Seen, Round::BrokenAfter, Round::Committed]);
}

/// It is its mapper's to take out, also if the table is unlinked and the claim closed while somebody looks
/// whether the leaf is one of the tree.
#[test]
fn a_walk_that_began_behind_the_commit_does_not_take_a_late_leaf_out() {
    explore(3, || {
        let domain = Arc::new(Domain::new(EPT, HeapFrames::new(2)).unwrap());
        let range = pages(0, SLOTS as u64);
        domain.populate(range, PageSize::Size4K).unwrap();
        let [here, there] = [(); 2].map(|()| domain.tree().epoch().join());
        let pin = here.pin();
        let walker = domain.tree().walk_to_change(&pin);
        let late = walker.descend(1).place;
        let structure = domain.lock();
        let writer = structure.writer();
        let claim = writer.claim(range);
        let mut scan = Scan::new(writer, &claim);
        let (root, level) = walker.root();
        scan.part(root, level, range).unwrap();
        let plan = scan.plan;
        assert!(claim.commit());
        let leaf = EPT.leaf(PageSize::Size4K, HostPfn::new(7), Attr::new(Prot::RWX)).unwrap();
        walker.commit(late.slot, late.level, Entry::EMPTY, leaf).unwrap();
        let other = Arc::clone(&domain);
        let unmapper = thread::spawn(move || {
            let pin = there.pin();
            let walker = other.tree().walk_to_change(&pin);
            assert_eq!(walker.update(walker.top(1), 1, |_, _| Some(Entry::EMPTY)), None);
            drop(pin);
            there
        });
        // Its frame goes with the frame source.
        drop(plan.carry_out(writer));
        drop(claim);
        let _participant = unmapper.join().unwrap();
        assert_eq!(late.slot.load(), leaf);
    });
}
