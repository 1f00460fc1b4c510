//! Rounds at random, beside guests with caches, harvests that are no rounds, software that sets bits, and
//! leaves that are split and collapsed: when the guests have come out, one round reports what is left.

use std::collections::BTreeSet;

use proptest::prelude::*;
use slat::{Levels, PageSize};

use super::*;
use crate::common::{Frames, ept, scaled};

/// Leaf tables that are written to; rounds are over all of the area.
const USED: [u64; 4] = [3, 4, 31, 32];
const PAGES: u64 = 8;

#[derive(Clone, Debug)]
enum Step {
    Access { guest: usize, gpa: u64, write: bool },
    Acknowledge { guest: usize },
    Round { mark: Mark, part: Option<(u64, u64)> },
    Harvest { mark: Mark, part: Option<(u64, u64)> },
    SetDirty { gpa: u64 },
    NoteDirty { gpa: u64 },
    SetMany { gpa: u64 },
    FixWrite { gpa: u64 },
    SetAccessed { gpa: u64 },
    Split { gpa: u64 },
    Collapse { gpa: u64 },
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![Just(Mark::Accessed), Just(Mark::Dirty)]
}

/// Pages from the first on, where rounds and harvests of a part begin and end.
fn part() -> impl Strategy<Value = Option<(u64, u64)>> {
    prop_oneof![
        2 => Just(None),
        1 => (0..TABLES, 0..TABLES).prop_map(|(from, tables)| Some((from * 512, 512 * (1 + tables)))),
        1 => (0..TABLES * 512, 1..2000_u64).prop_map(Some),
        1 => (prop::sample::select(&USED[..]), 0..PAGES, 1..PAGES)
            .prop_map(|(table, first, pages)| Some((table * 512 + first, pages))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let gpa = || (prop::sample::select(&USED[..]), 0..PAGES).prop_map(|(t, n)| page(t, n));
    prop_oneof![
        8 => (0..2_usize, gpa(), any::<bool>())
            .prop_map(|(guest, gpa, write)| Step::Access { guest, gpa, write }),
        3 => (0..2_usize).prop_map(|guest| Step::Acknowledge { guest }),
        6 => (mark(), part()).prop_map(|(mark, part)| Step::Round { mark, part }),
        1 => (mark(), part()).prop_map(|(mark, part)| Step::Harvest { mark, part }),
        1 => gpa().prop_map(|gpa| Step::SetDirty { gpa }),
        1 => gpa().prop_map(|gpa| Step::NoteDirty { gpa }),
        1 => gpa().prop_map(|gpa| Step::SetMany { gpa }),
        1 => gpa().prop_map(|gpa| Step::FixWrite { gpa }),
        1 => gpa().prop_map(|gpa| Step::SetAccessed { gpa }),
        1 => gpa().prop_map(|gpa| Step::Split { gpa }),
        1 => gpa().prop_map(|gpa| Step::Collapse { gpa }),
    ]
}

fn range_of(part: Option<(u64, u64)>) -> GpaRange {
    part.map_or(area(), |(first, pages)| {
        let end = (first + pages).min(TABLES * 512);
        range(START + first * PAGE, (end - first) * PAGE)
    })
}

/// The pages of which a bit has to be reported still: of those that were accessed, and were written.
#[derive(Debug, Default)]
struct Ledger {
    accessed: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
}

impl Ledger {
    fn of(&mut self, mark: Mark) -> &mut BTreeSet<u64> {
        match mark {
            Mark::Accessed => &mut self.accessed,
            Mark::Dirty => &mut self.dirty,
        }
    }

    /// What is reported more, of a large leaf that was touched elsewhere, is no mistake.
    fn report(&mut self, mark: Mark, found: &Bitmap) {
        self.of(mark).retain(|&gpa| !found.contains(at(gpa)));
    }
}

/// All pages that may be touched.
fn used() -> impl Iterator<Item = u64> {
    USED.into_iter().flat_map(|table| (0..PAGES).map(move |number| page(table, number)))
}

struct Machine<F: Format> {
    table: Checked<F>,
    ledger: Ledger,
}

impl<F: Format> Machine<F> {
    fn new(format: F) -> Self {
        let table = Checked::new(format, 128);
        // From a frame on where large leaves can begin.
        table.populate_mapped(area(), SMALL, pfn(0x800), RWX).unwrap();
        let (_, flush) = table.pin().watch(range(page(4, 0), PAGES * PAGE)).unwrap();
        drop(flush);
        Self { table, ledger: Ledger::default() }
    }

    fn step(&mut self, step: &Step, guests: &mut [Stay<'_, F, Arc<Frames>>; 2]) {
        let (table, pin) = (&self.table, self.table.pin());
        match *step {
            Step::Access { guest, gpa, write } => {
                let stay = &mut guests[guest];
                let access = if write { WRITE } else { READ };
                // A watched page may deny it.
                let _ = stay.inside.mmu().translate_cached(stay.cache, at(gpa), access);
            }
            Step::Acknowledge { guest } => guests[guest].acknowledge(),
            Step::Round { mark, part } => {
                drop(pin);
                let mut found = Bitmap::new(range_of(part));
                let (pages, _flush) =
                    table.harvest_round(range_of(part), mark, &mut found).unwrap();
                assert_eq!(pages, found.count());
                self.ledger.report(mark, &found);
            }
            Step::Harvest { mark, part } => {
                let mut found = Bitmap::new(range_of(part));
                let (_, _flush) = pin.harvest(range_of(part), mark, &mut found).unwrap();
                self.ledger.report(mark, &found);
            }
            Step::SetDirty { gpa } => {
                pin.slot(at(gpa)).unwrap().set_dirty();
            }
            Step::NoteDirty { gpa } => {
                pin.note_dirty(at(gpa)).unwrap();
            }
            Step::SetMany { gpa } => {
                let mut selection = Bitmap::new(area());
                selection.set(at(gpa)).unwrap();
                pin.set_dirty(&selection).unwrap();
            }
            Step::FixWrite { gpa } => {
                pin.fix_write(at(gpa)).unwrap();
            }
            Step::SetAccessed { gpa } => {
                pin.slot(at(gpa)).unwrap().set_accessed();
            }
            Step::Split { gpa } => table.split(at(gpa), SMALL, &nobody).unwrap(),
            Step::Collapse { .. } => unreachable!("the guests come out for it"),
        }
        self.note();
    }

    /// Writes down what is set by now: it has to be reported some time.
    fn note(&mut self) {
        let pin = self.table.pin();
        for gpa in used() {
            let mapping = pin.lookup(at(gpa)).unwrap();
            if mapping.accessed {
                self.ledger.accessed.insert(gpa);
            }
            if mapping.dirty {
                self.ledger.dirty.insert(gpa);
            }
        }
    }

    /// Nobody is inside.
    fn finish(mut self) {
        for mark in [Mark::Accessed, Mark::Dirty] {
            let mut found = Bitmap::new(area());
            let _ = self.table.harvest_round(area(), mark, &mut found).unwrap();
            self.ledger.report(mark, &found);
            let lost = self.ledger.of(mark);
            assert!(lost.is_empty(), "{mark:?} of {lost:x?} is lost");
            let mut left = Bitmap::new(area());
            assert_eq!(self.table.pin().query(area(), mark, &mut left), Ok(0));
        }
    }
}

fn run<F: Format>(format: F, steps: &[Step]) {
    let mut machine = Machine::new(format);
    let mut guests = [Guest::new(&machine.table), Guest::new(&machine.table)];
    let mut rest = steps;
    while !rest.is_empty() {
        let collapse = |step: &Step| matches!(step, Step::Collapse { .. });
        let until = rest.iter().position(collapse).unwrap_or(rest.len());
        let (inside, out) = rest.split_at(until);
        let mut stays = guests.each_mut().map(Guest::enter);
        for step in inside {
            machine.step(step, &mut stays);
        }
        drop(stays);
        if let Some((Step::Collapse { gpa }, _)) = out.split_first() {
            // Refused, where not all the leaves are watched, or none.
            let _ = machine.table.collapse(at(*gpa), PageSize::Size2M, &nobody);
            machine.note();
        }
        rest = out.get(1..).unwrap_or_default();
    }
    drop(guests);
    machine.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        scaled("SLAT_MODEL_CASES", if cfg!(debug_assertions) { 64 } else { 512 }) as u32
    ))]

    #[test]
    fn one_round_reports_what_is_left(steps in prop::collection::vec(step(), 1..60)) {
        run(ept(Levels::Four), &steps);
    }

    #[test]
    fn so_it_does_in_long_mode(steps in prop::collection::vec(step(), 1..60)) {
        run(common::long_mode(Levels::Five), &steps);
    }

    #[test]
    fn so_it_does_where_the_mmu_keeps_no_bits(steps in prop::collection::vec(step(), 1..60)) {
        run(common::ept_without_bits(Levels::Four), &steps);
    }
}
