//! The claim word alone, without tables: a slot that a mapper fills, and a flag that says whether a walk
//! still comes to it.

#![expect(unsafe_code, reason = "the checker watches the cell; that is what it is for")]

use loom::{cell::UnsafeCell, thread};

use super::*;
use crate::sync::{Arc, explore, fence_after_exchange};

const FIRST: GpaRange = GpaRange::between(0, 4);
const SECOND: GpaRange = GpaRange::between(4, 8);

struct Scene {
    claims: Claims,
    slot: AtomicU64,
    live: AtomicU64,
}

impl Scene {
    /// Fills the slot, which is of the first range, and finds out whether that stands.
    fn map(&self) -> Verdict {
        let shape = self.claims.sample();
        if !self.is_live() {
            return Verdict::Committed;
        }
        let filled = self.slot.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        assert_eq!(filled, Ok(0));
        fence_after_exchange();
        if self.claims.still(shape) {
            return Verdict::Stands;
        }
        self.claims.judge(FIRST, || self.is_live())
    }

    /// Tells whether a walk comes to the slot.
    fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire) == 1
    }

    /// Vacates a range; tells whether that was committed.
    fn vacate(&self, range: GpaRange) -> bool {
        let number = self.claims.open(range);
        let full = range == FIRST && self.slot.load(Ordering::Acquire) == 1;
        let committed = !full && self.claims.commit(number);
        if committed && range == FIRST {
            self.live.store(0, Ordering::Release);
        }
        self.claims.close(number);
        committed
    }
}

/// Runs the mapper beside `writer`, which returns what the mapper must find.
fn map_beside(writer: impl Fn(&Scene) -> Verdict + Send + Sync + 'static) {
    explore(3, move || {
        let (slot, live) = (AtomicU64::new(0), AtomicU64::new(1));
        let scene = Arc::new(Scene { claims: Claims::new(), slot, live });
        let mapper = {
            let scene = Arc::clone(&scene);
            thread::spawn(move || scene.map())
        };
        let expected = writer(&scene);
        assert_eq!(mapper.join().unwrap(), expected);
    });
}

/// What the mapper reads of one claim is not to be taken for the other's.
#[test]
fn a_map_stands_unless_its_range_was_committed_whatever_is_claimed_next() {
    map_beside(|scene| {
        let first = scene.vacate(FIRST);
        assert!(scene.vacate(SECOND), "nobody maps there");
        if first { Verdict::Committed } else { Verdict::Stands }
    });
}

/// Nor are the pages of two claims, of which neither covers the table, to be taken for those of one.
#[test]
fn a_map_stands_beside_claims_that_do_not_cover_its_table() {
    map_beside(|scene| {
        for (first, end) in [(0, 2), (2, 8)] {
            assert!(scene.vacate(GpaRange::between(first, end)), "nobody breaks it");
        }
        Verdict::Stands
    });
}

/// A claim, and something that a mapper does before it breaks it.
struct Broken {
    claims: Claims,
    done: UnsafeCell<()>,
}

// SAFETY: the cell holds nothing, and loom stops the execution at the first unordered access.
unsafe impl Sync for Broken {}

/// It is the word that says so: here no leaf is there to be found, nor any fence beside it.
#[test]
fn a_writer_whose_claim_was_broken_finds_what_the_mapper_did_before() {
    explore(3, || {
        let scene = Arc::new(Broken { claims: Claims::new(), done: UnsafeCell::new(()) });
        let mapper = {
            let scene = Arc::clone(&scene);
            thread::spawn(move || {
                scene.done.with_mut(|_| ());
                scene.claims.judge(FIRST, || true)
            })
        };
        let number = scene.claims.open(FIRST);
        let committed = scene.claims.commit(number);
        if !committed {
            scene.done.with(|_| ());
        }
        scene.claims.close(number);
        let verdict = mapper.join().unwrap();
        assert!(committed || verdict == Verdict::Stands);
    });
}
