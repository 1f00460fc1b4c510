//! What stale translation caches do between rounds: nothing that is lost.

use std::{
    cell::Cell,
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use slat::HostPfn;

use super::*;
use crate::common::{Over, frame_source_over};

thread_local! {
    /// How many frames a brittle source still turns into tables, if that is limited.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A source that gives up.
#[derive(Debug)]
struct Brittle<S>(S);

impl<S: FrameSource + Debug> Over for Brittle<S> {
    type Source = S;

    fn source(&self) -> &S {
        &self.0
    }

    fn before_table(&self, _pfn: HostPfn) {
        match LEFT.get() {
            // Not a panic: the hook would print each of them.
            Some(0) => resume_unwind(Box::new("the source gives up")),
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }
}

frame_source_over!(Brittle<S>);

/// Bits of table entries: docs/FORMATS.md.
const CARRY: u64 = 0b11 << 54;

/// Tells whether every table entry on the way to a page is accessed, or bears carries of both kinds.
fn is_led_to<F: Format>(table: &Checked<F>, gpa: u64) -> bool {
    let pin = table.pin();
    let accessed = table.format().accessed_bit();
    let walk = pin.walk(at(gpa), slat::Level::L2);
    walk.iter().all(|step| step.entry.has(accessed) || step.entry.raw() & CARRY == CARRY)
}

every_format! {
    fn a_guest_that_never_comes_out_is_followed_round_after_round(format: impl Format) {
        let table = mapped(format);
        let mut guest = Guest::new(&table);
        let mut stay = guest.enter();
        stay.access(page(3, 0), READ);
        for number in 1..20 {
            assert!(is_led_to(&table, page(3, 0)));
            // By what it has cached: no entry above is accessed again.
            stay.access(page(3, number), WRITE);
            assert_eq!(round(&table, Mark::Dirty), [page(3, number)]);
        }
        stay.acknowledge();
        settle(&table);
        assert!(!is_led_to(&table, page(3, 0)));
        stay.access(page(3, 100), WRITE);
        assert_eq!(round(&table, Mark::Dirty), [page(3, 100)]);
    }

    fn rounds_of_both_kinds_follow_it(format: impl Format) {
        let table = mapped(format);
        let mut guest = Guest::new(&table);
        let mut stay = guest.enter();
        stay.access(page(3, 0), READ);
        assert_eq!(round(&table, Mark::Accessed), [page(3, 0)]);
        for number in 1..10 {
            stay.access(page(3, number), WRITE);
            let found = round(&table, Mark::Accessed);
            assert_eq!(found, [page(3, number)]);
            assert_eq!(round(&table, Mark::Accessed), NONE);
        }
        assert_eq!(round(&table, Mark::Dirty), (1..10).map(|n| page(3, n)).collect::<Vec<_>>());
    }

    fn one_guest_that_came_out_does_not_speak_for_another(format: impl Format) {
        let table = mapped(format);
        let (mut one, mut two) = (Guest::new(&table), Guest::new(&table));
        let mut stay = one.enter();
        stay.access(page(3, 0), READ);
        two.enter().access(page(3, 1), READ);
        round(&table, Mark::Dirty);
        for number in 2..9 {
            // The second one comes and goes; with it, what it has cached.
            drop(two.enter());
            assert_eq!(round(&table, Mark::Dirty), NONE);
            drop(two.enter());
            assert_eq!(round(&table, Mark::Dirty), NONE);
            stay.access(page(3, number), WRITE);
            assert_eq!(round(&table, Mark::Dirty), [page(3, number)]);
        }
        drop(stay);
        settle(&table);
        assert!(!is_led_to(&table, page(3, 0)));
    }

    fn a_guest_that_is_out_holds_nothing_back_and_knows_when_it_comes(format: impl Format) {
        let table = mapped(format);
        let mut guest = Guest::new(&table);
        guest.enter().access(page(3, 0), WRITE);
        settle(&table);
        assert!(!is_led_to(&table, page(3, 0)));
        let mut stay = guest.enter();
        stay.access(page(3, 1), WRITE);
        assert!(is_led_to(&table, page(3, 0)));
        assert_eq!(round(&table, Mark::Dirty), [page(3, 1)]);
    }

    fn a_guest_that_comes_out_between_two_rounds_of_which_one_was_of_a_part(format: impl Format) {
        let table = mapped(format);
        let mut guest = Guest::new(&table);
        let mut stay = guest.enter();
        stay.access(page(3, 0), READ);
        round(&table, Mark::Dirty);
        stay.acknowledge();
        stay.access(page(3, 1), READ);
        // It takes what is above leaf table 3, and nothing above that.
        assert_eq!(round_of(&table, range(page(3, 0), TABLE), Mark::Accessed), [
            page(3, 0), page(3, 1)
        ]);
        for number in 2..9 {
            stay.access(page(3, number), WRITE);
            assert_eq!(round_of(&table, range(page(4, 0), TABLE), Mark::Dirty), NONE);
            assert_eq!(round(&table, Mark::Dirty), [page(3, number)]);
        }
    }

    /// It may drop carries, and is cut off before it has read what they lead to.
    fn a_carry_that_was_not_followed_to_its_end_stays(format: impl Format) {
        // So much that entries are taken two levels above the leaves.
        let all = range(0, 2 * GIB);
        for steps in 0.. {
            let table = with_source(format, Brittle(frames()));
            touch(&table, [page(3, 1)], WRITE);
            assert_eq!(round_of(&table, all, Mark::Accessed), [page(3, 1)]);
            let mut found = Bitmap::new(all);
            LEFT.set(Some(steps));
            let cut = catch_unwind(AssertUnwindSafe(|| {
                let _ = table.harvest_round(all, Mark::Dirty, &mut found).unwrap();
            }));
            LEFT.set(None);
            let mut rest = Bitmap::new(all);
            let _ = table.harvest_round(all, Mark::Dirty, &mut rest).unwrap();
            found.merge(&rest).unwrap();
            assert_eq!(gpas(&found), [page(3, 1)], "cut off after {steps}");
            if cut.is_ok() {
                break;
            }
        }
    }

    /// A round that is cut off has taken accessed bits like any other.
    fn a_round_that_is_cut_off_loses_nothing(format: impl Format) {
        for steps in 0.. {
            let table = with_source(format, Brittle(frames()));
            let mut guest = Guest::new(&table);
            let mut stay = guest.enter();
            stay.access(page(3, 0), READ);
            stay.access(page(3, 1), WRITE);
            // Another table, for the round to be cut off when it has taken what is above the first.
            stay.access(page(5, 0), READ);
            let mut found = Bitmap::new(area());
            LEFT.set(Some(steps));
            let cut = catch_unwind(AssertUnwindSafe(|| {
                let _ = table.harvest_round(area(), Mark::Dirty, &mut found).unwrap();
            }));
            LEFT.set(None);
            // In the caches of the guest is what the round took, cut off or not.
            for number in 2..5 {
                stay.access(page(3, number), WRITE);
                let mut more = Bitmap::new(area());
                let _ = table.harvest_round(area(), Mark::Dirty, &mut more).unwrap();
                found.merge(&more).unwrap();
                assert_eq!(gpas(&found), (1..=number).map(|n| page(3, n)).collect::<Vec<_>>());
            }
            if cut.is_ok() {
                // More than it takes: the round came to its end.
                assert!(steps > u64::from(format.levels().count()) + 2, "{steps}");
                break;
            }
        }
    }
}
