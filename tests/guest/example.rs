//! How the example is run, and what holds of each of its runs.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::built::built;

pub(crate) const TRACE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guest/traces/true.lackey");

pub(crate) const OK: i32 = 0;
pub(crate) const FAILED: i32 = 1;
pub(crate) const BAD_INPUT: i32 = 2;

/// Returns where the example is.
fn guest() -> &'static PathBuf {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| built("guest"))
}

/// What a run of the example left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) text: String,
    /// What it says of the backend that it chose itself, where there is no KVM.
    pub(crate) notes: Vec<String>,
    /// What else it says on standard error.
    pub(crate) errors: String,
}

/// Runs the example with `input` on its standard input.
pub(crate) fn run(arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = Command::new(guest())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    let lines = said.split_inclusive('\n').map(str::to_owned);
    let (notes, errors): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("note: "));
    if arguments.contains(&"--backend") {
        assert!(notes.is_empty(), "{arguments:?}: the backend was chosen: {notes:?}");
    }
    let (status, text) = (status.code(), String::from_utf8(stdout).unwrap());
    Ended { status, text, notes, errors: errors.concat() }
}

impl Ended {
    /// Returns the JSON document, which must be all that was printed and fit the exit status.
    pub(crate) fn document(&self) -> Value {
        assert!(self.errors.is_empty(), "no progress bar without a terminal: {}", self.errors);
        let document: Value = serde_json::from_str(&self.text).unwrap();
        let verdict = if self.status == Some(OK) { "ok" } else { "failed" };
        assert_eq!(document["verdict"], verdict, "{document:#}");
        document
    }
}

/// Runs the example with `--json`, expects all to be well, and returns its document.
pub(crate) fn sound(arguments: &[&str], input: &[u8]) -> Value {
    let ended = run(&[&["--json"], arguments].concat(), input);
    assert_eq!(ended.status, Some(OK), "{arguments:?}: {}{}", ended.errors, ended.text);
    let document = ended.document();
    for run in list(&document["runs"]) {
        assert_eq!(run["verdict"], "ok", "{arguments:?}");
        check(run);
    }
    document
}

/// The same, where one workload runs once; returns that run.
pub(crate) fn sound_run(arguments: &[&str], input: &[u8]) -> Value {
    let mut document = sound(arguments, input);
    assert_eq!(list(&document["comparisons"]).len(), 0);
    assert_eq!(list(&document["runs"]).len(), 1);
    document["runs"][0].take()
}

/// Runs `churn` or `migrate` without flushes, and expects that to be found out; returns the run.
pub(crate) fn found_out(workload: &str, arguments: &[&str]) -> Value {
    let skip = ["--json", "--workload", workload, "--skip-flush"];
    let ended = run(&[&skip, arguments].concat(), b"");
    assert_eq!(ended.status, Some(FAILED), "{workload} {arguments:?}: {}", ended.errors);
    let mut document = ended.document();
    assert_eq!(list(&document["runs"]).len(), 1);
    let run = document["runs"][0].take();
    assert_eq!(run["verdict"], "failed");
    assert!(!list(&run["wrong"]).is_empty(), "{workload} {arguments:?}: {run:#}");
    assert_eq!(run[workload]["stale"], run["total"]["stale"]);
    let mut wrong = list(&run["wrong"]).iter().filter_map(Value::as_str);
    // Writes to frames that their pages had left. They may be found in other pages, and make up for each
    // other in the sum of all.
    let is_lost = is_sum_wrong(&run) || wrong.any(|wrong| wrong.contains(" adds up to "));
    assert!(is_lost || workload == "churn", "{arguments:?}: {run:#}");
    run
}

/// Tells whether the words of all pages together are not what was written.
pub(crate) fn is_sum_wrong(run: &Value) -> bool {
    run["sums"]["entries"] != run["sums"]["workload"]
}

/// Tells whether vCPUs used stale translations; then the complaints must say so.
pub(crate) fn is_stale(run: &Value) -> bool {
    let mut wrong = list(&run["wrong"]).iter().filter_map(Value::as_str);
    let is_told = wrong.any(|wrong| wrong.contains(" used stale translations "));
    let is_stale = number(&run["total"]["stale"]) > 0;
    assert_eq!(is_told, is_stale, "{run:#}");
    is_stale
}

