//! Every ordering that is not relaxed says of which edge it is an end, every fence of which pair it is a half,
//! and docs/ORDERING.md has a row for each, with scenarios that are there.
#![cfg(not(any(loom, shuttle)))]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

const STRONG: [&str; 5] = [
    "Ordering::Acquire",
    "Ordering::Release",
    "Ordering::AcqRel",
    "full_fence()",
    "fence_after_exchange()",
];
/// Where the fences are made, and of no pair.
const FENCES: &str = "src/sync/fence.rs";
/// How many lines an access may stand below the comment that speaks of it.
const REACH: usize = 12;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Tells whether a source is of a test, or a model.
fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| ["tests", "tests.rs", "model.rs"].map(OsStr::new).contains(&part.as_os_str()))
}

/// Returns what stands in brackets behind `edge: ` or `pair: ` in a text.
fn labels(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["[edge: ", "[pair: "] {
        for after in text.split(kind).skip(1) {
            let names = after.split(']').next().unwrap();
            found.extend(names.split(", ").map(str::to_owned));
        }
    }
    found
}

/// Returns the comments of a line and of those above it, as far as the function goes, or the reach.
fn comments_above(lines: &[&str], index: usize) -> String {
    let mut comments: Vec<_> = lines[index.saturating_sub(REACH)..=index]
        .iter()
        .rev()
        .take_while(|line| !line.trim_start().starts_with("}") || line.contains('('))
        .filter_map(|line| {
            line.split_once("//").map(|(_, comment)| comment.trim_matches(['/', '!', ' ']))
        })
        .collect();
    comments.reverse();
    comments.join(" ")
}

/// Returns the names in backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tells whether there is a test of this path: in a file of loom-tests, or somewhere in the library.
fn is_scenario(path: &str) -> bool {
    let (module, name) = path.rsplit_once("::").unwrap();
    let file = root().join(format!("loom-tests/tests/{}.rs", module.replace("::", "/")));
    let files = if file.exists() { vec![file] } else { files(&root().join("src")) };
    let head = format!("fn {name}() {{");
    files.iter().any(|file| {
        let text = read(file);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.windows(2).any(|pair| pair == ["#[test]", &head])
    })
}

/// The rows of the tables of edges and of pairs: name, and what is said of it.
fn rows() -> Vec<(String, String)> {
    let text = read(&root().join("docs/ORDERING.md"));
    let (from, to) = (text.find("## Edges").unwrap(), text.find("## What a grace period").unwrap());
    let rows = text[from..to].lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter_map(|row| row.split_once(" | "));
    let rows = rows.filter(|(name, _)| !["edge", "pair", "---"].contains(name));
    rows.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

#[test]
fn every_ordering_names_its_edge_and_every_fence_its_pair() {
    let names: BTreeSet<_> = rows().into_iter().map(|(name, _)| name).collect();
    let mut used = BTreeSet::new();
    let sources = files(&root().join("src"));
    for path in sources.iter().filter(|path| !is_test(path) && !path.ends_with(FENCES)) {
        let text = read(path);
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !STRONG.iter().any(|strong| code.contains(strong)) {
                continue;
            }
            let labels = labels(&comments_above(&lines, index));
            assert!(!labels.is_empty(), "{}:{}: of no edge", path.display(), index + 1);
            used.extend(labels);
        }
    }
    assert_eq!(used.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "without a row");
    assert_eq!(
        names.difference(&used).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "without an end"
    );
}

#[test]
fn every_row_names_a_scenario_and_every_scenario_is_there() {
    let rows = rows();
    assert!(rows.len() > 15, "{} rows", rows.len());
    for (name, said) in rows {
        let (_, scenarios) = said.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        let scenarios: Vec<_> = quoted(scenarios).filter(|quoted| quoted.contains("::")).collect();
        assert!(!scenarios.is_empty(), "{name} has no scenario");
        for scenario in scenarios {
            assert!(is_scenario(scenario), "{name} names {scenario}, which is not there");
        }
    }
}

#[test]
fn the_scenarios_of_the_other_tables_are_there() {
    let text = read(&root().join("docs/ORDERING.md"));
    let rest =
        &text[text.find("## What a grace period").unwrap()..text.find("## Relaxed").unwrap()];
    let last = rest.lines().filter_map(|line| line.trim_end_matches(" |").rsplit_once(" | "));
    let quoted = last.flat_map(|(_, scenarios)| quoted(scenarios));
    // What is named otherwise is a function of the library.
    let scenarios = quoted.filter(|name| name.matches('_').count() > 3);
    let mut count = 0;
    for scenario in scenarios {
        assert!(is_scenario(scenario), "{scenario} is not there");
        count += 1;
    }
    assert!(count > 10, "{count} scenarios");
}
