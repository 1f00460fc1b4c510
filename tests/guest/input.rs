//! What the example says of bad options and bad traces.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use crate::example::{BAD_INPUT, FAILED, TRACE, list, refused, run, sound_run};

#[test]
fn a_trace_is_read_from_a_pipe_with_all_that_valgrind_says() {
    let text = b"==77== Lackey, an example Valgrind tool\n==77== Command: caf\xe9\n==77== \n\
        I  0401ab70,3\n S 1fff000ffc,8\n M 0483c5a0,4\n==77== \n==77== Counted 0 calls to main()\n\
        ==77== \n  total:         20,360\n";
    let run = sound_run(&["--trace", "-"], text);
    assert_eq!(run["workload"], "trace standard input");
    assert_eq!(run["resident"]["entries"], 4, "one access straddles two pages");
    assert_eq!(run["dirty"]["entries"], 3);
    assert_eq!(run["total"]["accesses"], 5, "a modification is a load and a store");
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
        &["--skip-flush", "--workload", "migrate", "--trace", TRACE],
        &["--skip-flush", "--workload", "precopy", "--trace", TRACE],
    ] {
        let errors = refused(arguments, b"");
        assert!(
            errors.contains("--skip-flush needs --workload churn, migrate, resize or precopy"),
            "{errors}"
        );
    }
}

/// Whether there is KVM or not: what was asked for is impossible.
#[test]
fn kvm_is_refused_for_tables_that_its_guests_cannot_walk() {
    for backend in ["kvm", "both"] {
        for table in [
            &["--format", "ept"][..],
            &["--format", "npt"],
            &["--levels", "5"],
            &["--format", "long-mode", "--levels", "5"],
        ] {
            let errors = refused(&[&["--backend", backend], table].concat(), b"");
            let reason = "--backend kvm needs --format long-mode and --levels 4";
            assert!(errors.contains(reason), "{table:?}: {errors}");
        }
    }
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
        &["--copy-rounds", "0"],
        &["--few", "-1"],
        &["--page-size", "8K"],
        &["--page-size", "1G"],
        &["--page-size", "1G", "--workload", "churn"],
        &["--levels", "6"],
        &["--format", "sv39"],
        &["--workload", "idle"],
        &["--backend", "xen"],
        &["--trace"],
        &["stray"],
    ] {
        refused(arguments, b"");
    }
    // Whatever the host's memory, what the format cannot reach is the reason.
    for arguments in [
        &["--memory", "257T"][..],
        &["--memory", "257T", "--backend", "soft"],
        &["--memory", "129T", "--format", "long-mode"],
    ] {
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

#[test]
fn a_picture_is_written_to_a_file_or_refused_before_anything_runs() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("precopy.svg");
    let name = path.to_str().unwrap();
    let precopy = ["--backend", "soft", "--workload", "precopy", "--memory", "1M"];
    let short = ["--seconds", "0.02", "--svg", name];
    let run = sound_run(&[&precopy[..], &short].concat(), b"");
    let picture = fs::read_to_string(&path).unwrap();
    let rounds = list(&run["precopy"]["rounds"]);
    let cells: usize = rounds.iter().map(|round| list(&round["density"]).len()).sum();
    assert_eq!(picture.matches("<rect ").count(), cells);
    assert!(picture.contains("precopy on soft: 4 vCPUs, 256 pages"), "{picture}");

    let errors = refused(&[&precopy[..], &["--svg", "/nonexistent/picture.svg"]].concat(), b"");
    assert!(errors.contains("--svg: cannot write /nonexistent/picture.svg"), "{errors}");
    let errors = refused(&["--workload", "touch", "--svg", name], b"");
    assert!(errors.contains("--svg needs --workload precopy"), "{errors}");
}

#[test]
fn what_a_guest_on_kvm_cannot_have_is_refused() {
    for trace in [&b" S ffff800000001000,8\n"[..], b" L 400000000000,8\n"] {
        let output = run(&["--backend", "kvm", "--trace", "-"], trace);
        let errors = &output.errors;
        match output.status {
            Some(BAD_INPUT) => assert!(errors.contains("--backend soft"), "{errors}"),
            status => {
                assert_eq!(status, Some(FAILED), "{errors}");
                println!("skipped: what_a_guest_on_kvm_cannot_have_is_refused: {errors}");
            }
        }
        assert!(output.text.is_empty());
    }
}
