//! Everybody stops everywhere, beside everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Instant,
};

use loom_tests::stopped::{Facts, Outcome, Run, stop};
use slat::NextStep;

use super::{Deed, Effect, Group, Scene, table, waits::Wait};

/// What was found of one deed that stops beside a group of others, in all scenes.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// How often it stopped.
    pub(crate) stops: usize,
    /// How another waited then, and for what.
    pub(crate) waits: BTreeMap<String, Waited>,
    /// The most steps that another made which did not wait.
    pub(crate) most: usize,
}

/// How often somebody waited for something, and when first.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    pub(crate) times: usize,
    first: String,
}

/// A deed that stops.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// The least and the most steps that it has.
    pub(crate) steps: (usize, usize),
    pub(crate) cells: BTreeMap<Group, Cell>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub(crate) rows: Vec<Row>,
    /// What came out that should not, and how often.
    strange: BTreeMap<String, usize>,
    executions: usize,
}

/// What is compared of an outcome.
type Part = fn(&Outcome) -> &Facts;

/// Has each deed stop in each scene beside each other, before each of its steps.
pub(crate) fn sweep<W: Send + Sync + 'static>(
    scenes: &[Scene<W>],
    deeds: &[Deed<W>],
    look: fn(&W) -> Facts,
) -> Sweep {
    let started = Instant::now();
    let mut sweep = Sweep { rows: Vec::new(), strange: BTreeMap::new(), executions: 0 };
    for first in deeds {
        let (name, group) = (first.act.name, first.group);
        let mut row = Row { name, group, steps: (usize::MAX, 0), cells: BTreeMap::new() };
        for scene in scenes {
            for other in deeds {
                let runs = stop(scene.make, first.act, other.act, look);
                sweep.executions += runs.len();
                let case = format!("{}: {name} / {}", scene.name, other.act.name);
                row.add(other.group, &case, &runs);
                if is_compared(first, other) {
                    sweep.compare(&case, scene.also, &runs);
                }
            }
        }
        sweep.rows.push(row);
    }
    println!("{} executions, {:.1?}", sweep.executions, started.elapsed());
    sweep
}

/// Tells whether what comes out of the two is that of an order of them, page by page. Where both go page by page,
/// a page may have both done to it in either order, and a collapse that is called off, or a hold and its
/// release, are no single step.
fn is_compared<W>(first: &Deed<W>, other: &Deed<W>) -> bool {
    let effects = [first.effect, other.effect];
    effects != [Effect::Parts; 2] && !effects.contains(&Effect::Otherwise)
}

impl Row {
    fn add(&mut self, other: Group, case: &str, runs: &[Run]) {
        let steps = runs.len() - 1;
        self.steps = (self.steps.0.min(steps), self.steps.1.max(steps));
        let cell = self.cells.entry(other).or_default();
        for run in runs {
            let Some((stop, at)) = run.stopped else { continue };
            cell.stops += 1;
            let Some(step) = run.waits else {
                cell.most = cell.most.max(run.steps);
                continue;
            };
            let waited = cell.waits.entry(cause(step)).or_insert_with(|| Waited {
                times: 0,
                first: format!(
                    "{case}: stopped before step {stop}, {}: it waits, {}",
                    shown(at),
                    shown(step)
                ),
            });
            waited.times += 1;
        }
    }
}

fn shown(step: Option<NextStep>) -> String {
    step.map_or("at the release of a lock, or at a word of the test's".into(), |step| {
        step.to_string()
    })
}

/// Returns what a thread waits for, of which this was its last step.
fn cause(step: Option<NextStep>) -> String {
    let Some(NextStep { what, at }) = step else { return "something else".into() };
    let path = Path::new(at.file());
    if what != "lock" {
        return path.file_stem().unwrap().to_str().unwrap().into();
    }
    // The lock's own name.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let source = fs::read_to_string(root.join(path)).unwrap();
    let line = source.lines().nth(at.line() as usize - 1).unwrap();
    let (before, _) = line.split_once(".lock()").expect("a lock is taken there");
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let name = before.rsplit(|letter| !is_name(letter)).next().unwrap();
    // One without a name is all that there is in its file.
    let is_number = name.parse::<usize>().is_ok();
    if is_number { path.file_stem().unwrap().to_str().unwrap().into() } else { name.into() }
}