/// Says something that is to be seen also where all tests pass: what they print is not.
pub(crate) fn announce(text: &str) {
    // A message that nobody can read is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Expects the example to refuse its input, and returns what it says.
pub(crate) fn refused(arguments: &[&str], input: &[u8]) -> String {
    let Ended { status, text, errors, .. } = run(arguments, input);
    assert_eq!(status, Some(BAD_INPUT), "{arguments:?}: {errors}");
    assert!(text.is_empty(), "{arguments:?}: {text}");
    assert!(errors.starts_with("error: ") && !errors.contains("panicked"), "{errors}");
    errors
}

/// Checks what holds of every run that is sound.
fn check(run: &Value) {
    let lines = list(&run["vcpus"]);
    let fields = [
        "accesses",
        "entries",
        "faults",
        "mapped",
        "mapped_pages",
        "lost",
        "moving",
        "away",
        "stale",
    ];
    for field in fields {
        let sum: u64 = lines.iter().map(|line| number(&line[field])).sum();
        assert_eq!(sum, number(&run["total"][field]), "{field}");
    }
    let total = |field: &str| number(&run["total"][field]);
    let resolved = ["mapped", "lost", "moving", "away"].into_iter().map(total).sum::<u64>();
    assert_eq!(total("faults"), resolved);
    assert!(total("entries") > total("faults"), "a fault ends a stay in the guest");
    assert_eq!(total("stale"), 0);
    assert_eq!(list(&run["wrong"]).len(), 0);

    let pages = |kind: &str| {
        let Value::Object(pages) = &run[kind] else { panic!("{kind}: {:#}", run[kind]) };
        (number(&pages["entries"]), number(&pages["workload"]))
    };
    let (resident, expected) = pages("resident");
    assert_eq!(resident, expected);
    let (sums, written) = pages("sums");
    assert_eq!(sums, written);
    let is_resize = run["workload"] == "resize";
    let (is_churn, is_migrate) = (run["workload"] == "churn", run["workload"] == "migrate");
    let is_kvm = run["backend"] == "kvm";
    for kind in ["accessed", "dirty"] {
        let (found, expected) = pages(kind);
        // Where memory changes, KVM may set bits for an access that then comes too late.
        let is_exact = !is_kvm || !is_churn && !is_migrate && !is_resize;
        assert!(found == expected || !is_exact && found > expected, "{kind}: {found}, {expected}");
    }
    assert_eq!(run.get("churn").is_some(), is_churn || is_resize);
    assert_eq!(run.get("resize").is_some(), is_resize);
    assert_eq!(run.get("migrate").is_some(), is_migrate);
    assert_eq!(run.get("precopy").is_some(), run["workload"] == "precopy");
    assert_eq!(run.get("kvm").is_some(), is_kvm);
    if is_churn {
        assert_eq!(total("mapped_pages"), resident + number(&run["churn"]["unmapped"]));
    } else if is_resize {
        // The rest was mapped by managers.
        assert!(total("mapped_pages") <= resident + number(&run["churn"]["unmapped"]), "{run:#}");
    } else {
        // Where pages move, whoever comes first maps them again.
        let moved = ["copied", "unmapped_first"].map(|way| run["migrate"][way].as_u64());
        let again = moved.into_iter().flatten().sum::<u64>();
        assert!((resident..=resident + again).contains(&total("mapped_pages")), "{run:#}");
        assert_eq!(total("away"), 0, "no memory is taken away");
        assert_eq!(pages("accessed"), (resident, resident));
    }
    if !is_migrate {
        assert_eq!(total("moving"), 0);
    }
    check_levels(run, resident);
}

/// Checks the entries of each level that lead to the pages.
fn check_levels(run: &Value, resident: u64) {
    let levels = list(&run["levels"]);
    let count = number(&run["table_levels"]);
    let numbers: Vec<_> = levels.iter().map(|level| number(&level["level"])).collect();
    // Where memory was copied by small pages, some may have stayed small; and decoys are small.
    let large = match number(&run["page_size"]) {
        0x1000 => 1,
        0x20_0000 => 2,
        _ => 3,
    };
    let lowest = *numbers.last().unwrap();
    let has_small = run["workload"] == "precopy" || run["workload"] == "resize";
    assert!(lowest == large || lowest < large && has_small, "{numbers:?}");
    assert_eq!(numbers, Vec::from_iter((lowest..=count).rev()), "the root's first");
    if lowest < large {
        return;
    }
    for level in levels {
        let [entries, accessed, dirty] =
            ["entries", "accessed", "dirty"].map(|field| number(&level[field]));
        assert!(accessed <= entries && dirty <= accessed, "{level}");
        let is_leaf = level["level"] == large;
        assert!(is_leaf || dirty == 0, "only leaves have a dirty bit: {level}");
        if is_leaf {
            assert_eq!(entries * number(&run["page_size"]), resident * 4096, "{level}");
        }
    }
}

/// Checks what was done to memory that came and went.
pub(crate) fn check_churn(run: &Value, rounds: u64) {
    let churned = &run["churn"];
    let count = |field: &str| number(&churned[field]);
    assert_eq!(count("rounds"), rounds);
    assert_eq!(count("frames_handed_out"), count("frames_given_back"));
    assert_eq!(count("tables_waiting"), 0);
    assert_eq!(count("stale"), 0);
    assert!(count("unmapped") > 0, "else nothing was taken from anybody");
}

/// Checks what was done to memory that moved.
pub(crate) fn check_migrate(run: &Value, rounds: u64) {
    let migrated = &run["migrate"];
    let count = |field: &str| number(&migrated[field]);
    assert_eq!(count("rounds"), rounds);
    assert!(count("copied") > 0, "each manager begins so");
    assert!(count("unmapped_first") > 0, "and goes on so");
    assert_eq!(count("stale"), 0);
}

/// Checks what was done to large leaves, of which each region is one.
pub(crate) fn check_resize(run: &Value, rounds: u64) {
    check_churn(run, rounds);
    let count = |field: &str| number(&run["resize"][field]);
    assert_eq!(count("split"), rounds);
    assert!(count("dirty_pages") > 0, "else nothing was to be lost");
    assert_eq!((count("unmarked_pages"), count("wrong_words")), (0, 0));
}

/// Runs `resize` without flushes, and expects that to be found out; returns the run.
pub(crate) fn found_out_in_resize(arguments: &[&str]) -> Value {
    let skip = ["--json", "--workload", "resize", "--page-size", "2M", "--skip-flush"];
    let ended = run(&[&skip, arguments].concat(), b"");
    assert_eq!(ended.status, Some(FAILED), "{arguments:?}: {}", ended.errors);
    let run = ended.document()["runs"][0].take();
    assert_eq!(run["verdict"], "failed");
    assert!(!list(&run["wrong"]).is_empty(), "{arguments:?}: {run:#}");
    run
}

/// Checks what was done to copy memory that was written meanwhile, in so many rounds at most.
pub(crate) fn check_precopy(run: &Value, most_rounds: u64) {
    let copied = &run["precopy"];
    let count = |field: &str| number(&copied[field]);
    assert_eq!((count("wrong_pages"), count("wrong_bytes")), (0, 0));
    let rounds = list(&copied["rounds"]);
    assert!((2..=1 + most_rounds).contains(&(rounds.len() as u64)), "{}", rounds.len());
    let pages = number(&run["guest_pages"]);
    for (number_of, round) in rounds.iter().enumerate() {
        let [dirty, bytes] = ["dirty_pages", "copied_bytes"].map(|field| number(&round[field]));
        assert!(bytes == dirty * 4096 || number_of == 0 && bytes > dirty * 4096 || bytes == 0);
        assert!(dirty <= number(&run["resident"]["entries"]));
        let density = list(&round["density"]);
        assert!(!density.is_empty() && density.len() as u64 <= 64.max(pages), "{density:?}");
        let shares = density.iter().map(|share| share.as_f64().unwrap());
        assert!(shares.clone().all(|share| (0.0..=1.0).contains(&share)));
        assert_eq!(shares.clone().any(|share| share > 0.0), dirty > 0);
    }
    let is_large = run["page_size"] != 4096;
    assert_eq!(count("split") > 0, is_large);
    assert_eq!(count("collapsed") > 0, is_large);
}

/// Runs `precopy` without flushes, and expects bytes of the copy to be wrong; returns the run.
pub(crate) fn found_out_in_copy(arguments: &[&str]) -> Value {
    let skip = ["--json", "--workload", "precopy", "--skip-flush", "--seconds", "0.1"];
    let ended = run(&[&skip, arguments].concat(), b"");
    assert_eq!(ended.status, Some(FAILED), "{arguments:?}: {}", ended.errors);
    let run = ended.document()["runs"][0].take();
    let [pages, bytes] = ["wrong_pages", "wrong_bytes"].map(|field| number(&run["precopy"][field]));
    assert!(pages > 0 && bytes >= pages, "{arguments:?}: {pages}, {bytes}");
    let mut wrong = list(&run["wrong"]).iter().filter_map(Value::as_str);
    assert!(wrong.any(|wrong| wrong.contains(" bytes of the copy of ")), "{run:#}");
    assert!(!is_sum_wrong(&run), "memory itself is as it was written");
    run
}

/// Returns how many pages the trace of /bin/true uses, and to how many of them it writes.
pub(crate) fn pages_of_true() -> (usize, usize) {
    let (mut accessed, mut dirty) = (BTreeSet::new(), BTreeSet::new());
    for line in fs::read_to_string(TRACE).unwrap().lines() {
        let (address, size) = line[3..].split_once(',').unwrap();
        let first = u64::from_str_radix(address, 16).unwrap();
        let last = first + size.parse::<u64>().unwrap() - 1;
        accessed.extend([first >> 12, last >> 12]);
        if matches!(&line[..2], " S" | " M") {
            dirty.extend([first >> 12, last >> 12]);
        }
    }
    (accessed.len(), dirty.len())
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}
