//! Every ordering that is not relaxed says of which edge it is an end, every fence of which pair it is a half,
//! and docs/ORDERING.md has a row for each, with scenarios that are there.
#![cfg(not(any(loom, shuttle)))]

#[path = "common/scenarios.rs"]
mod scenarios;

use std::{collections::BTreeSet, ffi::OsStr, fs, path::Path};

use scenarios::{files, quoted, root, scenarios, tests};

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

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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

/// Checks that each is the path of a test: of a scenario's, or in the library.
fn are_there(paths: &[&str]) {
    let (scenarios, library) = (scenarios(), tests(&root().join("src")));
    // A module of the library's may be called otherwise than its file.
    let library: BTreeSet<_> = library.iter().filter_map(|path| path.rsplit("::").next()).collect();
    let is_in_library = |path: &str| {
        path.rsplit_once("::")
            .is_some_and(|(module, name)| module.contains("::") && library.contains(name))
    };
    for path in paths {
        assert!(scenarios.contains(*path) || is_in_library(path), "{path} is not there");
    }
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
        let (_, last) = said.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        let paths: Vec<_> = quoted(last).filter(|quoted| quoted.contains("::")).collect();
        assert!(!paths.is_empty(), "{name} has no scenario");
        are_there(&paths);
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
    let paths: Vec<_> = quoted.filter(|name| name.matches('_').count() > 3).collect();
    are_there(&paths);
    assert!(paths.len() > 10, "{} scenarios", paths.len());
}
