//! What stale translation caches do between rounds: nothing that is lost.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use slat::{Content, FrameRun, Hint, HostPfn, OutOfFrames, Table};

use super::*;

thread_local! {
    /// How many frames a brittle source still turns into tables, if that is limited.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A source that gives up.
#[derive(Debug)]
struct Brittle<S>(S);

// SAFETY: every promise is kept by the source inside.
unsafe impl<S: FrameSource> FrameSource for Brittle<S> {
    fn allocate(
        &self,
        count: u64,
        hint: Hint,
        runs: &mut Vec<FrameRun>,
    ) -> Result<(), OutOfFrames> {
        self.0.allocate(count, hint, runs)
    }

    unsafe fn free(&self, run: FrameRun, content: Content) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.free(run, content) }
    }

    unsafe fn table(&self, pfn: HostPfn) -> &Table {
        match LEFT.get() {
            // Not a panic: the hook would print each of them.
            Some(0) => resume_unwind(Box::new("the source gives up")),
            left => LEFT.set(left.map(|left| left - 1)),
        }
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.table(pfn) }
    }

    fn free_frames(&self) -> u64 {
        self.0.free_frames()
    }
}

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
            assert_eq!(round(&table, Mark::Accessed), []);
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
            assert_eq!(round(&table, Mark::Dirty), []);
            drop(two.enter());
            assert_eq!(round(&table, Mark::Dirty), []);
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
            assert_eq!(round_of(&table, range(page(4, 0), TABLE), Mark::Dirty), []);
            assert_eq!(round(&table, Mark::Dirty), [page(3, number)]);
        }
    }

    /// A round that is cut off has taken accessed bits like any other.
    fn a_round_that_is_cut_off_loses_nothing(format: impl Format) {
        for steps in 0..10 {
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
            // The last ones are more than it takes.
            assert_eq!(cut.is_err(), steps <= 2 + u64::from(format.levels().count()), "{steps}");
        }
    }
}
