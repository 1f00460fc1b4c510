//! The example `guest`, as a user runs it: every workload in every format, and what it says of bad
//! options and bad traces.

#![cfg(all(feature = "std", not(any(loom, shuttle))))]

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guest/traces/true.lackey");

const OK: i32 = 0;
const FAILED: i32 = 1;
const BAD_INPUT: i32 = 2;

/// Builds the example and returns where it is.
///
/// Cargo builds an example whose unit tests it runs only as a test, so its binary is asked for here.
fn guest() -> &'static PathBuf {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--example", "guest", "--message-format", "json"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let messages = built.stdout.split(|byte| *byte == b'\n');
        let mut executables = messages
            .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from));
        executables.next_back().expect("cargo names the executable that it built")
    })
}

/// Runs the example with `input` on its standard input.
fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(guest())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Runs the example with `--json`, expects all to be well, and returns its document.
fn sound(arguments: &[&str], input: &[u8]) -> Value {
    let output = run(&[&["--json"], arguments].concat(), input);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(OK), "{arguments:?}: {errors}{text}");
    assert!(errors.is_empty(), "no progress bar without a terminal: {errors}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["verdict"], "ok");
    document
}

/// Expects the example to refuse its input, and returns what it says.
fn refused(arguments: &[&str], input: &[u8]) -> String {
    let output = run(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(BAD_INPUT), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(errors.starts_with("error: ") && !errors.contains("panicked"), "{errors}");
    errors
}

/// Runs `arguments` in every format, with both numbers of levels and with one vCPU and more, and
/// hands each document's only run to `check`.
fn everywhere(arguments: &[&str], check: impl Fn(&Value, u64)) {
    for format in ["ept", "npt", "long-mode"] {
        for levels in ["4", "5"] {
            for vcpus in [1, 3, 8] {
                let count = vcpus.to_string();
                let place = ["--format", format, "--levels", levels, "--vcpus", &count];
                let document = sound(&[arguments, &place].concat(), b"");
                let run = &document["runs"][0];
                assert_eq!(document["runs"].as_array().unwrap().len(), 1);
                assert_eq!(run["format"], format);
                assert_eq!(run["levels"].to_string(), levels);
                check_sums(run, vcpus);
                check(run, vcpus);
            }
        }
    }
}

/// Checks what holds of every run.
fn check_sums(run: &Value, vcpus: u64) {
    let lines = run["vcpus"].as_array().unwrap();
    assert_eq!(lines.len() as u64, vcpus);
    for field in ["accesses", "entries", "faults", "mapped", "lost", "away", "late", "stale"] {
        let sum: u64 = lines.iter().map(|line| number(&line[field])).sum();
        assert_eq!(sum, number(&run["total"][field]), "{field}");
    }
    let total = |field: &str| number(&run["total"][field]);
    let resolved = ["mapped", "lost", "away", "late"].into_iter().map(total).sum::<u64>();
    assert_eq!(total("faults"), resolved);
    assert!(total("entries") > total("faults"), "a fault ends a stay in the guest");
    assert_eq!(total("stale"), 0);
    for kind in ["resident", "accessed", "dirty"] {
        assert_eq!(run[kind]["entries"], run[kind]["workload"], "{kind}");
    }
    let resident = number(&run["resident"]["entries"]);
    if run["workload"] == "churn" {
        assert_eq!(total("mapped"), resident + number(&run["churn"]["unmapped"]));
        return;
    }
    assert_eq!(run.get("churn"), None);
    assert_eq!(total("mapped"), resident);
    assert_eq!((total("away"), total("late")), (0, 0), "memory stays where it is");
    assert_eq!(run["accessed"]["entries"], resident);
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn private_touches_never_lose_a_race() {
    everywhere(&["--workload", "touch", "--memory", "2M"], |run, _| {
        assert_eq!(run["guest_pages"], 512);
        assert_eq!(run["resident"]["entries"], 512);
        assert_eq!(run["dirty"]["entries"], 384, "every fourth page is only read");
        assert_eq!(run["total"]["faults"], 512);
        assert_eq!(run["total"]["lost"], 0);
        assert_eq!(run["table_frames"], run["levels"], "2 MiB are one table of each level");
    });
}

#[test]
fn shared_pages_add_up() {
    everywhere(&["--workload", "shared", "--memory", "4100K"], |run, vcpus| {
        assert_eq!(run["guest_pages"], 1025);
        assert_eq!(run["dirty"]["entries"], 1025);
        assert_eq!(number(&run["total"]["accesses"]), 1025 * vcpus);
        assert_eq!(number(&run["table_frames"]), 2 + number(&run["levels"]));
    });
}

#[test]
fn random_accesses_add_up() {
    everywhere(&["--workload", "random", "--memory", "1M", "--seconds", "0.05"], |run, _| {
        assert_eq!(run["guest_pages"], 256);
        assert!(run["seconds"].as_f64().unwrap() >= 0.05);
    });
}

#[test]
fn memory_that_comes_and_goes_is_all_there_in_the_end() {
    let churn = ["--workload", "churn", "--memory", "10000K", "--rounds", "30"];
    everywhere(&churn, |run, _| {
        assert_eq!(run["guest_pages"], 2500);
        let churned = &run["churn"];
        assert_eq!(churned["rounds"], 30);
        assert_eq!(churned["frames_handed_out"], churned["frames_given_back"]);
        assert_eq!(churned["tables_left"], 1, "the root");
        assert_eq!(churned["tables_waiting"], 0);
        assert_eq!(churned["stale"], 0);
        let shootdowns = number(&churned["shootdowns"]);
        let attempts = 30 + number(&churned["still_mapped"]) + number(&churned["busy"]);
        assert!((1..=attempts).contains(&shootdowns), "one each time that something was mapped");
    });
}

#[test]
fn churn_is_sound_whatever_the_seed() {
    for seed in 2..8 {
        let seed = seed.to_string();
        let document = sound(&["--workload", "churn", "--memory", "64M", "--seed", &seed], b"");
        assert_eq!(document["runs"][0]["churn"]["rounds"], 200, "by default");
    }
}

#[test]
fn a_flush_that_is_skipped_is_found_out_every_time() {
    for vcpus in ["1", "2", "8"] {
        for format in ["ept", "npt", "long-mode"] {
            let place = ["--format", format, "--vcpus", vcpus, "--memory", "16M"];
            let skip = ["--json", "--workload", "churn", "--rounds", "60", "--skip-flush"];
            let output = run(&[&skip[..], &place].concat(), b"");
            assert_eq!(output.status.code(), Some(FAILED), "{place:?}");
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(document["verdict"], "failed");
            let run = &document["runs"][0];
            assert_eq!(run["verdict"], "failed");
            assert!(number(&run["churn"]["stale"]) > 0, "{run:#}");
            assert_eq!(run["churn"]["stale"], run["total"]["stale"]);
            assert_eq!(run["churn"]["shootdowns"], 0);
            assert!(!run["wrong"].as_array().unwrap().is_empty());
        }
    }
}

#[test]
fn a_flush_can_be_skipped_only_where_there_is_one() {
    for arguments in [
        &["--skip-flush"][..],
        &["--skip-flush", "--workload", "touch"],
        &["--skip-flush", "--workload", "random"],
        &["--skip-flush", "--workload", "shared"],
        &["--skip-flush", "--trace", TRACE],
        &["--skip-flush", "--workload", "churn", "--trace", TRACE],
    ] {
        let errors = refused(arguments, b"");
        assert!(errors.contains("--skip-flush needs --workload churn"), "{errors}");
    }
}

#[test]
fn a_real_program_is_mapped_page_by_page() {
    let text = std::fs::read_to_string(TRACE).unwrap();
    let (mut accessed, mut dirty) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let (address, size) = line[3..].split_once(',').unwrap();
        let first = u64::from_str_radix(address, 16).unwrap();
        let last = first + size.parse::<u64>().unwrap() - 1;
        accessed.extend([first >> 12, last >> 12]);
        if matches!(&line[..2], " S" | " M") {
            dirty.extend([first >> 12, last >> 12]);
        }
    }
    everywhere(&["--trace", TRACE], |run, _| {
        assert_eq!(number(&run["accessed"]["entries"]), accessed.len() as u64);
        assert_eq!(number(&run["dirty"]["entries"]), dirty.len() as u64);
    });
}

#[test]
fn by_default_it_touches_memory_moves_it_and_replays_a_program() {
    let document = sound(&["--memory", "1M"], b"");
    let names: Vec<_> =
        document["runs"].as_array().unwrap().iter().map(|run| &run["workload"]).collect();
    assert_eq!(names, ["touch", "churn", "trace examples/guest/traces/true.lackey"]);
}

#[test]
fn a_workload_and_a_trace_run_one_after_the_other() {
    let document = sound(&["--workload", "shared", "--memory", "1M", "--trace", TRACE], b"");
    assert_eq!(document["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn tables_are_printed_without_json() {
    let output = run(&["--memory", "1M", "--vcpus", "2"], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(OK));
    assert!(text.starts_with("touch: 2 vCPUs, 256 pages, 4-level ept, "), "{text}");
    assert_eq!(text.matches("verdict: ok").count(), 3);
    for word in ["faults/s", "lost", "resident", "accessed", "dirty", "frames in tables"] {
        assert_eq!(text.matches(word).count(), 3, "{word}");
    }
    for word in ["no memory", "memory taken away", "shoot-downs", "kicks", "data frames given back"]
    {
        assert_eq!(text.matches(word).count(), 1, "{word}");
    }
}

#[test]
fn more_vcpus_than_pages_is_no_problem() {
    for workload in ["touch", "shared", "random", "churn"] {
        let few = ["--workload", workload, "--memory", "4096", "--seconds", "0.01"];
        sound(&[&few[..], &["--rounds", "5", "--vcpus", "40"]].concat(), b"");
    }
}

#[test]
fn a_trace_is_read_from_a_pipe_with_all_that_valgrind_says() {
    let text = b"==77== Lackey, an example Valgrind tool\n==77== Command: caf\xe9\n==77== \n\
        I  0401ab70,3\n S 1fff000ffc,8\n M 0483c5a0,4\n==77== \n==77== Counted 0 calls to main()\n\
        ==77== \n  total:         20,360\n";
    let document = sound(&["--trace", "-"], text);
    let run = &document["runs"][0];
    assert_eq!(run["workload"], "trace standard input");
    assert_eq!(run["resident"]["entries"], 4, "one access straddles two pages");
    assert_eq!(run["dirty"]["entries"], 3);
    assert_eq!(run["total"]["accesses"], 5, "a modification is a load and a store");
}

#[test]
fn the_ends_of_the_input_space_can_be_mapped() {
    let low = b" S 0,8\n S 7ffffffffff8,8\n";
    let high = b" S 0,8\n S fffffffffffffff8,8\n L ffff800000000000,8\n";
    sound(&["--trace", "-"], b" S fffffffffff8,8\n");
    sound(&["--trace", "-", "--levels", "5"], b" S 1fffffffffffff8,8\n");
    sound(&["--trace", "-", "--format", "long-mode"], low);
    sound(&["--trace", "-", "--format", "long-mode"], high);
}

#[test]
fn bad_options_are_refused() {
    for arguments in [
        &["--vcpus", "0"][..],
        &["--vcpus", "100000"],
        &["--memory", "0"],
        &["--memory", "4097"],
        &["--memory", "99999999999T"],
        &["--memory", "257T"],
        &["--memory", "200T"],
        &["--memory", "129T", "--format", "long-mode"],
        &["--seconds", "0"],
        &["--seconds", "-1"],
        &["--seconds", "NaN"],
        &["--rounds", "0"],
        &["--levels", "6"],
        &["--format", "sv39"],
        &["--workload", "idle"],
        &["--trace"],
        &["stray"],
    ] {
        refused(arguments, b"");
    }
    // Whatever the host's memory, what the format cannot reach is the reason.
    for arguments in [&["--memory", "257T"][..], &["--memory", "129T", "--format", "long-mode"]] {
        assert!(refused(arguments, b"").contains("cannot translate addresses so large"));
    }
}

#[test]
fn bad_traces_are_refused_with_file_and_line() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad.lackey");
    let name = path.to_str().unwrap();
    for (text, complaint) in [
        (&b""[..], "there is not a single memory access in it"),
        (b"==1== Lackey\n", "there is not a single memory access in it"),
        (
            b"I  1000,3\nnonsense\n",
            "line 2: expected an access such as ` S 1fff000778,8`, found `nonsense`",
        ),
        (
            b"I  1000,3\n X 1000,8\n",
            "line 2: expected an access such as ` S 1fff000778,8`, found ` X 1000,8`",
        ),
        (
            b"I  1000,3\n S 1000\n",
            "line 2: expected ADDRESS,SIZE after the kind of access, found `1000`",
        ),
        (b"I  1000,3\n S 10g0,8\n", "line 2: `10g0` is not a hexadecimal address"),
        (b"I  1000,3\n S 1000,0\n", "line 2: `0` is not a number of bytes from 1 to 4096"),
        (b"I  1000,3\n S 1000000000000,8\n", "line 2: 8 bytes at 0x1000000000000 lie beyond"),
        (b"\xff\xfe\x00", "line 1: expected an access"),
    ] {
        File::create(&path).unwrap().write_all(text).unwrap();
        let errors = refused(&["--trace", name], b"");
        let whole = format!("error: {name}: {complaint}");
        assert!(errors.starts_with(&whole), "expected `{whole}`, found `{errors}`");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    assert!(
        refused(&["--trace", "/nonexistent/file"], b"").contains("cannot open /nonexistent/file")
    );
    assert!(refused(&["--trace", env!("CARGO_MANIFEST_DIR")], b"").contains("cannot be read"));
}
