//! That docs/PAIRS.md has every pair of operations once, and every scenario.
#![cfg(not(any(loom, shuttle)))]

#[path = "common/scenarios.rs"]
mod scenarios;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use scenarios::{quoted, root, scenarios, tests};

fn list() -> String {
    fs::read_to_string(root().join("docs/PAIRS.md")).unwrap()
}

/// A row of a table: its first cell, and the other.
fn row(line: &str) -> Option<(&str, &str)> {
    let (first, second) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
    (!first.starts_with("---")).then_some((first, second))
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
    let library = tests(&root().join("src"));
    let scenarios = scenarios();
    let list = list();
    for name in quoted(&list).filter(|name| is_scenario(name)) {
        let is_there = match name.strip_prefix("slat::") {
            None => scenarios.contains(name),
            Some(name) => library.contains(name),
        };
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