impl Sweep {
    /// Compares what came out with what comes out if one is done before the other.
    fn compare(&mut self, name: &str, also: &[&str], runs: &[Run]) {
        let [before, between @ .., after] = runs else { return };
        let parts: [(&str, Part); 3] = [
            ("who stopped reports", |outcome| &outcome.late),
            ("the other reports", |outcome| &outcome.other),
            ("left is", |outcome| &outcome.left),
        ];
        for run in between {
            for (what, part) in parts {
                let [before, seen, after] = [before, run, after].map(|run| part(&run.outcome));
                if !lies_between(before, seen, after, also) {
                    let strange = format!("{name}: {what} {seen:?}, not {before:?} or {after:?}");
                    *self.strange.entry(strange).or_default() += 1;
                }
            }
        }
    }

    /// Prints all of it.
    pub(crate) fn print(&self) {
        println!("{}", table::draw(&self.rows));
    }

    /// Demands that everybody waited for just what is `expected`, and that what came out is what should.
    pub(crate) fn check(&self, expected: &[Wait], bound: usize) {
        let mut seen = BTreeMap::<(Group, Group), BTreeSet<&str>>::new();
        for row in &self.rows {
            assert!(row.steps.1 > 0, "{} has no step to stop before", row.name);
            for (&other, cell) in &row.cells {
                let causes = cell.waits.keys().map(String::as_str);
                seen.entry((row.group, other)).or_default().extend(causes);
                let is_bounded = !other.is_lock_free() || cell.most <= bound;
                assert!(is_bounded, "{other:?} made {} steps beside {}", cell.most, row.name);
            }
        }
        let mut wanted: BTreeMap<_, _> =
            seen.keys().map(|&groups| (groups, BTreeSet::new())).collect();
        for &Wait { what, stopped, waiting } in expected {
            for (first, other) in pairs(stopped, waiting) {
                assert!(!other.is_lock_free(), "a lock-free operation is said to wait");
                wanted.get_mut(&(first, other)).unwrap().insert(what);
            }
        }
        let wrong: Vec<_> =
            seen.iter().filter(|(groups, causes)| wanted[groups] != **causes).collect();
        for (groups, causes) in &wrong {
            let first: Vec<_> = self.examples(**groups).collect();
            println!("{groups:?}: {causes:?}, not {:?}: {first:#?}", wanted[groups]);
        }
        assert!(wrong.is_empty(), "others wait than those that are listed, or for other things");
        assert!(self.strange.is_empty(), "{:#?}", self.strange);
    }

    /// Returns where deeds of the second group first waited, one of the first having stopped.
    fn examples(&self, (first, other): (Group, Group)) -> impl Iterator<Item = &str> {
        let rows = self.rows.iter().filter(move |row| row.group == first);
        let cells = rows.filter_map(move |row| row.cells.get(&other));
        cells.flat_map(|cell| cell.waits.values().map(|waited| waited.first.as_str()))
    }
}

/// Tells whether each fact is one of two, or of those that may always be.
fn lies_between(before: &Facts, seen: &Facts, after: &Facts, also: &[&str]) -> bool {
    if before.len() != seen.len() || after.len() != seen.len() {
        return seen == before || seen == after;
    }
    let mut facts = seen.iter().zip(before.iter().zip(after));
    facts.all(|(seen, (before, after))| {
        seen == before || seen == after || also.contains(&seen.as_str())
    })
}

fn pairs(first: &[Group], other: &[Group]) -> impl Iterator<Item = (Group, Group)> {
    first.iter().flat_map(|&first| other.iter().map(move |&other| (first, other)))
}
