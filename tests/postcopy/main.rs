//! The example `postcopy`, as a user runs it: any number of vCPUs, every order, what is wrong and has to be found
//! out, and what it says of bad options.

#![cfg(all(feature = "std", not(any(loom, shuttle))))]

#[path = "../common/built.rs"]
mod built;
mod input;
mod runs;
mod trouble;

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;

use crate::built::built;

const OK: i32 = 0;
const FAILED: i32 = 1;
const BAD_INPUT: i32 = 2;

const SMALL: [&str; 2] = ["--memory", "1M"];
const PAGES: u64 = 256;

/// What a run of the example left.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    text: String,
    errors: String,
}

fn run(arguments: &[&str]) -> Ended {
    static POSTCOPY: OnceLock<PathBuf> = OnceLock::new();
    let example = POSTCOPY.get_or_init(|| built("postcopy"));
    let Output { status, stdout, stderr } = Command::new(example).args(arguments).output().unwrap();
    let [text, errors] = [stdout, stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    Ended { status: status.code(), text, errors }
}

/// Runs the example, and expects it to end with `status` and one JSON document, which is returned.
fn document(status: i32, arguments: &[&str]) -> (Value, String) {
    let ended = run(&[&SMALL[..], &["--json", "-"], arguments].concat());
    assert_eq!(ended.status, Some(status), "{arguments:?}: {}", ended.errors);
    let document: Value = serde_json::from_str(&ended.text).unwrap();
    let verdict = if status == OK { "ok" } else { "failed" };
    assert_eq!(document["verdict"], verdict, "{document:#}");
    let wrong = document["wrong"].as_array().unwrap();
    assert_eq!(wrong.is_empty(), status == OK);
    for wrong in wrong {
        let line = format!("error: {}\n", wrong.as_str().unwrap());
        assert!(ended.errors.contains(&line), "{line}: {}", ended.errors);
    }
    assert_eq!(ended.errors.is_empty(), status == OK, "{}", ended.errors);
    (document, ended.errors)
}

/// Returns a number of a document, by its keys.
fn number(document: &Value, keys: [&str; 2]) -> u64 {
    let value = &document[keys[0]][keys[1]];
    value.as_u64().unwrap_or_else(|| panic!("{keys:?} is {value}, no number"))
}
