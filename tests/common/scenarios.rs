//! The names of tests, as documents have them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns what stands in backquotes.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the files below `folder`.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Returns the scenarios: the tests of loom-tests, by file, modules and name.
pub(crate) fn scenarios() -> BTreeSet<String> {
    let found = tests(&root().join("loom-tests/tests"));
    assert!(found.len() > 200, "{}", found.len());
    found
}

/// Returns the tests in the files below `folder`, by path and name.
pub(crate) fn tests(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(folder) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let inner = path.strip_prefix(folder).unwrap().with_extension("");
        let parts = inner.iter().map(|part| part.to_str().unwrap());
        let module: Vec<_> = parts.filter(|part| !["mod", "main"].contains(part)).collect();
        let named = |test| format!("{}::{test}", module.join("::"));
        found.extend(tests_of(&path).into_iter().map(named));
    }
    found
}

/// Returns the names of the tests in a file.
fn tests_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let after = text.split("#[test]\n").skip(1);
    let name = |after: &str| {
        let line = after.lines().map(str::trim).find(|line| !line.starts_with('#'))?;
        Some(line.strip_prefix("fn ")?.split_once('(')?.0.to_owned())
    };
    after.filter_map(name).collect()
}
