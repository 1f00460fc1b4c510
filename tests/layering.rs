//! The layers of the source, and where the dangerous words may stand.
//!
//! A module names only modules of its own line and of the lines below it. Tests may name anything.
#![cfg(not(any(loom, shuttle)))]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the top to the bottom.
const LAYERS: [&[&str]; 10] = [
    &["space"],
    &["page_table", "reader", "pinned", "dump"],
    &["ops"],
    &["observe"],
    &["walk"],
    &["mmu"],
    &["table", "arena", "epoch"],
    &["entry", "format", "mapping"],
    &["addr", "level", "attr", "error", "bitmap", "heat", "serial"],
    &["sync"],
];

const MAY_BE_UNSAFE: [&str; 6] = ["table", "arena", "epoch", "sync", "mmu", "observe"];
const MAY_ORDER: [&str; 5] = ["table", "epoch", "observe", "arena", "sync"];

/// A source file that is no test.
struct Source {
    path: PathBuf,
    /// The module of the crate root that it belongs to.
    module: String,
    /// Its text without comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 20);
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, sources);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let inner = path.strip_prefix(root).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>();
        sources.push(Source { module, code: code.join("\n"), path });
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter| !is_word(letter)).filter(|word| !word.is_empty())
}

/// Returns the names that stand right behind `crate::` in the code, also in a group.
fn named(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            names.extend(group_heads(group));
        } else {
            names.extend(words(after).next());
        }
    }
    names
}

/// Returns the first name of each item of a group whose `{` was taken off.
fn group_heads(group: &str) -> Vec<&str> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(words(&group[start..index]).next());
                start = index + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn the_names_of_a_use_are_found() {
    let code = "use crate::{a::{b, c}, d,\n e::f as g};\nlet x = crate::h::I; use crate::j;";
    assert_eq!(named(code), ["a", "d", "e", "h", "j"]);
}

#[test]
fn a_module_names_none_above_its_own_line() {
    for source in sources().iter().filter(|source| source.module != "lib") {
        let path = source.path.display();
        let own = layer(&source.module);
        let own = own.unwrap_or_else(|| panic!("{path}: {} is in no layer", source.module));
        for name in named(&source.code) {
            let other = layer(name).unwrap_or_else(|| panic!("{path} names crate::{name}"));
            assert!(other >= own, "{path} names {name}, which is above it");
        }
    }
}

#[test]
fn unsafe_stands_only_where_memory_is_reached() {
    for source in sources() {
        let found = words(&source.code).any(|word| word == "unsafe");
        let allowed = MAY_BE_UNSAFE.contains(&&*source.module);
        assert!(allowed || !found, "unsafe in {}", source.path.display());
    }
}

#[test]
fn orderings_stand_only_where_words_are_shared() {
    for source in sources() {
        let found = source.code.contains("Ordering::");
        let allowed = MAY_ORDER.contains(&&*source.module);
        assert!(allowed || !found, "an ordering in {}", source.path.display());
    }
}
