//! How often the two agreed.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use slat::Level;

use super::{
    attempt::{Attempt, Due, Tried},
    known::{KNOWN, Known, Standing},
};
use crate::{
    cases::{Outcome, judge},
    machine::{console::say, emulator::Emulator},
};

/// How many differences are printed.
const SHOWN: u64 = 12;

/// How often the two agreed, or not, and where.
#[derive(Debug)]
pub(crate) struct Tally {
    same: u64,
    /// As the manuals allow it.
    open: u64,
    /// As the emulator is known to do it.
    wrong: u64,
    different: u64,
    known: Vec<(&'static Known, u64)>,
    /// The names of the places.
    places: Vec<&'static str>,
    /// Comparisons, by level and place.
    counts: BTreeMap<(Level, &'static str), u64>,
}

impl Tally {
    /// Makes one of nothing yet, with what is known of an emulator and a format.
    pub(crate) fn new(emulator: Emulator, format: &str) -> Self {
        let of_it = |known: &&Known| known.on == emulator && known.format == format;
        let known = KNOWN.iter().filter(of_it).map(|known| (known, 0)).collect();
        let (places, counts) = (Vec::new(), BTreeMap::new());
        Self { same: 0, open: 0, wrong: 0, different: 0, known, places, counts }
    }

    /// Counts one, where `as_if` does in software what is tried, with this for the entry.
    pub(super) fn add(
        &mut self,
        tried: &Tried<'_>,
        real: &Attempt,
        mut as_if: impl FnMut(u64) -> Due,
    ) {
        self.count(tried);
        let due = as_if(tried.raw);
        if *real == due.attempt {
            self.same += 1;
            return;
        }
        match self.explain(tried, real, &due, &mut as_if) {
            Some(Standing::Open) => self.open += 1,
            Some(Standing::Wrong) => self.wrong += 1,
            None => self.differ(tried, real, &due),
        }
    }

    fn count(&mut self, tried: &Tried<'_>) {
        let name = tried.place.name;
        if !self.places.contains(&name) {
            self.places.push(name);
        }
        *self.counts.entry((tried.place.level(tried.index), name)).or_default() += 1;
    }

    fn differ(&mut self, tried: &Tried<'_>, real: &Attempt, due: &Due) {
        self.different += 1;
        if self.different > SHOWN {
            return;
        }
        let Tried { place, index, raw, kind } = tried;
        let (name, level, due) = (place.name, place.level(*index), &due.attempt);
        say!("{name} {level:?} {raw:#x} {kind:?}: processor {real:x?}, manual {due:x?}");
    }

    /// Looks for a known difference that explains it, or two together; returns what the manuals say of it.
    fn explain(
        &mut self,
        tried: &Tried<'_>,
        real: &Attempt,
        due: &Due,
        as_if: &mut dyn FnMut(u64) -> Due,
    ) -> Option<Standing> {
        let mut expect = |index: usize, due: &Due| {
            let (known, _): (&Known, _) = self.known[index];
            known.expect(tried, due, as_if).filter(|expected| expected != due)
        };
        let all = 0..self.known.len();
        let alone: Vec<_> = all.clone().map(|index| expect(index, due)).collect();
        let is_real = |due: &Option<Due>| due.as_ref().is_some_and(|due| due.attempt == *real);
        if let Some(index) = alone.iter().position(is_real) {
            return Some(self.found(&[index]));
        }
        let pairs = all.clone().flat_map(|one| all.clone().map(move |other| (one, other)));
        let both = |&(one, other): &(usize, usize)| {
            alone[one].as_ref().is_some_and(|due| is_real(&expect(other, due)))
        };
        let (one, other) = { pairs }.find(both)?;
        Some(self.found(&[one, other]))
    }

    /// Counts known differences that explain one, together.
    fn found(&mut self, indices: &[usize]) -> Standing {
        let mut standing = Standing::Open;
        for &index in indices {
            let (known, count) = &mut self.known[index];
            *count += 1;
            if known.standing == Standing::Wrong {
                standing = Standing::Wrong;
            }
        }
        standing
    }

    /// Says what was counted.
    pub(crate) fn report(&self, case: &str) -> Outcome {
        say!("{case}: comparisons: {}", self.places.join(", "));
        for level in Level::ALL.into_iter().rev() {
            let count = |name: &&str| self.counts.get(&(level, *name)).copied();
            let counts: Vec<_> = self.places.iter().map(count).collect();
            if counts.iter().any(Option::is_some) {
                let cell =
                    |count: Option<u64>| count.map_or("-".into(), |count| format!("{count}"));
                let cells: Vec<String> = counts.into_iter().map(cell).collect();
                say!("{case}: {level:?}: {}", cells.join(", "));
            }
        }
        for (Known { name, standing, .. }, count) in &self.known {
            let what = match standing {
                Standing::Open => "left open by the manuals",
                Standing::Wrong => "wrong by the manuals",
            };
            match count {
                0 => say!("known: {case}: {name}: did not occur"),
                count => say!("known: {case}: {name}: {count} times, {what}"),
            }
        }
        let Self { same, open, wrong, different, .. } = self;
        let said = format!(
            "{same} as the manuals have it, {open} as they allow, {wrong} known to differ, {different} different"
        );
        judge(*different == 0, said)
    }
}
