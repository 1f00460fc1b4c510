//! That docs/PAIRS.md has every pair of operations once, and every scenario.
#![cfg(not(any(loom, shuttle)))]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn list() -> String {
    fs::read_to_string(root().join("docs/PAIRS.md")).unwrap()
}

/// A row of a table: its first cell, and the other.
fn row(line: &str) -> Option<(&str, &str)> {
    let (first, second) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
    (!first.starts_with("---")).then_some((first, second))
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tells whether this is the name of a scenario, and not of a function of the library.
fn is_scenario(name: &str) -> bool {
    name.contains("::") && name.starts_with(char::is_lowercase)
}

/// A row about an operation and some others.
struct Row<'l> {
    operation: &'l str,
    others: Vec<&'l str>,
    says: &'l str,
}

/// The operations, in their order, and the rows.
fn read(list: &str) -> (Vec<&str>, Vec<Row<'_>>) {
    let (mut operations, mut rows) = (Vec::new(), Vec::new());
    let mut section = None;
    for line in list.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = operations.contains(&title).then_some(title);
        }
        match (row(line), section) {
            (Some(("operation" | "with", _)) | None, _) => {}
            (Some((operation, _)), None) => operations.push(operation),
            (Some((others, says)), Some(operation)) => {
                rows.push(Row { operation, others: others.split(", ").collect(), says });
            }
        }
    }
    (operations, rows)
}

/// The tests in a folder, as they are named in the list, which begins with `prefix`.
fn tests(folder: &Path, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let inner = if name == "mod" || name == "main" {
            prefix.to_owned()
        } else {
            format!("{prefix}{name}::")
        };
        if path.is_dir() {
            found.extend(tests(&path, &inner));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(tests_of(&path).into_iter().map(|test| inner.clone() + &test));
        }
    }
    found
}

/// The names of the tests in a file.
fn tests_of(path: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let after = text.split("#[test]\n").skip(1);
    let name = |after: &str| {
        let line = after.lines().map(str::trim).find(|line| !line.starts_with('#'))?;
        Some(line.strip_prefix("fn ")?.split_once('(')?.0.to_owned())
    };
    after.filter_map(name).collect()
}

fn scenarios() -> BTreeSet<String> {
    let found = tests(&root().join("loom-tests/tests"), "");
    assert!(found.len() > 200, "{}", found.len());
    found
}

#[test]
fn every_pair_of_operations_is_in_one_row() {
    let list = list();
    let (operations, rows) = read(&list);
    assert_eq!(operations.len(), 20, "{operations:?}");
    let place = |name: &str| operations.iter().position(|&other| other == name);
    let mut pairs = BTreeMap::new();
    for row in &rows {
        for other in &row.others {
            let (Some(one), Some(two)) = (place(row.operation), place(other)) else {
                panic!("{other} is no operation");
            };
            assert!(one <= two, "{other} comes before {}", row.operation);
            *pairs.entry((one, two)).or_insert(0) += 1;
        }
    }
    for one in 0..operations.len() {
        for two in one..operations.len() {
            let times = pairs.get(&(one, two)).copied().unwrap_or(0);
            assert_eq!(times, 1, "{} and {}", operations[one], operations[two]);
        }
    }
}

#[test]
fn every_row_names_a_scenario_or_says_why_the_two_are_apart() {
    let list = list();
    for Row { operation, others, says } in read(&list).1 {
        let reason = says.strip_prefix("*apart*: ");
        let names = quoted(says).filter(|name| is_scenario(name)).count();
        let is_told = reason.map_or(names > 0, |reason| reason.len() > 20 && names == 0);
        assert!(is_told, "{operation} with {others:?}: {says}");
    }
}

#[test]
fn every_scenario_that_is_named_is_there() {
    let library = tests(&root().join("src"), "slat::");
    let scenarios = scenarios();
    let list = list();
    for name in quoted(&list).filter(|name| is_scenario(name)) {
        let is_there = scenarios.contains(name) || library.contains(name);
        assert!(is_there, "{name} is not there");
    }
}

#[test]
fn every_scenario_is_named() {
    let list = list();
    let named: BTreeSet<_> = quoted(&list).collect();
    for scenario in scenarios() {
        assert!(named.contains(&*scenario), "{scenario} is of no pair");
    }
}
